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

/// A referrer that may be on the page: its size, and its text where it is known already.
#[derive(Debug)]
struct Candidate {
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
        let mut candidates = self.listed(repository_id, query).await?;
        candidates.extend(self.fallback(repository_id, query).await?);
        // Of two with one digest the first stays.
        candidates.sort_by(|one, other| one.digest.cmp(&other.digest));
        candidates.dedup_by(|later, first| later.digest == first.digest);
        let next = self.cut(&mut candidates);
        let pieces = pieces(query, candidates);
        let known = pieces.iter().flat_map(|piece| &piece.known).map(|(_, text)| text.len() as u64);
        let largest = pieces.iter().map(|piece| piece.size_bytes).max().unwrap_or_default();
        let memory_bytes = known.sum::<u64>() + largest;
        let pieces = pieces.into_iter();
        Ok(ReferrersPage { next, memory_bytes, repository_id, pieces, is_begun: false })
    }

    /// Those that name the subject themselves.
    async fn listed(&self, repository_id: i64, query: &ReferrersQuery) -> Result<Vec<Candidate>> {
        if query.artifact_types.is_empty() {
            return self.entries(repository_id, query, None).await;
        }
        let mut listed = Vec::new();
        for kind in query.storable_types() {
            listed.extend(self.entries(repository_id, query, Some(kind)).await?);
        }
        Ok(listed)
    }

    /// Those of one type, or of any: more than a page holds, if there are more.
    async fn entries(
        &self,
        repository_id: i64,
        query: &ReferrersQuery,
        kind: Option<&str>,
    ) -> Result<Vec<Candidate>> {
        let (db, subject) = (&self.db, &query.subject);
        let (mut listed, mut total) = (Vec::new(), 0);
        let mut last = query.last.clone();
        loop {
            let some = match kind {
                None => referrers::entries(db, repository_id, subject, &last, AT_ONCE).await?,
                Some(kind) => {
                    referrers::entries_of_type(db, repository_id, subject, kind, &last, AT_ONCE).await?
                }
            };
            let is_end = some.len() < AT_ONCE;
            total += some.iter().map(|entry| entry.descriptor_bytes + BETWEEN).sum::<u64>();
            if let Some(entry) = some.last() {
                last.clone_from(&entry.digest);
            }
            listed.extend(some.into_iter().map(|entry| Candidate {
                digest: entry.digest,
                size_bytes: entry.descriptor_bytes,
                text: None,
            }));
            if is_end || total > self.settings.referrers_page_bytes || listed.len() > ROWS {
                return Ok(listed);
            }
            yield_now().await;
        }
    }

    /// Those that stand under the fallback tag alone.
    async fn fallback(&self, repository_id: i64, query: &ReferrersQuery) -> Result<Vec<Candidate>> {
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
        let mut candidates = Vec::new();
        for entry in listed {
            let text = entry.raw.get();
            // One that names the subject itself is listed by its own row, with its own annotations.
            let listed_already = known.contains(&(entry.digest.to_string(),));
            if entry.digest.as_str() > query.last.as_str()
                && wanted(entry.artifact_type.as_deref())
                && !listed_already
            {
                let (digest, size_bytes) = (entry.digest.to_string(), text.len() as u64);
                candidates.push(Candidate { digest, size_bytes, text: Some(text.to_owned()) });
            }
        }
        Ok(candidates)
    }

    /// Leaves as many as a page holds, and at least one. The answer is what to go on after.
    fn cut(&self, candidates: &mut Vec<Candidate>) -> Option<String> {
        let mut total = 0;
        let fit = candidates.iter().take(ROWS).take_while(|candidate| {
            total += candidate.size_bytes + BETWEEN;
            total <= self.settings.referrers_page_bytes
        });
        let count = fit.count().max(1);
        if count >= candidates.len() {
            return None;
        }
        candidates.truncate(count);
        candidates.last().map(|last| last.digest.clone())
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

/// Divides a page into what is read at a time.
fn pieces(query: &ReferrersQuery, page: Vec<Candidate>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for Candidate { digest, size_bytes, text } in page {
        let size_bytes = size_bytes + BETWEEN;
        let is_full = |piece: &Piece| piece.count == AT_ONCE || piece.size_bytes + size_bytes > PIECE_BYTES;
        let after = match pieces.last() {
            None => Some(query.last.clone()),
            Some(piece) => is_full(piece).then(|| piece.to.clone()),
        };
        if let Some(after) = after {
            let (to, known) = (String::new(), Vec::new());
            pieces.push(Piece { size_bytes: 0, count: 0, after, to, known });
        }
        let Some(piece) = pieces.last_mut() else { continue };
        piece.size_bytes += size_bytes;
        piece.count += 1;
        piece.known.extend(text.map(|text| (digest.clone(), text)));
        piece.to = digest;
    }
    pieces
}

impl ReferrersQuery {
    /// No manifest has a type with a NUL in it, and PostgreSQL no text.
    fn storable_types(&self) -> impl Iterator<Item = &str> {
        self.artifact_types.iter().map(String::as_str).filter(|kind| !kind.contains('\0'))
    }
}
