//! Referrers: what names a manifest as its subject, in pages measured in bytes.
//!
//! What older clients listed under the fallback tag of a subject is part of the answer, as the spec
//! demands of a registry that has the API.

mod page;

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;

use berth_auth::Pull;
use berth_storage::Digest;
use bytes::Bytes;
use tokio::task::yield_now;

use self::page::{Key, Page, Piece, Plan};
use super::{Permit, Registry, RegistryError};
use crate::db::{LIST, manifests, referrers, repositories, tags};
use crate::oci::{Tag, manifest};

pub(super) use self::page::Kept;

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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// `None` of a repository that is not there.
    page: Option<Arc<Page>>,
    /// The piece that is read next.
    at: usize,
    /// Whether a descriptor has been read.
    is_begun: bool,
}

impl ReferrersPage {
    /// The digest to go on after, if there are more.
    pub fn next(&self) -> Option<&str> {
        self.page.as_ref()?.next.as_deref()
    }

    /// What it has in memory at a time while it is read.
    pub fn memory_bytes(&self) -> u64 {
        self.page.as_ref().map_or(0, |page| page.memory_bytes())
    }

    /// Whether all of it has been read.
    pub fn is_over(&self) -> bool {
        self.page.as_ref().is_none_or(|page| self.at == page.pieces.len())
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
        // Looked at before anything else: a page may show more than they promise, and never less.
        let version = referrers::version(&self.db, repository_id, &query.subject).await?;
        let tagged = self.fallback(repository_id, &query.subject).await?;
        let key = Key { repository_id, query: query.clone(), version, tagged };
        let page = match self.kept.page(&key) {
            Some(page) => page,
            None => self.make_page(key).await?,
        };
        Ok(ReferrersPage { page: Some(page), at: 0, is_begun: false })
    }

    /// What the fallback tag of a subject points at.
    async fn fallback(&self, repository_id: i64, subject: &Digest) -> Result<Option<Digest>> {
        Ok(tags::find(&self.db, repository_id, &Tag::fallback_for(subject)).await?)
    }

    async fn make_page(&self, mut key: Key) -> Result<Arc<Page>> {
        let mut content = None;
        while let Some(digest) = &key.tagged {
            content = manifests::content(&self.db, key.repository_id, digest).await?;
            if content.is_some() {
                break;
            }
            // Deleted since: the tag has gone with it, or was moved before.
            key.tagged = self.fallback(key.repository_id, &key.query.subject).await?;
        }
        let mut tagged = self.tagged(&key, &content.unwrap_or_default()).await?.into_iter().peekable();
        let Key { repository_id, query, version, .. } = &key;
        let mut plan = Plan::after(&query.last, self.settings.referrers_page_bytes);
        while version.is_some() && !plan.is_full() {
            let (entries, is_end) = self.entries(*repository_id, query, &plan.last).await?;
            for referrers::Entry { digest, descriptor_bytes } in entries {
                while let Some(earlier) = tagged.next_if(|tagged| tagged.digest < digest) {
                    plan.add(earlier);
                }
                // It has come since the tag was looked at, and has its own word.
                tagged.next_if(|tagged| tagged.digest == digest);
                plan.add(Listed { digest, size_bytes: descriptor_bytes, text: None });
            }
            if is_end {
                break;
            }
            yield_now().await;
        }
        tagged.for_each(|tagged| plan.add(tagged));
        Ok(self.kept.keep(key, plan))
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

    /// Those that stand in the manifest under the fallback tag alone, by digest.
    async fn tagged(&self, key: &Key, content: &[u8]) -> Result<Vec<Listed>> {
        let Key { repository_id, query, version, .. } = key;
        // Anyone may give a tag this name; what is no index lists nothing.
        let Ok(listed) = manifest::index_descriptors(content) else { return Ok(Vec::new()) };
        let wanted = |artifact_type: Option<&str>| {
            query.artifact_types.is_empty()
                || artifact_type.is_some_and(|kind| query.artifact_types.iter().any(|wanted| wanted == kind))
        };
        let digests: Vec<&Digest> = listed.iter().map(|entry| &entry.digest).collect();
        let mut known = HashSet::new();
        for list in digests.chunks(LIST).take_while(|_| version.is_some()) {
            known.extend(referrers::known(&self.db, *repository_id, &query.subject, list).await?);
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

    /// Descriptors of a page that have not been read: JSON objects with commas between them, and one before them
    /// if others were read before. `None` once there are no more.
    pub async fn read_referrers(&self, read: &mut ReferrersPage) -> Result<Option<Bytes>> {
        let Some(page) = &read.page else { return Ok(None) };
        while let Some(piece) = page.pieces.get(read.at) {
            let text = if let Some(text) = self.kept.text(page, read.at) {
                text
            } else {
                let text = self.read_piece(&page.key, piece).await?;
                self.kept.keep_text(page, read.at, text.clone());
                text
            };
            read.at += 1;
            // All of a piece may have gone since the page was made.
            if !text.is_empty() {
                let comma = usize::from(!mem::replace(&mut read.is_begun, true));
                return Ok(Some(text.slice(comma..)));
            }
        }
        Ok(None)
    }

    /// The descriptors of a piece, with a comma before each.
    async fn read_piece(&self, key: &Key, piece: &Piece) -> Result<Bytes> {
        let Piece { size_bytes, after, to, known, .. } = piece;
        let mut texts = match key.version {
            Some(_) => self.descriptors(key.repository_id, &key.query, after, to).await?,
            None => Vec::new(),
        };
        if !known.is_empty() {
            // One that names the subject itself by now comes first, and stays.
            texts.extend(known.iter().cloned());
            texts.sort_by(|(one, _), (other, _)| one.cmp(other));
            texts.dedup_by(|(later, _), (first, _)| later == first);
        }
        let mut text = String::with_capacity(usize::try_from(*size_bytes).unwrap_or_default());
        for (_, descriptor) in texts {
            text.push(',');
            text.push_str(&descriptor);
        }
        // No more memory than its text, however much of the piece has gone.
        Ok(text.into_bytes().into_boxed_slice().into())
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

impl ReferrersQuery {
    /// No manifest has a type with a NUL in it, and PostgreSQL no text.
    fn storable_types(&self) -> impl Iterator<Item = &str> {
        self.artifact_types.iter().map(String::as_str).filter(|kind| !kind.contains('\0'))
    }
}
