//! Referrers: what names a manifest as its subject, in pages measured in bytes.
//!
//! What older clients listed under the fallback tag of a subject is part of the answer, as the spec
//! demands of a registry that has the API.

use std::collections::{BTreeMap, HashSet};

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

/// Some referrers, by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferrersPage {
    /// Their descriptors, each a JSON object.
    pub descriptors: Vec<String>,
    /// The digest to go on after, if there are more.
    pub next: Option<String>,
}

/// A referrer that may be on the page: its size, and its text where it is known already.
struct Candidate {
    size_bytes: u64,
    text: Option<String>,
}

impl Registry {
    /// The referrers of a manifest, which itself need not be there.
    pub async fn referrers(&self, permit: &Permit<Pull>, query: &ReferrersQuery) -> Result<ReferrersPage> {
        let mut page = ReferrersPage { descriptors: Vec::new(), next: None };
        let Some(repository_id) = repositories::find(&self.db, permit.resource()).await? else {
            return Ok(page);
        };
        let mut candidates = self.candidates(repository_id, query).await?;
        self.add_fallback(repository_id, query, &mut candidates).await?;
        let chosen = self.fit(&mut page, candidates);
        let unread: Vec<&Digest> = chosen
            .iter()
            .filter(|(_, candidate)| candidate.text.is_none())
            .map(|(digest, _)| digest)
            .collect();
        let mut texts = BTreeMap::new();
        for list in unread.chunks(LIST) {
            texts.extend(referrers::descriptors(&self.db, repository_id, &query.subject, list).await?);
        }
        page.descriptors = chosen
            .into_iter()
            // One that was deleted between the two looks is left out.
            .filter_map(|(digest, candidate)| candidate.text.or_else(|| texts.remove(digest.as_str())))
            .collect();
        Ok(page)
    }

    async fn candidates(
        &self,
        repository_id: i64,
        query: &ReferrersQuery,
    ) -> Result<BTreeMap<Digest, Candidate>> {
        let (subject, last) = (&query.subject, query.last.as_str());
        let mut entries = Vec::new();
        if query.artifact_types.is_empty() {
            entries = referrers::entries(&self.db, repository_id, subject, last, ROWS + 1).await?;
        }
        // No manifest has a type with a NUL in it, and PostgreSQL no text.
        for artifact_type in query.artifact_types.iter().filter(|kind| !kind.contains('\0')) {
            entries.extend(
                referrers::entries_of_type(&self.db, repository_id, subject, artifact_type, last, ROWS + 1)
                    .await?,
            );
        }
        let candidate = |entry: referrers::Entry| {
            (entry.digest, Candidate { size_bytes: entry.descriptor_bytes, text: None })
        };
        Ok(entries.into_iter().map(candidate).collect())
    }

    async fn add_fallback(
        &self,
        repository_id: i64,
        query: &ReferrersQuery,
        candidates: &mut BTreeMap<Digest, Candidate>,
    ) -> Result<()> {
        let tag = Tag::fallback_for(&query.subject);
        let Some(content) = manifests::tagged(&self.db, repository_id, &tag).await? else { return Ok(()) };
        // Anyone may give a tag this name; what is no index lists nothing.
        let Ok(listed) = manifest::index_descriptors(&content) else { return Ok(()) };
        let wanted = |artifact_type: Option<&str>| {
            query.artifact_types.is_empty()
                || artifact_type.is_some_and(|kind| query.artifact_types.iter().any(|wanted| wanted == kind))
        };
        let digests: Vec<&Digest> = listed.iter().map(|entry| &entry.digest).collect();
        let mut known = HashSet::new();
        for list in digests.chunks(LIST) {
            known.extend(referrers::known(&self.db, repository_id, &query.subject, list).await?);
        }
        for entry in listed {
            let text = entry.raw.get();
            // One that names the subject itself is listed by its own row, with its own annotations.
            let listed_already = known.contains(&(entry.digest.to_string(),));
            if entry.digest.as_str() > query.last.as_str()
                && wanted(entry.artifact_type.as_deref())
                && !listed_already
            {
                let candidate = Candidate { size_bytes: text.len() as u64, text: Some(text.to_owned()) };
                candidates.entry(entry.digest).or_insert(candidate);
            }
        }
        Ok(())
    }

    /// Takes as many as a page holds, and at least one.
    fn fit(
        &self,
        page: &mut ReferrersPage,
        candidates: BTreeMap<Digest, Candidate>,
    ) -> Vec<(Digest, Candidate)> {
        let mut chosen: Vec<(Digest, Candidate)> = Vec::new();
        let mut total = 0;
        for (digest, candidate) in candidates {
            total += candidate.size_bytes + BETWEEN;
            let full =
                total > self.settings.referrers_page_bytes || chosen.len() as u64 >= ROWS.unsigned_abs();
            if full && let Some((last, _)) = chosen.last() {
                page.next = Some(last.to_string());
                break;
            }
            chosen.push((digest, candidate));
        }
        chosen
    }
}
