//! Referrers: what names a manifest as its subject, in pages measured in bytes.
//!
//! What older clients listed under the fallback tag of a subject is part of the answer, as the spec
//! demands of a registry that has the API.

use std::collections::HashSet;
use std::vec;

use berth_auth::Pull;
use berth_storage::Digest;
use tokio::task::yield_now;

use super::{Permit, Registry, RegistryError};
use crate::db::{LIST, manifests, referrers, repositories};
use crate::oci::{Tag, manifest};

type Result<T> = std::result::Result<T, RegistryError>;

/// Rows one page has at most: more small descriptors than fit its bytes.
const ROWS: usize = 20_000;
/// Rows that are read in one go, before others have their turn.
const AT_ONCE: usize = 500;
/// Bytes of a page that are in memory at a time, unless a single descriptor is larger.
const PIECE_BYTES: u64 = 128 * 1024;
/// Bytes around a descriptor in the answer: a comma.
const BETWEEN: u64 = 1;

/// Which referrers.
#[derive(Debug, Clone)]
pub struct ReferrersQuery {
    /// Of which manifest.
    pub subject: Digest,
    /// Of one of these types, unless empty.
    pub artifact_types: Vec<String>,
    /// After this digest; empty for the first page.
    pub last: String,
}

/// Some referrers, by digest, whose descriptors are read piece by piece.
#[derive(Debug, Default)]
pub struct ReferrersPage {
    /// The digest to go on after, if there are more.
    pub next: Option<String>,
    /// What it has in memory at a time while it is read.
    pub memory_bytes: u64,
    repository_id: i64,
    pieces: vec::IntoIter<Piece>,
    /// Whether a descriptor has been read.
    is_begun: bool,
}

/// What is read at a time: some referrers, at least one.
#[derive(Debug)]
struct Piece {
    /// How long their descriptors are, with a comma each.
    size_bytes: u64,
    count: usize,
    /// They are those behind the digest `after` up to `to`.
    after: String,
    to: String,
    /// Those whose descriptor is known already, with it.
    known: Vec<(String, String)>,
}

impl Piece {
    fn after(last: &str) -> Self {
        Self { size_bytes: 0, count: 0, after: last.to_owned(), to: String::new(), known: Vec::new() }
    }
}

/// A referrer: its digest, the size of its descriptor, and the descriptor where it is known already.
#[derive(Debug)]
struct Listed {
    digest: String,
    size_bytes: u64,
    text: Option<String>,
}

impl Registry {
    /// The referrers of a manifest, which itself need not be there, as many as a page holds.
    pub async fn find_referrers(
        &self,
        permit: &Permit<Pull>,
        query: &ReferrersQuery,
    ) -> Result<ReferrersPage> {
        let Some(repository_id) = repositories::find(&self.db, permit.resource()).await? else {
            return Ok(ReferrersPage::default());
        };
        let mut plan = Plan::after(&query.last, self.settings.referrers_page_bytes);
        let mut tagged = self.tagged(repository_id, query).await?.into_iter().peekable();
        loop {
            let (entries, is_end) = self.entries(repository_id, query, &plan.last).await?;
            for referrers::Entry { digest, descriptor_bytes } in entries {
                while let Some(earlier) = tagged.next_if(|tagged| tagged.digest < digest) {
                    plan.add(earlier);
                }
                // It has come since the tag was looked at, and has its own word.
                tagged.next_if(|tagged| tagged.digest == digest);
                plan.add(Listed { digest, size_bytes: descriptor_bytes, text: None });
            }
            if is_end || plan.next.is_some() {
                break;
            }
            yield_now().await;
        }
        tagged.for_each(|tagged| plan.add(tagged));
        Ok(plan.page(repository_id))
    }

    /// Some of those that name the subject themselves, after a digest and by theirs, and whether there are no
    /// more.
    async fn entries(
        &self,
        repository_id: i64,
        query: &ReferrersQuery,
        last: &str,
    ) -> Result<(Vec<referrers::Entry>, bool)> {
        let (db, subject) = (&self.db, &query.subject);
        if query.artifact_types.is_empty() {
            let some = referrers::entries(db, repository_id, subject, last, AT_ONCE).await?;
            let is_end = some.len() < AT_ONCE;
            return Ok((some, is_end));
        }
        let mut all = Vec::new();
        for kind in query.storable_types() {
            all.extend(self.entries_of_type(repository_id, query, kind).await?);
        }
        all.sort_unstable();
        Ok((all, true))
    }

    /// Those of one type: more than a page holds, if there are more.
    async fn entries_of_type(
        &self,
        repository_id: i64,
        query: &ReferrersQuery,
        kind: &str,
    ) -> Result<Vec<referrers::Entry>> {
        let (db, subject) = (&self.db, &query.subject);
        let (mut listed, mut total) = (Vec::new(), 0);
        loop {
            let last = listed.last().map_or(query.last.as_str(), |last: &referrers::Entry| &last.digest);
            let some = referrers::entries_of_type(db, repository_id, subject, kind, last, AT_ONCE).await?;
            let is_end = some.len() < AT_ONCE;
            total += some.iter().map(|entry| entry.descriptor_bytes + BETWEEN).sum::<u64>();
            listed.extend(some);
            if is_end || total > self.settings.referrers_page_bytes || listed.len() > ROWS {
                return Ok(listed);
            }
            yield_now().await;
        }
    }

    /// Those that stand under the fallback tag alone, by digest.
    async fn tagged(&self, repository_id: i64, query: &ReferrersQuery) -> Result<Vec<Listed>> {
        let tag = Tag::fallback_for(&query.subject);
        let Some(content) = manifests::tagged(&self.db, repository_id, &tag).await? else {
            return Ok(Vec::new());
        };
        // Anyone may give a tag this name; what is no index lists nothing.
        let Ok(listed) = manifest::index_descriptors(&content) else { return Ok(Vec::new()) };
        let wanted = |artifact_type: Option<&str>| {
            query.artifact_types.is_empty()
                || artifact_type.is_some_and(|kind| query.artifact_types.iter().any(|wanted| wanted == kind))
        };
        let digests: Vec<&Digest> = listed.iter().map(|entry| &entry.digest).collect();
        let mut known = HashSet::new();
        for list in digests.chunks(LIST) {
            known.extend(referrers::known(&self.db, repository_id, &query.subject, list).await?);
        }
        let mut tagged = Vec::new();
        for entry in listed {
            let text = entry.raw.get();
            // One that names the subject itself is listed by its own row, with its own annotations.
            let listed_already = known.contains(&(entry.digest.to_string(),));
            if entry.digest.as_str() > query.last.as_str()
                && wanted(entry.artifact_type.as_deref())
                && !listed_already
            {
                let (digest, size_bytes) = (entry.digest.to_string(), text.len() as u64);
                tagged.push(Listed { digest, size_bytes, text: Some(text.to_owned()) });
            }
        }
        // Of two with one digest the first stays.
        tagged.sort_by(|one, other| one.digest.cmp(&other.digest));
        tagged.dedup_by(|later, first| later.digest == first.digest);
        Ok(tagged)
    }

    /// Appends descriptors of a page that have not been read: JSON objects with commas between them, and
    /// one before them if others were read before. The answer is whether there are more.
    pub async fn read_referrers(
        &self,
        query: &ReferrersQuery,
        page: &mut ReferrersPage,
        out: &mut String,
    ) -> Result<bool> {
        let Some(Piece { size_bytes, after, to, known, .. }) = page.pieces.next() else { return Ok(false) };
        let mut texts = self.descriptors(page.repository_id, query, &after, &to).await?;
        if !known.is_empty() {
            // One that names the subject itself by now comes first, and stays.
            texts.extend(known);
            texts.sort_by(|(one, _), (other, _)| one.cmp(other));
            texts.dedup_by(|(later, _), (first, _)| later == first);
        }
        out.reserve(usize::try_from(size_bytes).unwrap_or_default());
        for (_, text) in texts {
            if page.is_begun {
                out.push(',');
            }
            out.push_str(&text);
            page.is_begun = true;
        }
        Ok(page.pieces.len() > 0)
    }

    /// The descriptors after `last` up to `to`, with their digests and by them.
    async fn descriptors(
        &self,
        repository_id: i64,
        query: &ReferrersQuery,
        last: &str,
        to: &str,
    ) -> Result<Vec<(String, String)>> {
        let subject = &query.subject;
        if query.artifact_types.is_empty() {
            return Ok(referrers::descriptors(&self.db, repository_id, subject, last, to).await?);
        }
        let mut texts = Vec::new();
        for kind in query.storable_types() {
            let more = referrers::descriptors_of_type(&self.db, repository_id, subject, kind, last, to);
            texts.extend(more.await?);
        }
        texts.sort_unstable();
        Ok(texts)
    }
}

/// A page in the making.
struct Plan {
    page_bytes: u64,
    total_bytes: u64,
    count: usize,
    pieces: Vec<Piece>,
    /// The last referrer on it, or before it.
    last: String,
    /// The digest to go on after, once the page is full.
    next: Option<String>,
}

impl Plan {
    fn after(last: &str, page_bytes: u64) -> Self {
        let (pieces, last) = (Vec::new(), last.to_owned());
        Self { page_bytes, total_bytes: 0, count: 0, pieces, last, next: None }
    }

    /// Adds the next referrer by digest, if there is room for it or it is the first.
    fn add(&mut self, listed: Listed) {
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

    fn page(self, repository_id: i64) -> ReferrersPage {
        let known = self.pieces.iter().flat_map(|piece| &piece.known).map(|(_, text)| text.len() as u64);
        let largest = self.pieces.iter().map(|piece| piece.size_bytes).max().unwrap_or_default();
        ReferrersPage {
            next: self.next,
            memory_bytes: known.sum::<u64>() + largest,
            repository_id,
            pieces: self.pieces.into_iter(),
            is_begun: false,
        }
    }
}

impl ReferrersQuery {
    /// No manifest has a type with a NUL in it, and PostgreSQL no text.
    fn storable_types(&self) -> impl Iterator<Item = &str> {
        self.artifact_types.iter().map(String::as_str).filter(|kind| !kind.contains('\0'))
    }
}
