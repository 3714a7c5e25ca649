//! What can go wrong with a store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Key;

/// What another library said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Trouble in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no object under the key.
    #[error("object {key} is missing from the store")]
    Missing {
        /// The key that was asked for.
        key: Key,
    },
    /// The object is not of the size the index knows.
    #[error("object {key} has {actual} bytes in the store, not {expected}")]
    WrongSize {
        /// The key that was asked for.
        key: Key,
        /// What the caller knows, in bytes.
        expected: u64,
        /// What is there, in bytes.
        actual: u64,
    },
    /// Another writer still has the object open, or has had it since.
    #[error("object {key} is another writer's")]
    Busy {
        /// The key that was asked for.
        key: Key,
    },
    /// No room is left.
    #[error("the store is full: {0}")]
    Full(io::Error),
    /// The disk did not keep what it had taken. The upload cannot go on: a second sync may well say
    /// yes although the bytes are gone.
    #[error("the disk could not keep an object: {0}")]
    Unsynced(io::Error),
    /// The operating system failed an operation.
    #[error("could not {operation}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The object store did not do what it was asked to, after several tries.
    #[error("could not {operation}: {source}")]
    Remote {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        source: Cause,
    },
    /// The same trouble that others have who wait for the same bytes.
    #[error(transparent)]
    Shared(Arc<StoreError>),
    /// What is stored is not what was sent.
    #[error("object {key} was not stored as it was sent: {reason}")]
    Altered {
        /// The key it was put under.
        key: Key,
        /// What differs.
        reason: String,
    },
    /// The index could not say what an upload needs to go on.
    #[error("could not ask the index about an upload: {0}")]
    Index(Cause),
    /// The object is too large for the store.
    #[error("the upload is larger than {limit} bytes, which is all that its parts can hold")]
    TooLarge {
        /// What would fit, in bytes.
        limit: u64,
    },
    /// The object store cannot be used as it is configured.
    #[error("cannot use {location}: {source}; check its address, its credentials, and what they may do")]
    Refused {
        /// The store.
        location: String,
        /// Why it failed.
        source: Cause,
    },
    /// The settings of the object store make no sense.
    #[error("{0}")]
    Settings(String),
    /// The folder of the cache cannot be used.
    #[error("cannot keep a cache in {path}: {reason}")]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The folder cannot be written.
    #[error("cannot write in {path}: {source}; give the user that runs berth the right to write there")]
    NotWritable {
        /// The folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The folder holds something else.
    #[error("{path} is not empty and not a Berth store; choose an empty folder")]
    NotAStore {
        /// The folder.
        path: PathBuf,
    },
    /// The folder was written by a version of Berth with another layout.
    #[error(
        "{path} was written in store format {found}, and this version of berth reads format {supported}; \
         run the version that wrote it"
    )]
    Format {
        /// The folder.
        path: PathBuf,
        /// The format found.
        found: u64,
        /// The format this version reads.
        supported: u64,
    },
    /// The marker file is damaged.
    #[error("{path} is damaged: {reason}")]
    Marker {
        /// The marker file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl StoreError {
    /// An error for each of several who wait. What the caller must act on stays what it is.
    pub(crate) fn shared(error: &Arc<Self>) -> Self {
        match &**error {
            Self::Missing { key } => Self::Missing { key: key.clone() },
            &Self::WrongSize { ref key, expected, actual } => {
                Self::WrongSize { key: key.clone(), expected, actual }
            }
            _ => Self::Shared(Arc::clone(error)),
        }
    }

    pub(crate) fn io(operation: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(source),
            _ => Self::Io { operation, source },
        }
    }
}

/// Why a stream did not reach the store: the stream itself, or the store.
#[derive(Debug, thiserror::Error)]
pub enum WriteError<E> {
    /// The source of the bytes failed; what arrived before is kept.
    #[error("the body ended early")]
    Body(E),
    /// The store failed; the upload stands where it stood before the failed batch.
    #[error(transparent)]
    Store(#[from] StoreError),
}
