//! Bytes by key, and the digest of what passed through.
//!
//! A [`Store`] keeps objects under opaque [`Key`]s that the caller chooses, and writes down, before
//! the first byte arrives. It never lists, renames or copies to serve a request. It knows nothing of
//! repositories, rows or HTTP. What it does know is how to hash a stream while it writes it
//! ([`Upload`], [`Writer`]), to stop in the middle and go on later, and to answer only when an object
//! is durable.

pub mod digest;
mod error;
mod filesystem;
mod hasher;
mod key;
mod reading;
mod upload;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::Semaphore;

pub use digest::{Algorithm, Digest, DigestError};
pub use error::{StoreError, WriteError};
pub use hasher::{HashStateError, Hasher};
pub use key::{Key, KeyError};
pub use upload::{Finished, Object, Upload, Writer, Written};

/// How many shards [`Store::list`] is divided in.
pub const SHARDS: u16 = 256;

/// The bytes of an object, or of a range of it, as they are read.
pub type ByteStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// An object found by [`Store::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key it is stored under.
    pub key: Key,
    /// How many bytes are there.
    pub size_bytes: u64,
}

/// What a store may hold in memory.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// For all uploads together, in bytes; beyond it they wait.
    pub upload_bytes: u64,
    /// For all downloads together, in bytes; beyond it each goes on in smaller pieces.
    pub download_bytes: u64,
}

/// A place that keeps bytes by key.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Backend,
    /// What all uploads together may buffer, in units of one batch.
    budget: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
enum Backend {
    Filesystem(filesystem::Filesystem),
}

impl Store {
    /// Opens, or makes, a store in a local folder.
    pub async fn open_filesystem(root: &Path, memory: Memory) -> Result<Self, StoreError> {
        let filesystem = filesystem::Filesystem::open(root.to_owned(), memory.download_bytes).await?;
        let backend = Backend::Filesystem(filesystem);
        let batches = usize::try_from(memory.upload_bytes / upload::BATCH_BYTES as u64).unwrap_or(usize::MAX);
        // Two, or a single upload could not fill one batch while the other is on its way to the disk.
        let budget = Arc::new(Semaphore::new(batches.clamp(2, Semaphore::MAX_PERMITS)));
        Ok(Self { backend, budget })
    }

    /// The store's own name, made when it was; an index remembers which store it describes.
    pub fn id(&self) -> &str {
        let Backend::Filesystem(filesystem) = &self.backend;
        filesystem.id()
    }

    /// Where the store is, for people.
    pub fn location(&self) -> String {
        let Backend::Filesystem(filesystem) = &self.backend;
        filesystem.location()
    }

    /// Goes on with an upload where it stands, all of which must have been made durable by
    /// [`Writer::checkpoint`] or [`Writer::suspend`]; whatever an earlier writer left behind that point
    /// is dropped. Nothing happens in the store before the first byte, or the end.
    pub fn writer(&self, upload: Upload) -> Writer {
        let Backend::Filesystem(filesystem) = &self.backend;
        let sink = filesystem.sink(upload.key(), upload.offset());
        Writer::new(upload, sink, Arc::clone(&self.budget))
    }

    /// Reads `range` of an object that has `size_bytes` bytes.
    ///
    /// An object that is not there, or is of another size, is an error before the first byte.
    pub async fn read(
        &self,
        key: &Key,
        size_bytes: u64,
        range: Range<u64>,
    ) -> Result<ByteStream, StoreError> {
        let Backend::Filesystem(filesystem) = &self.backend;
        filesystem.read(key, size_bytes, range).await
    }

    /// The size of an object in bytes; `None` if it is not there.
    pub async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let Backend::Filesystem(filesystem) = &self.backend;
        filesystem.size(key).await
    }

    /// Deletes an object, for good when this returns. One that is not there is no error: `false`.
    pub async fn delete(&self, key: &Key) -> Result<bool, StoreError> {
        let Backend::Filesystem(filesystem) = &self.backend;
        filesystem.delete(key).await
    }

    /// What is stored under the keys of one shard (0 to [`SHARDS`] - 1), in key order. For `fsck`.
    pub async fn list(&self, shard: u8) -> Result<Vec<Listed>, StoreError> {
        let Backend::Filesystem(filesystem) = &self.backend;
        filesystem.list(shard).await
    }

    /// Hashes an object from its first byte to its last.
    pub async fn hash(&self, key: &Key, size_bytes: u64, algorithm: Algorithm) -> Result<Digest, StoreError> {
        let Backend::Filesystem(filesystem) = &self.backend;
        filesystem.hash(key, size_bytes, algorithm).await
    }
}
