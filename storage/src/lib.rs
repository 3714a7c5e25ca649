//! Bytes by key, and the digest of what passed through.
//!
//! A [`Store`] keeps objects under opaque [`Key`]s that the caller chooses, and writes down, before
//! the first byte arrives. It never lists, renames or copies to serve a request. It knows nothing of
//! repositories, rows or HTTP. What it does know is how to hash a stream while it writes it
//! ([`Upload`], [`Writer`]), to stop in the middle and go on later, and to answer only when an object
//! is durable.

mod budget;
pub mod cache;
pub mod cloud;
pub mod digest;
mod error;
mod filesystem;
mod hasher;
mod key;
mod s3;
mod tally;
mod upload;

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use url::Url;

use self::budget::Budget;
pub use self::digest::{Algorithm, Digest, DigestError};
pub use self::error::{Cause, StoreError, WriteError};
pub use self::hasher::{HashStateError, Hasher};
pub use self::key::{Key, KeyError};
pub use self::tally::Reads;
pub use self::upload::{
    Context, Finished, IsOurs, Layout, Object, Parts, Suspended, Tail, Upload, Writer, Written,
};

/// How many shards [`Store::list`] is divided in.
pub const SHARDS: u16 = 256;

/// The bytes of an object, or of a range of it, as they are read.
pub type ByteStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// A part of an object, in its turn.
#[derive(Debug)]
pub enum Piece {
    /// Its bytes.
    Bytes(Bytes),
    /// Where they are, for who can have the kernel send them.
    File(FileRange),
}

/// Bytes of a file that are in the page cache, or were when they were handed out.
#[derive(Debug, Clone)]
pub struct FileRange {
    /// The file, open for reading.
    pub file: Arc<File>,
    /// Where they begin, in bytes.
    pub start_bytes: u64,
    /// How many they are; never none.
    pub size_bytes: usize,
}

/// The pieces of an object, or of a range of it, as they are read.
pub type PieceStream = BoxStream<'static, Result<Piece, StoreError>>;

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
    /// For all downloads together, in bytes; beyond it each goes on in smaller pieces, or alone.
    pub download_bytes: u64,
}

/// A place that keeps bytes by key.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Backend,
    /// What all uploads together may hold.
    budget: Arc<Budget>,
}

#[derive(Debug, Clone)]
enum Backend {
    Filesystem(filesystem::Filesystem),
    Cloud(cloud::Cloud),
}

impl Store {
    /// Opens, or makes, a store in a local folder.
    pub async fn open_filesystem(root: &Path, memory: Memory) -> Result<Self, StoreError> {
        let filesystem = filesystem::Filesystem::open(root.to_owned(), memory.download_bytes).await?;
        // Two batches, or a single upload could not fill one while the other is on its way to the disk.
        let budget = Budget::new(memory.upload_bytes, 2 * filesystem::BATCH_BYTES as u64);
        Ok(Self { backend: Backend::Filesystem(filesystem), budget })
    }

    /// Opens a store in S3, Azure Blob or Google Cloud Storage. One that is new has no id until it is
    /// given one by [`Store::name`].
    pub async fn open_cloud(settings: &cloud::Settings, memory: Memory) -> Result<Self, StoreError> {
        Self::open_cloud_within(settings, cloud::Patience::default(), memory).await
    }

    /// Opens a store as [`Store::open_cloud`] does, with another patience than the usual one.
    pub async fn open_cloud_within(
        settings: &cloud::Settings,
        patience: cloud::Patience,
        memory: Memory,
    ) -> Result<Self, StoreError> {
        let cloud = cloud::Cloud::open(settings, patience, memory.download_bytes).await?;
        let budget = Budget::new(memory.upload_bytes, settings.part_bytes);
        Ok(Self { backend: Backend::Cloud(cloud), budget })
    }

    /// The store's own name, made when it was; an index remembers which store it describes.
    pub fn id(&self) -> Option<&str> {
        match &self.backend {
            Backend::Filesystem(filesystem) => Some(filesystem.id()),
            Backend::Cloud(cloud) => cloud.id(),
        }
    }

    /// Gives a new store its id. One that has an id keeps it.
    pub async fn name(&self, id: &str) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Filesystem(_) => Ok(()),
            Backend::Cloud(cloud) => cloud.name(id).await,
        }
    }

    /// Where the store is, for people.
    pub fn location(&self) -> String {
        match &self.backend {
            Backend::Filesystem(filesystem) => filesystem.location(),
            Backend::Cloud(cloud) => cloud.location(),
        }
    }

    /// Whether what a writer puts is under a key of its own, [`Context::key`], until the index is told.
    pub fn writes_aside(&self) -> bool {
        matches!(self.backend, Backend::Cloud(_))
    }

    /// Goes on with an upload where it stands, all of which must have been told to the index by
    /// [`Writer::checkpoint`] or [`Writer::suspend`]; whatever an earlier writer left behind that point
    /// is dropped. Nothing happens in the store before the first byte, or the end.
    pub fn writer(&self, upload: Upload, context: Context) -> Writer {
        let budget = Arc::clone(&self.budget);
        match &self.backend {
            Backend::Filesystem(filesystem) => filesystem.writer(upload, context.is_ours, budget).into(),
            Backend::Cloud(cloud) => cloud.writer(upload, context, budget).into(),
        }
    }

    /// Closes an upload without a writer, where nothing has to be written for it: `false`, and nothing has
    /// happened, unless it is in a folder, its file is as long as it, and no writer has that open. All of it must
    /// have been told to the index, as for [`Store::writer`]. After `true` the object is durable.
    pub async fn close_as_it_is(&self, upload: &Upload) -> Result<bool, StoreError> {
        match &self.backend {
            Backend::Filesystem(filesystem) => filesystem.close_as_it_is(upload).await,
            Backend::Cloud(_) => Ok(false),
        }
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
        match &self.backend {
            Backend::Filesystem(filesystem) => Ok(bytes(filesystem.read(key, size_bytes, range, 0).await?)),
            Backend::Cloud(cloud) => cloud.read(key, size_bytes, range).await,
        }
    }

    /// Reads as [`Store::read`] does, but for what is in the page cache, which is handed out as
    /// [`Piece::File`], `unread_bytes` at a time.
    pub async fn read_pieces(
        &self,
        key: &Key,
        size_bytes: u64,
        range: Range<u64>,
        unread_bytes: usize,
    ) -> Result<PieceStream, StoreError> {
        match &self.backend {
            Backend::Filesystem(filesystem) => filesystem.read(key, size_bytes, range, unread_bytes).await,
            Backend::Cloud(cloud) => {
                Ok(cloud.read(key, size_bytes, range).await?.map_ok(Piece::Bytes).boxed())
            }
        }
    }

    /// Reads an object as it is in the store, from its first byte to its last, whatever is kept of it
    /// nearer.
    pub async fn scan(&self, key: &Key, size_bytes: u64) -> Result<ByteStream, StoreError> {
        match &self.backend {
            Backend::Filesystem(_) => self.read(key, size_bytes, 0..size_bytes).await,
            Backend::Cloud(cloud) => cloud.stream(key, size_bytes, 0..size_bytes).await,
        }
    }

    /// Keeps what is read from an object store on a local disk too, from now on.
    pub async fn keep_near(&self, settings: cache::Settings) -> Result<(), StoreError> {
        if let Backend::Cloud(cloud) = &self.backend {
            cloud.keep_near(cache::Cache::open(settings).await?);
        }
        Ok(())
    }

    /// What has been read from an object store since it was opened; `None` for a folder.
    pub fn reads(&self) -> Option<Reads> {
        match &self.backend {
            Backend::Filesystem(_) => None,
            Backend::Cloud(cloud) => Some(cloud.reads()),
        }
    }

    /// Waits until what is kept nearer is on its disk. For the end.
    pub async fn close(&self) {
        if let Backend::Cloud(cloud) = &self.backend {
            cloud.close().await;
        }
    }

    /// The size of an object in bytes; `None` if it is not there.
    pub async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        match &self.backend {
            Backend::Filesystem(filesystem) => filesystem.size(key).await,
            Backend::Cloud(cloud) => cloud.size(key).await,
        }
    }

    /// Deletes an object, for good when this returns, and the multipart upload that was begun under its
    /// key, if there was one. One that is not there is no error: `false`, where the store tells.
    pub async fn delete(&self, key: &Key, multipart: Option<&str>) -> Result<bool, StoreError> {
        match &self.backend {
            Backend::Filesystem(filesystem) => filesystem.delete(key).await,
            Backend::Cloud(cloud) => cloud.delete(key, multipart).await,
        }
    }

    /// Ends a multipart upload that will not be completed. One that is not there is no error.
    pub async fn abort(&self, key: &Key, multipart: &str) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Filesystem(_) => Ok(()),
            Backend::Cloud(cloud) => cloud.abort(key, multipart).await,
        }
    }

    /// The multipart uploads that were begun, and neither completed nor aborted, where the store tells.
    /// For `fsck`.
    pub async fn open_multiparts(&self) -> Result<Vec<(Key, String)>, StoreError> {
        match &self.backend {
            Backend::Filesystem(_) => Ok(Vec::new()),
            Backend::Cloud(cloud) => cloud.open_multiparts().await,
        }
    }

    /// What the operator should know of the store, if anything.
    pub async fn advice(&self) -> Option<String> {
        match &self.backend {
            Backend::Filesystem(_) => None,
            Backend::Cloud(cloud) => cloud.advice().await,
        }
    }

    /// What is stored under the keys of one shard (0 to [`SHARDS`] - 1), in key order. For `fsck`.
    pub async fn list(&self, shard: u8) -> Result<Vec<Listed>, StoreError> {
        match &self.backend {
            Backend::Filesystem(filesystem) => filesystem.list(shard).await,
            Backend::Cloud(cloud) => cloud.list(shard).await,
        }
    }

    /// Whether there is no object at all.
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        match &self.backend {
            Backend::Filesystem(filesystem) => filesystem.is_empty().await,
            Backend::Cloud(cloud) => cloud.is_empty().await,
        }
    }

    /// Hashes an object from its first byte to its last.
    pub async fn hash(&self, key: &Key, size_bytes: u64, algorithm: Algorithm) -> Result<Digest, StoreError> {
        match &self.backend {
            Backend::Filesystem(filesystem) => filesystem.hash(key, size_bytes, algorithm).await,
            Backend::Cloud(cloud) => cloud.hash(key, size_bytes, algorithm).await,
        }
    }

    /// A URL that anyone may read the object with for a while; `None` where there is no such thing, or
    /// not now.
    pub async fn signed_url(&self, key: &Key) -> Result<Option<Url>, StoreError> {
        match &self.backend {
            Backend::Filesystem(_) => Ok(None),
            Backend::Cloud(cloud) => cloud.signed_url(key).await,
        }
    }
}

/// The bytes of pieces none of which is a file.
fn bytes(pieces: PieceStream) -> ByteStream {
    let bytes = |piece| match piece {
        Piece::Bytes(bytes) => bytes,
        Piece::File(_) => unreachable!("nobody asked for files"),
    };
    pieces.map_ok(bytes).boxed()
}
