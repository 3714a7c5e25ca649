//! A page of referrers: chosen from the index alone, divided into pieces, and kept while it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_storage::Digest;
use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{AT_ONCE, BETWEEN, Listed, PIECE_BYTES, ROWS, ReferrersQuery};

/// What a piece takes besides its text, about; a page twice as much.
const REST_BYTES: usize = 256;
/// The share of the memory that is for pages without their texts: one in so many.
const PAGES: u64 = 8;

/// What is on a page. Its text is kept apart from it, piece by piece: whoever reads a page slowly holds no more of
/// it than a piece.
#[derive(Debug)]
pub(super) struct Page {
    /// No other page of this process has it.
    id: u64,
    pub(super) key: Key,
    /// The digest to go on after, if there are more.
    pub(super) next: Option<String>,
    pub(super) pieces: Vec<Piece>,
}

/// What a page is of. Two that are alike are the same page: neither number comes again once the list was another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) repository_id: i64,
    pub(super) query: ReferrersQuery,
    /// What the list is at; `None` if nothing names the subject itself.
    pub(super) version: Option<i64>,
    /// The manifest under the fallback tag.
    pub(super) tagged: Option<Digest>,
}

/// What is read at a time: some referrers, at least one.
#[derive(Debug)]
pub(super) struct Piece {
    /// How long their descriptors are, with a comma each.
    pub(super) size_bytes: u64,
    count: usize,
    /// They are those behind the digest `after` up to `to`.
    pub(super) after: String,
    pub(super) to: String,
    /// Those whose descriptor is known already, with it.
    pub(super) known: Vec<(String, String)>,
}

impl Piece {
    fn after(last: &str) -> Self {
        Self { size_bytes: 0, count: 0, after: last.to_owned(), to: String::new(), known: Vec::new() }
    }

    fn known_bytes(&self) -> u64 {
        let bytes =
            |(digest, text): &(String, String)| digest.len() + text.len() + size_of::<(String, String)>();
        self.known.iter().map(|known| bytes(known) as u64).sum()
    }
}

impl Page {
    /// What it has in memory at a time while it is read.
    pub(super) fn memory_bytes(&self) -> u64 {
        let largest = self.pieces.iter().map(|piece| piece.size_bytes).max().unwrap_or_default();
        largest + self.pieces.iter().map(Piece::known_bytes).sum::<u64>()
    }

    /// What it takes, with its key.
    fn weight(&self) -> u32 {
        let known: u64 = self.pieces.iter().map(Piece::known_bytes).sum();
        let query = &self.key.query;
        let types: usize = query.artifact_types.iter().map(|kind| kind.len() + size_of::<String>()).sum();
        let rest = REST_BYTES * (2 + self.pieces.len()) + 2 * (types + query.last.len());
        u32::try_from(known + rest as u64).unwrap_or(u32::MAX)
    }
}

/// Pages that were asked for before, and what was read of them.
#[derive(Debug, Clone)]
pub(in super::super) struct Kept {
    pages: Cache<Key, Arc<Page>>,
    /// By the page and the place of the piece on it.
    texts: Cache<(u64, usize), Bytes>,
    next_id: Arc<AtomicU64>,
}

impl Kept {
    /// None yet, and never more than so many bytes of them.
    pub(in super::super) fn new(most_bytes: u64) -> Self {
        let pages = Cache::builder().weigher(|_: &Key, page: &Arc<Page>| page.weight());
        let texts = Cache::builder().weigher(|_: &(u64, usize), text: &Bytes| {
            u32::try_from(text.len() + REST_BYTES).unwrap_or(u32::MAX)
        });
        Self {
            pages: pages.max_capacity(most_bytes / PAGES).eviction_policy(EvictionPolicy::lru()).build(),
            texts: texts
                .max_capacity(most_bytes - most_bytes / PAGES)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            next_id: Arc::default(),
        }
    }

    pub(super) fn page(&self, key: &Key) -> Option<Arc<Page>> {
        self.pages.get(key)
    }

    pub(super) fn keep(&self, key: Key, plan: Plan) -> Arc<Page> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let page = Arc::new(Page { id, key: key.clone(), next: plan.next, pieces: plan.pieces });
        self.pages.insert(key, Arc::clone(&page));
        // What is too much goes now and not some time later.
        self.pages.run_pending_tasks();
        page
    }

    /// What was read of a piece.
    pub(super) fn text(&self, page: &Page, at: usize) -> Option<Bytes> {
        self.texts.get(&(page.id, at))
    }

    pub(super) fn keep_text(&self, page: &Page, at: usize, text: Bytes) {
        self.texts.insert((page.id, at), text);
        self.texts.run_pending_tasks();
    }
}

/// A page in the making.
pub(super) struct Plan {
    page_bytes: u64,
    total_bytes: u64,
    count: usize,
    pieces: Vec<Piece>,
    /// The last referrer on it, or before it.
    pub(super) last: String,
    /// The digest to go on after, once the page is full.
    next: Option<String>,
}

impl Plan {
    pub(super) fn after(last: &str, page_bytes: u64) -> Self {
        let (pieces, last) = (Vec::new(), last.to_owned());
        Self { page_bytes, total_bytes: 0, count: 0, pieces, last, next: None }
    }

    pub(super) fn is_full(&self) -> bool {
        self.next.is_some()
    }

    /// Adds the next referrer by digest, if there is room for it or it is the first.
    pub(super) fn add(&mut self, listed: Listed) {
        let size_bytes = listed.size_bytes + BETWEEN;
        let is_full = self.total_bytes + size_bytes > self.page_bytes || self.count == ROWS;
        if self.next.is_some() || (is_full && self.count > 0) {
            self.next.get_or_insert_with(|| self.last.clone());
            return;
        }
        let has_room =
            |piece: &&mut Piece| piece.count < AT_ONCE && piece.size_bytes + size_bytes <= PIECE_BYTES;
        let piece = match self.pieces.last_mut().filter(has_room) {
            Some(piece) => piece,
            None => self.pieces.push_mut(Piece::after(&self.last)),
        };
        piece.size_bytes += size_bytes;
        piece.count += 1;
        piece.to.clone_from(&listed.digest);
        piece.known.extend(listed.text.map(|text| (listed.digest.clone(), text)));
        self.total_bytes += size_bytes;
        self.count += 1;
        self.last = listed.digest;
    }
}
