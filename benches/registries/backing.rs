//! What is behind the servers: folders of their own, buckets of one SeaweedFS, databases of one PostgreSQL.

use std::path::Path;

use anyhow::{Result, ensure};
use berth_test_stores::{Backdoor as _, SeaweedFs, tools};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::postgres::Postgres;
use crate::servers::Kind;

/// What is measured in one run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Group {
    /// Every server over a folder of its own
    Filesystem,
    /// Every server over a bucket of its own, all at one SeaweedFS
    Storage,
    /// Berth with SQLite and with PostgreSQL, over folders
    Postgres,
    /// Berth with SQLite and with PostgreSQL, over buckets
    PostgresStorage,
    /// Berth with PostgreSQL, more and more replicas, each with a fifth of a core: needs root
    Replicas,
    /// Berth alone, each load at three sizes
    Growth,
}

impl Group {
    /// Whether the servers keep their blobs in buckets.
    pub fn has_buckets(self) -> bool {
        matches!(self, Self::Storage | Self::PostgresStorage)
    }
}

/// How much of a core each replica has where their number is what is looked at, in percent.
const SHARE_PERCENT: u32 = 20;

/// A bucket, and what a server needs to know to use it.
pub struct Bucket {
    pub endpoint: String,
    pub region: &'static str,
    pub name: String,
    pub access_key: String,
    pub secret_key: String,
}

/// What a server keeps elsewhere than in its folder.
#[derive(Default)]
pub struct Place {
    pub bucket: Option<Bucket>,
    pub database: Option<String>,
    /// How much of a core each process has, in percent.
    pub share: Option<u32>,
}

/// What is behind the servers of a run.
pub struct Backing {
    share: Option<u32>,
    seaweedfs: Option<SeaweedFs>,
    postgres: Option<Postgres>,
    // Behind the server, which is to end first.
    data: Option<TempDir>,
}

impl Backing {
    /// Starts what the servers need, with its data under `parent`.
    pub async fn start(group: Group, servers: &[Kind], parent: &Path) -> Result<Self> {
        let share = (group == Group::Replicas).then_some(SHARE_PERCENT);
        let mut backing = Self { share, seaweedfs: None, postgres: None, data: None };
        if group.has_buckets() {
            ensure!(tools::tool("weed").is_some(), "weed is not installed: run scripts/install-bench-tools");
            let data = tempfile::Builder::new().prefix("seaweedfs-").tempdir_in(parent)?;
            backing.seaweedfs = Some(SeaweedFs::in_folder(&data.path().canonicalize()?).await);
            backing.data = Some(data);
        }
        if servers.iter().any(|kind| kind.needs_postgres()) {
            backing.postgres = Some(Postgres::start(parent).await?);
        }
        Ok(backing)
    }

    /// An empty place for one server.
    pub async fn place(&self, kind: Kind) -> Result<Place> {
        let bucket = match &self.seaweedfs {
            None => None,
            Some(seaweedfs) => Some(Bucket {
                endpoint: seaweedfs.endpoint().to_owned(),
                region: seaweedfs.region(),
                name: seaweedfs.fresh_bucket().await,
                access_key: seaweedfs.access_key().to_owned(),
                secret_key: seaweedfs.secret_key().to_owned(),
            }),
        };
        let database = match &self.postgres {
            Some(postgres) if kind.needs_postgres() => Some(postgres.fresh_database()?),
            _ => None,
        };
        Ok(Place { bucket, database, share: self.share })
    }

    /// Takes a bucket back, and the room on the disk that it took.
    pub async fn remove(&self, bucket: Option<String>) {
        if let (Some(seaweedfs), Some(bucket)) = (&self.seaweedfs, bucket) {
            seaweedfs.remove_bucket(&bucket).await;
        }
    }

    /// What is to be said of it.
    pub fn describe(&self) -> Option<String> {
        self.postgres.as_ref().map(Postgres::describe)
    }
}
