//! Referrers: what names a manifest as its subject, in pages measured in bytes.
//!
//! What older clients listed under the fallback tag of a subject is part of the answer, as the spec
//! demands of a registry that has the API.

use std::collections::HashSet;

use berth_auth::Pull;
use berth_storage::Digest;

use super::{Permit, Registry, RegistryError};
use crate::db::{LIST, manifests, referrers, repositories};
use crate::oci::{Tag, manifest};

type Result<T> = std::result::Result<T, RegistryError>;

/// Rows one page looks at, at most: more small descriptors than fit its bytes.
const ROWS: i64 = 20_000;
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

/// Some referrers, by digest, whose descriptors are not read yet.
#[derive(Debug, Default)]
pub struct ReferrersPage {
    /// How long their descriptors are, with commas between them.
    pub size_bytes: u64,
    /// The digest to go on after, if there are more.
    pub next: Option<String>,
    repository_id: i64,
    listed: Vec<Candidate>,
}

/// A referrer that may be on the page: its size, and its text where it is known already.
#[derive(Debug)]
struct Candidate {
    digest: Digest,
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
        let size_bytes = candidates.iter().map(|candidate| candidate.size_bytes + BETWEEN).sum();
        Ok(ReferrersPage { size_bytes, next, repository_id, listed: candidates })
    }

    /// Those that name the subject themselves.
    async fn listed(&self, repository_id: i64, query: &ReferrersQuery) -> Result<Vec<Candidate>> {
        let (subject, last) = (&query.subject, query.last.as_str());
        let mut entries = Vec::new();
        if query.artifact_types.is_empty() {
            entries = referrers::entries(&self.db, repository_id, subject, last, ROWS + 1).await?;
        }
        for kind in query.storable_types() {
            let more = referrers::entries_of_type(&self.db, repository_id, subject, kind, last, ROWS + 1);
            entries.extend(more.await?);
        }
        let candidate = |entry: referrers::Entry| Candidate {
            digest: entry.digest,
            size_bytes: entry.descriptor_bytes,
            text: None,
        };
        Ok(entries.into_iter().map(candidate).collect())
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
                let (digest, size_bytes) = (entry.digest, text.len() as u64);
                candidates.push(Candidate { digest, size_bytes, text: Some(text.to_owned()) });
            }
        }
        Ok(candidates)
    }

    /// Leaves as many as a page holds, and at least one. The answer is what to go on after.
    fn cut(&self, candidates: &mut Vec<Candidate>) -> Option<String> {
        let mut total = 0;
        let fit = candidates.iter().take(usize::try_from(ROWS).unwrap_or(usize::MAX)).take_while(|candidate| {
            total += candidate.size_bytes + BETWEEN;
            total <= self.settings.referrers_page_bytes
        });
        let count = fit.count().max(1);
        if count >= candidates.len() {
            return None;
        }
        candidates.truncate(count);
        candidates.last().map(|last| last.digest.to_string())
    }

    /// Appends the descriptors of a page: JSON objects with commas between them.
    pub async fn read_referrers(
        &self,
        query: &ReferrersQuery,
        page: ReferrersPage,
        out: &mut String,
    ) -> Result<()> {
        let ReferrersPage { repository_id, listed, .. } = page;
        let Some(to) = listed.last().map(|last| last.digest.to_string()) else { return Ok(()) };
        let (subject, last) = (&query.subject, query.last.as_str());
        let mut texts = Vec::new();
        if query.artifact_types.is_empty() {
            texts = referrers::descriptors(&self.db, repository_id, subject, last, &to).await?;
        }
        for kind in query.storable_types() {
            let more = referrers::descriptors_of_type(&self.db, repository_id, subject, kind, last, &to);
            texts.extend(more.await?);
        }
        if query.artifact_types.len() > 1 {
            texts.sort_unstable();
        }
        let mut texts = texts.into_iter().peekable();
        let mut between = "";
        for candidate in listed {
            let digest = candidate.digest.as_str();
            // One that came between the two looks is on no page, and one that went is left out.
            while texts.next_if(|(other, _)| other.as_str() < digest).is_some() {}
            let own = texts.next_if(|(other, _)| other == digest).map(|(_, text)| text);
            let Some(text) = candidate.text.or(own) else { continue };
            out.push_str(between);
            out.push_str(&text);
            between = ",";
        }
        Ok(())
    }
}

impl ReferrersQuery {
    /// No manifest has a type with a NUL in it, and PostgreSQL no text.
    fn storable_types(&self) -> impl Iterator<Item = &str> {
        self.artifact_types.iter().map(String::as_str).filter(|kind| !kind.contains('\0'))
    }
}
