//! Blobs of a repository: looking, reading, deleting.

use std::ops::Range;
use std::time::Duration;

use berth_auth::{Delete, Look, Pull, Push};
use berth_storage::{ByteStream, Digest, Key, PieceStream, StoreError};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{Permit, Registry, RegistryError, again};
use crate::clock::millis;
use crate::db::{blobs, repositories};
use crate::oci::RepositoryName;
use crate::telemetry::FoundBy;

/// Tags that are named of a blob that is lost.
const NAMES: i64 = 100;

type Result<T> = std::result::Result<T, RegistryError>;
/// A blob as it is read.
type Reading<T> = BoxStream<'static, std::result::Result<T, StoreError>>;

/// A blob as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// How many bytes it has.
    pub size_bytes: u64,
}

/// A blob that was looked up and can be read.
#[derive(Debug, Clone)]
pub struct BlobContent {
    /// Which blob.
    pub blob: Blob,
    key: Key,
}

impl Registry {
    /// Whether a blob is there, and how large. Writes nothing.
    pub async fn find_blob(&self, permit: &Permit<Look>, digest: &Digest) -> Result<Blob> {
        let found = blobs::find(&self.db, permit.resource(), digest).await?;
        let found = found.ok_or_else(|| RegistryError::BlobUnknown(digest.clone()))?;
        Ok(Blob { digest: found.digest, size_bytes: found.size_bytes })
    }

    /// Looks a blob up. Writes nothing.
    pub async fn blob(&self, permit: &Permit<Pull>, digest: &Digest) -> Result<BlobContent> {
        let found = blobs::find(&self.db, permit.resource(), digest).await?;
        let found = found.ok_or_else(|| RegistryError::BlobUnknown(digest.clone()))?;
        let blob = Blob { digest: found.digest, size_bytes: found.size_bytes };
        Ok(BlobContent { blob, key: found.storage_key })
    }

    /// Tells a pusher that a blob is here, so that they need not send it. It is then safe from the
    /// collector for `gc.min_age`.
    pub async fn confirm_blob(&self, permit: &Permit<Push>, digest: &Digest) -> Result<Blob> {
        let unknown = || RegistryError::BlobUnknown(digest.clone());
        let repository = permit.resource();
        let found = blobs::find(&self.db, repository, digest).await?.ok_or_else(unknown)?;
        let fresh_until = found.idle_since.map(|since| since.saturating_add(millis(self.fresh_for())));
        if fresh_until.is_some_and(|until| until <= self.clock.now()) {
            let mut tx = self.db.begin().await?;
            if blobs::renew(&mut tx, repository, digest, self.clock.now()).await? == 0 {
                return Err(unknown());
            }
            fail::fail_point!("blobs::before_renew", |_| std::process::abort());
            tx.commit().await?;
            fail::fail_point!("blobs::renewed", |_| std::process::abort());
        }
        Ok(Blob { digest: found.digest, size_bytes: found.size_bytes })
    }

    /// How long after a confirmation another one need not be written down. The collector waits that
    /// much longer, so each confirmation is good for all of `gc.min_age`.
    fn fresh_for(&self) -> Duration {
        self.settings.collect_min_age / 4
    }

    /// Reads a range of a blob.
    pub async fn read_blob(&self, content: &BlobContent, range: Range<u64>) -> Result<ByteStream> {
        let read = self.store.read(&content.key, content.blob.size_bytes, range).await;
        self.watched(content, read).await
    }

    /// Reads a range of a blob. What the store has in the page cache is not read, but named, so many
    /// bytes at a time.
    pub async fn read_blob_pieces(
        &self,
        content: &BlobContent,
        range: Range<u64>,
        unread_bytes: usize,
    ) -> Result<PieceStream> {
        let size_bytes = content.blob.size_bytes;
        let read = self.store.read_pieces(&content.key, size_bytes, range, unread_bytes).await;
        self.watched(content, read).await
    }

    /// What is read, where an object that is lost is marked as such.
    async fn watched<T: 'static>(
        &self,
        content: &BlobContent,
        read: std::result::Result<Reading<T>, StoreError>,
    ) -> Result<Reading<T>> {
        let pieces = match read {
            Err(error) if is_lost(&error) => return Err(self.lost(content).await?),
            read => read?,
        };
        let (registry, content) = (self.clone(), content.clone());
        // What is not read at once, or is kept nearer than the store, may be found lost on the way.
        let watched = pieces.or_else(move |error| {
            let (registry, content) = (registry.clone(), content.clone());
            async move {
                if is_lost(&error)
                    && let Err(cause) = registry.lost(&content).await
                {
                    tracing::warn!(digest = %content.blob.digest, %cause, "could not mark a lost blob");
                }
                Err(error)
            }
        });
        Ok(watched.boxed())
    }

    /// An address at which the client may read the blob itself for a while, if there is one. Trouble with
    /// it is no client's: the bytes can go through here.
    pub async fn blob_address(&self, content: &BlobContent) -> Option<String> {
        match self.store.signed_url(&content.key).await {
            Ok(url) => url.map(Into::into),
            Err(error) => {
                tracing::warn!(digest = %content.blob.digest, cause = %RegistryError::from(error),
                    "could not sign the address of a blob; sending its bytes instead");
                None
            }
        }
    }

    /// An object was not there as its row says. Either the blob was collected between the two looks,
    /// or the object is lost, and then nobody shall be told that it is here: the next push heals it.
    async fn lost(&self, content: &BlobContent) -> Result<RegistryError> {
        let digest = &content.blob.digest;
        let mut tx = self.db.begin().await?;
        if blobs::mark_missing(&mut tx, digest, &content.key, self.clock.now()).await? > 0 {
            fail::fail_point!("blobs::before_mark_missing", |_| std::process::abort());
            tx.commit().await?;
            fail::fail_point!("blobs::marked_missing", |_| std::process::abort());
            self.metrics.blob_lost(FoundBy::read);
            let needed_by = blobs::needed_by(&self.db, digest, NAMES).await?.join(", ");
            tracing::error!(%digest, key = %content.key, needed_by,
                "the object of blob {digest} is lost or damaged; push an image that has it to restore it");
        }
        Ok(RegistryError::BlobUnknown(digest.clone()))
    }

    /// Takes a blob out of a repository. Its bytes stay while another repository holds them.
    pub async fn delete_blob(&self, permit: &Permit<Delete>, digest: &Digest) -> Result<()> {
        again(|| self.remove_blob(permit.resource(), digest)).await
    }

    async fn remove_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let unknown = || RegistryError::BlobUnknown(digest.clone());
        let mut tx = self.db.begin().await?;
        let repository_id = repositories::find(&mut tx, repository).await?.ok_or_else(unknown)?;
        // The blob before the hold on it, as the collector does: they must not wait for each other.
        blobs::set_idle(&mut tx, digest, self.clock.now()).await?;
        let removed = blobs::unlink(&mut tx, repository, digest).await;
        let (tx, rows) = self.unless_needed(tx, repository_id, digest, removed).await?;
        if rows == 0 {
            return Err(unknown());
        }
        fail::fail_point!("blobs::before_unlink", |_| std::process::abort());
        tx.commit().await?;
        fail::fail_point!("blobs::unlinked", |_| std::process::abort());
        Ok(())
    }
}

fn is_lost(error: &StoreError) -> bool {
    matches!(error, StoreError::Missing { .. } | StoreError::WrongSize { .. })
}
