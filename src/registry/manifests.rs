//! Manifests: bytes verbatim, in one transaction with their tags, references and referrers.

use std::collections::HashSet;
use std::ops::Range;

use berth_auth::{Delete, Look, Permission, Pull, Push};
use berth_storage::{Algorithm, Digest};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{Missing, Permit, Registry, RegistryError, again};
use crate::db::{self, blobs, manifests, referrers, repositories, tags};
use crate::oci::manifest::{self, Manifest, ManifestError, Role};
use crate::oci::{Reference, RepositoryName, Tag};

pub use crate::db::manifests::{Head, Manifest as Stored, SMALL_BYTES as SMALL_MANIFEST_BYTES};

type Result<T> = std::result::Result<T, RegistryError>;

/// What is read of a large manifest at a time: PostgreSQL unpacks all that is before it, too.
const PIECE_BYTES: usize = 64 * 1024;

/// A manifest on its way in.
#[derive(Debug, Clone)]
pub struct ManifestPut {
    /// Under which name.
    pub reference: Reference,
    /// More tags for one that is put by digest.
    pub tags: Vec<Tag>,
    /// What the client says it is.
    pub content_type: Option<String>,
    /// The bytes.
    pub content: Bytes,
}

/// What a put did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The tags that now point at it.
    pub tags: Vec<Tag>,
    /// The manifest it refers to.
    pub subject: Option<Digest>,
}

impl Registry {
    /// A manifest, and its bytes unless they are many.
    pub async fn manifest(&self, permit: &Permit<Pull>, reference: &Reference) -> Result<Stored> {
        let found = manifests::find(&self.db, permit.resource(), reference).await?;
        found.ok_or_else(|| RegistryError::ManifestUnknown(reference.to_string()))
    }

    /// A range of a manifest that was looked up. One that is large is read from the index piece by piece: however
    /// many read it, and however slowly, each has no more of it in memory.
    pub fn read_manifest(
        &self,
        permit: &Permit<Pull>,
        manifest: &Stored,
        range: Range<usize>,
    ) -> BoxStream<'static, Result<Bytes>> {
        if let Some(content) = &manifest.content {
            let end = range.end.min(content.len());
            let bytes = Bytes::copy_from_slice(&content[range.start.min(end)..end]);
            return stream::once(async { Ok(bytes) }).boxed();
        }
        let asked = (self.db.clone(), permit.resource().clone(), manifest.head.digest.clone());
        let pieces = stream::try_unfold((asked, range), async |(asked, left)| {
            if left.is_empty() {
                return Ok(None);
            }
            let (db, repository, digest) = &asked;
            let next = left.end.min(left.start + PIECE_BYTES);
            let piece = manifests::piece(db, repository, digest, left.start..next).await?;
            // Deleted meanwhile.
            let piece = piece.ok_or_else(|| RegistryError::ManifestUnknown(digest.to_string()))?;
            Ok(Some((Bytes::from(piece), (asked, next..left.end))))
        });
        pieces.inspect_err(|error| tracing::warn!(%error, "could not read a manifest to its end")).boxed()
    }

    /// A manifest without its bytes.
    pub async fn manifest_head(&self, permit: &Permit<Look>, reference: &Reference) -> Result<Head> {
        let found = manifests::head(&self.db, permit.resource(), reference).await?;
        found.ok_or_else(|| RegistryError::ManifestUnknown(reference.to_string()))
    }

    /// Stores a manifest as it came and points its tags at it, all or nothing.
    pub async fn put_manifest(&self, permit: &Permit<Push>, put: ManifestPut) -> Result<Pushed> {
        let limit = self.settings.tags_per_push;
        if put.tags.len() > limit {
            return Err(RegistryError::TooManyTags { found: put.tags.len(), limit });
        }
        let (algorithm, expected, tags) = match put.reference {
            Reference::Tag(_) if !put.tags.is_empty() => return Err(RegistryError::TagsWithTag),
            Reference::Tag(tag) => (Algorithm::Sha256, None, vec![tag]),
            Reference::Digest(digest) => (digest.algorithm(), Some(digest), put.tags),
        };
        let (digest, parsed) = read(algorithm, put.content_type, put.content.clone()).await?;
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(RegistryError::DigestMismatch { expected, actual: digest });
        }
        let parsed = parsed?;
        // Something it names may be collected or deleted after it was looked at: look again.
        again(|| self.write_manifest(permit, &digest, &parsed, &put.content, &tags)).await?;
        Ok(Pushed { digest, tags, subject: parsed.subject })
    }

    async fn write_manifest(
        &self,
        permit: &Permit<Push>,
        digest: &Digest,
        parsed: &Manifest,
        content: &[u8],
        tags: &[Tag],
    ) -> Result<()> {
        let (now, repository) = (self.clock.now(), permit.resource());
        let mut tx = self.db.begin().await?;
        let repository_id = repositories::ensure(&mut tx, repository, now).await?;
        let subject = parsed.subject.as_ref();
        let new = manifests::New { digest, media_type: &parsed.media_type, subject, content };
        let inserted = manifests::insert(&mut tx, repository_id, new, now).await?;
        if let Some(id) = inserted {
            let sparse = self.settings.rules.allow_sparse(repository);
            tie(&mut tx, id, repository_id, parsed, sparse).await?;
            manifests::manifest_arrived(&mut tx, repository_id, digest).await?;
        }
        // In one order for all: two pushes of the same tags must not wait for each other.
        let mut tags: Vec<&Tag> = tags.iter().collect();
        tags.sort_unstable_by_key(|tag| tag.as_str());
        for tag in tags {
            set_tag(&mut tx, permit, repository_id, tag, digest, now).await?;
        }
        // After the tags, as where a manifest is deleted: it takes the list of the subject's referrers.
        if let (Some(_), Some(subject)) = (inserted, subject) {
            let artifact_type = parsed.artifact_type.as_deref().unwrap_or_default();
            let text = manifest::referrer_descriptor(parsed, digest, content.len() as u64);
            referrers::insert(&mut tx, repository_id, subject, digest, artifact_type, &text).await?;
        }
        fail::fail_point!("manifests::before_commit", |_| std::process::abort());
        tx.commit().await?;
        fail::fail_point!("manifests::committed", |_| std::process::abort());
        Ok(())
    }

    /// Removes one tag and nothing else. What it pointed at.
    pub async fn delete_tag(&self, permit: &Permit<Delete>, tag: &Tag) -> Result<Digest> {
        let mut tx = self.db.begin().await?;
        let removed = tags::remove(&mut tx, permit.resource(), tag).await?;
        let digest = removed.ok_or_else(|| RegistryError::ManifestUnknown(tag.to_string()))?;
        fail::fail_point!("tags::before_delete", |_| std::process::abort());
        tx.commit().await?;
        fail::fail_point!("tags::deleted", |_| std::process::abort());
        Ok(digest)
    }

    /// Removes a manifest and the tags that point at it. One that an index lists stays.
    pub async fn delete_manifest(&self, permit: &Permit<Delete>, digest: &Digest) -> Result<()> {
        again(|| self.remove_manifest(permit.resource(), digest)).await
    }

    async fn remove_manifest(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let unknown = || RegistryError::ManifestUnknown(digest.to_string());
        let mut tx = self.db.begin().await?;
        let repository_id = repositories::find(&mut tx, repository).await?.ok_or_else(unknown)?;
        let id = manifests::id(&mut tx, repository_id, digest).await?.ok_or_else(unknown)?;
        // Blobs, then tags, then the manifest: the order in which a push takes them.
        blobs::let_go(&mut tx, id, repository_id, self.clock.now()).await?;
        tags::remove_all_of(&mut tx, repository_id, digest).await?;
        let removed = manifests::remove(&mut tx, id).await;
        let (tx, _) = self.unless_needed(tx, repository_id, digest, removed).await?;
        fail::fail_point!("manifests::before_delete", |_| std::process::abort());
        tx.commit().await?;
        fail::fail_point!("manifests::deleted", |_| std::process::abort());
        Ok(())
    }

    /// Refuses a delete of what a manifest needs, or has missed and is not tied to. Gives the transaction back, and
    /// how many rows were removed.
    pub(super) async fn unless_needed(
        &self,
        mut tx: db::Tx,
        repository_id: i64,
        digest: &Digest,
        removed: db::Result<u64>,
    ) -> Result<(db::Tx, u64)> {
        match removed {
            Ok(0) => return Ok((tx, 0)),
            Ok(rows) if !manifests::is_missed(&mut tx, repository_id, digest).await? => {
                return Ok((tx, rows));
            }
            Ok(_) => {}
            Err(error) if error.is_foreign_key_violation() => {}
            Err(error) => return Err(error.into()),
        }
        drop(tx);
        let by = manifests::needing(&self.db, repository_id, digest).await?;
        Err(RegistryError::InUse { digest: digest.clone(), by })
    }
}

/// Points a tag at a manifest, as far as the permit goes. Whether the tag is there is what the statement
/// itself finds, so that it stays true whoever sets the same tag at the same moment (S5).
async fn set_tag(
    tx: &mut db::Tx,
    permit: &Permit<Push>,
    repository_id: i64,
    tag: &Tag,
    digest: &Digest,
    now: i64,
) -> Result<()> {
    let (set, missing) = match (permit.may(Permission::Create), permit.may(Permission::Overwrite)) {
        (true, true) => (tags::set(tx, repository_id, tag, digest, now).await?, Permission::Create),
        (true, false) => (tags::create(tx, repository_id, tag, digest, now).await?, Permission::Overwrite),
        (false, _) => (tags::overwrite(tx, repository_id, tag, digest, now).await?, Permission::Create),
    };
    // A push that is repeated changes nothing.
    if set > 0 || tags::points_at(&mut *tx, repository_id, tag, digest).await? {
        return Ok(());
    }
    Err(RegistryError::TagDenied { permission: missing, tag: tag.to_string() })
}

/// Hashes and parses a manifest, a large one where it holds nobody up.
async fn read(
    algorithm: Algorithm,
    content_type: Option<String>,
    content: Bytes,
) -> Result<(Digest, std::result::Result<Manifest, ManifestError>)> {
    const LARGE_BYTES: usize = 64 * 1024;
    let large = content.len() > LARGE_BYTES;
    let work = move || (Digest::of(algorithm, &content), Manifest::parse(content_type.as_deref(), &content));
    if large {
        return tokio::task::spawn_blocking(work).await.map_err(|_| RegistryError::Parser);
    }
    Ok(work())
}

/// Ties a manifest to what it names. What is not there is an error, unless it may be absent.
async fn tie(
    tx: &mut db::Tx,
    manifest_id: i64,
    repository_id: i64,
    parsed: &Manifest,
    sparse: bool,
) -> Result<()> {
    let named: Vec<&Digest> = parsed.references.iter().map(|descriptor| &descriptor.digest).collect();
    let entries: Vec<&Digest> = parsed
        .references
        .iter()
        .filter(|descriptor| descriptor.role == Role::Entry)
        .map(|descriptor| &descriptor.digest)
        .collect();
    let mut found: HashSet<Digest> = HashSet::new();
    // An entry of an index is a manifest, or a blob: that is how BuildKit keeps its cache.
    for list in entries.chunks(db::LIST) {
        let present = manifests::present(&mut *tx, repository_id, list).await?;
        if !present.is_empty() {
            let children: Vec<&Digest> = present.iter().collect();
            manifests::need_manifests(tx, manifest_id, repository_id, &children).await?;
        }
        found.extend(present);
    }
    let mut rest: Vec<&Digest> = named.into_iter().filter(|digest| !found.contains(*digest)).collect();
    // Rows are locked by digest, over the borders of lists too.
    rest.sort_unstable();
    for list in rest.chunks(db::LIST) {
        let held = blobs::held(&mut *tx, repository_id, list).await?;
        if !held.is_empty() {
            let needed: Vec<&Digest> = held.iter().collect();
            manifests::need_blobs(tx, manifest_id, repository_id, &needed).await?;
            blobs::hold(tx, repository_id, &needed).await?;
        }
        found.extend(held);
    }
    let mut missing = Vec::new();
    for descriptor in parsed.references.iter().filter(|descriptor| !found.contains(&descriptor.digest)) {
        if descriptor.optional || sparse {
            manifests::need_missing(tx, manifest_id, repository_id, &descriptor.digest).await?;
        } else {
            let (digest, platform) = (descriptor.digest.clone(), descriptor.platform.clone());
            missing.push(Missing { digest, platform });
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(RegistryError::ManifestMisses(missing)) }
}
