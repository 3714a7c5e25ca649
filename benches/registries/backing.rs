//! Where the servers keep their blobs: in folders of their own, or in buckets of one SeaweedFS.

use std::path::Path;

use anyhow::{Result, ensure};
use berth_test_stores::{Backdoor as _, SeaweedFs, tools};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::loads::Load;

/// What is measured in one run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Group {
    /// Every server over a folder of its own
    Filesystem,
    /// Every server over a bucket of its own, all at one SeaweedFS
    Storage,
}

impl Group {
    /// The loads that are run if nothing else is said.
    pub fn loads(self) -> &'static [Load] {
        match self {
            Self::Filesystem => &[
                Load::PushDocker,
                Load::PushContainerd,
                Load::PushLarge,
                Load::PullLarge,
                Load::PullLargeFour,
                Load::ManifestGetTag,
                Load::ManifestHeadTag,
                Load::ManifestGetDigest,
                Load::ManifestHeadDigest,
                Load::PullImages,
                Load::TagPages,
            ],
            Self::Storage => &[Load::PushLarge, Load::PushHuge, Load::PushEight, Load::PullLarge],
        }
    }
}

/// A bucket, and what a server needs to know to use it.
pub struct Bucket {
    pub endpoint: String,
    pub region: &'static str,
    pub name: String,
    pub access_key: String,
    pub secret_key: String,
}

/// What is behind the servers of a run.
pub struct Backing {
    seaweedfs: Option<SeaweedFs>,
    // Behind the server, which is to end first.
    _data: Option<TempDir>,
}

impl Backing {
    /// Starts what the group needs, with its data under `parent`.
    pub async fn start(group: Group, parent: &Path) -> Result<Self> {
        if group == Group::Filesystem {
            return Ok(Self { seaweedfs: None, _data: None });
        }
        ensure!(tools::tool("weed").is_some(), "weed is not installed: run scripts/install-bench-tools");
        let data = tempfile::Builder::new().prefix("seaweedfs-").tempdir_in(parent)?;
        let seaweedfs = SeaweedFs::in_folder(&data.path().canonicalize()?).await;
        Ok(Self { seaweedfs: Some(seaweedfs), _data: Some(data) })
    }

    /// An empty bucket, where servers have buckets.
    pub async fn bucket(&self) -> Option<Bucket> {
        let seaweedfs = self.seaweedfs.as_ref()?;
        Some(Bucket {
            endpoint: seaweedfs.endpoint().to_owned(),
            region: seaweedfs.region(),
            name: seaweedfs.fresh_bucket().await,
            access_key: seaweedfs.access_key().to_owned(),
            secret_key: seaweedfs.secret_key().to_owned(),
        })
    }

    /// Takes a bucket back, and the room on the disk that it took.
    pub async fn remove(&self, bucket: Option<Bucket>) {
        if let (Some(seaweedfs), Some(bucket)) = (&self.seaweedfs, bucket) {
            seaweedfs.remove_bucket(&bucket.name).await;
        }
    }
}
