//! What can go wrong, in the words of the domain. `http/error.rs` gives each its status and code.

use berth_storage::{Digest, StoreError};

use crate::db;
use crate::oci::manifest::ManifestError;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The repository does not hold the blob.
    #[error("blob {0} is not in this repository")]
    BlobUnknown(Digest),
    /// There is no such session in this repository.
    #[error("no such upload session in this repository; begin a new one")]
    UploadUnknown,
    /// Another request is writing to the session.
    #[error("another request is writing to this upload session; ask for its state and go on from there")]
    UploadBusy,
    /// A chunk does not begin where the session ends.
    #[error("the chunk must begin at byte {offset}")]
    OutOfOrder {
        /// How many bytes the session has.
        offset: u64,
    },
    /// The body is not as long as the request said.
    #[error("the body has {found} bytes where the request announced {announced}")]
    SizeMismatch {
        /// What the request announced, in bytes.
        announced: u64,
        /// What came, in bytes; more than announced if one larger.
        found: u64,
    },
    /// The body ended before its end; what came is kept.
    #[error("the body broke off: {0}; {offset} bytes are kept", offset = .1)]
    BrokenOff(#[source] SourceError, u64),
    /// The bytes are not what the client said they are.
    #[error("digest mismatch: the client announced {expected}, the bytes are {actual}")]
    DigestMismatch {
        /// What the client announced.
        expected: Digest,
        /// What the bytes are.
        actual: Digest,
    },
    /// The repository has no such manifest or tag.
    #[error("no manifest {0} in this repository")]
    ManifestUnknown(String),
    /// The manifest cannot be taken as one.
    #[error(transparent)]
    ManifestInvalid(#[from] ManifestError),
    /// The manifest names content that is not in the repository.
    #[error("the manifest names content that is not in this repository")]
    ManifestMisses(Vec<Missing>),
    /// More tags at once than allowed.
    #[error("{found} tags at once; at most {limit} are taken in one request")]
    TooManyTags {
        /// How many there were.
        found: usize,
        /// How many may be.
        limit: usize,
    },
    /// Tags were asked for where the manifest is put by tag.
    #[error("tag parameters belong to a manifest that is put by digest")]
    TagsWithTag,
    /// Something needs what was to be deleted.
    #[error("{digest} is needed by {}; delete that first", .by.join(", "))]
    InUse {
        /// What was to be deleted.
        digest: Digest,
        /// Some of the manifests that need it.
        by: Vec<String>,
    },
    /// The permit does not go so far as to set this tag.
    #[error("this permit may not {permission} tag {tag}")]
    TagDenied {
        /// To create or to overwrite, as it was to be done.
        permission: berth_auth::Permission,
        /// Which tag.
        tag: String,
    },
    /// There is no such repository.
    #[error("no repository {0}")]
    RepositoryUnknown(String),
    /// The index failed.
    #[error("the index failed")]
    Db(#[from] db::Error),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The parser of manifests has a mistake.
    #[error("the manifest could not be parsed")]
    Parser,
    /// A saved session is damaged.
    #[error("the upload session is damaged; begin a new one")]
    SessionDamaged,
}

/// Content a manifest names that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its digest.
    pub digest: Digest,
    /// The platform an index gives it, if any.
    pub platform: Option<String>,
}

/// Why a body ended early.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// Not a byte came for the idle limit.
    #[error("no byte came for {0} s")]
    Idle(u64),
    /// The connection broke, or the body was malformed.
    #[error("{0}")]
    Cut(String),
}
