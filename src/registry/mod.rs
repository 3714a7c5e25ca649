//! What a registry does, without HTTP and without SQL.
//!
//! Every method takes a [`Permit`]: proof, made by `berth-auth` alone, that whoever asks may do what
//! they ask for with the repository the permit names.

mod blobs;
mod error;
mod manifests;
mod referrers;
mod repositories;
mod tags;
mod uploads;

use std::pin::Pin;
use std::time::Duration;

use berth_storage::Store;
pub use berth_storage::{FileRange, Piece};
use bytes::Bytes;
use futures_util::Stream;

pub use blobs::{Blob, BlobContent};
pub use error::{Missing, RegistryError, SourceError};
pub use manifests::{ManifestPut, Pushed, SMALL_MANIFEST_BYTES, Stored};
pub use referrers::{ReferrersPage, ReferrersQuery};
pub use repositories::Page;
pub use uploads::{Chunk, MountFrom, Session};

use crate::clock::Clock;
use crate::db::Db;
use crate::oci::RepositoryName;
use crate::telemetry::Metrics;

/// The right to do `A` with a repository.
pub type Permit<A> = berth_auth::Permit<A, RepositoryName>;

/// The bytes of a request, as they come.
pub type Source = Pin<Box<dyn Stream<Item = Result<Bytes, SourceError>> + Send>>;

/// What a registry needs to know of its configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long an upload session is kept after its last byte.
    pub upload_ttl: Duration,
    /// How long content that nothing needs is safe after a pusher was told that it is there.
    pub collect_min_age: Duration,
    /// The most tags one manifest put may set.
    pub tags_per_push: usize,
    /// The size a page of referrers stays below, in bytes.
    pub referrers_page_bytes: u64,
    /// What pages of referrers that are kept may take, in bytes.
    pub referrers_memory_bytes: u64,
    /// Rules for some repositories.
    pub rules: Rules,
}

/// Rules for the repositories that match a pattern; the first that matches holds.
#[derive(Debug, Clone, Default)]
pub struct Rules(pub Vec<Rule>);

/// One of the [`Rules`].
#[derive(Debug, Clone)]
pub struct Rule {
    /// Which repositories.
    pub matches: globset::GlobMatcher,
    /// Whether a manifest may name content that is not there.
    pub allow_sparse: bool,
}

impl Rules {
    fn allow_sparse(&self, repository: &RepositoryName) -> bool {
        let rule = self.0.iter().find(|rule| rule.matches.is_match(repository.as_str()));
        rule.is_some_and(|rule| rule.allow_sparse)
    }
}

/// A registry over an index and a store.
#[derive(Debug, Clone)]
pub struct Registry {
    db: Db,
    store: Store,
    clock: Clock,
    settings: Settings,
    metrics: Metrics,
    kept: referrers::Kept,
}

/// How often a transaction is run again.
const CROSSED: usize = 5;

/// Runs a transaction, and runs it again where another one was in its way.
async fn again<T, F>(mut transaction: impl FnMut() -> F) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    let mut crossed = 0;
    loop {
        match transaction().await {
            Err(RegistryError::Db(error)) if error.is_crossed() && crossed < CROSSED => crossed += 1,
            outcome => break outcome,
        }
    }
}

impl Registry {
    /// Puts a registry together.
    pub fn new(db: Db, store: Store, clock: Clock, settings: Settings, metrics: Metrics) -> Self {
        let kept = referrers::Kept::new(settings.referrers_memory_bytes);
        Self { db, store, clock, settings, metrics, kept }
    }

    /// Whether the index answers; the store is not asked, for manifests do without it.
    pub async fn ping(&self) -> Result<(), RegistryError> {
        Ok(self.db.ping().await?)
    }
}
