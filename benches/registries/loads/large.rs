//! Layers too large to be held.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{Play, Stage};
use crate::client::Connection;
use crate::flows::{self, Pusher};
use crate::images::LargeBlob;
use crate::measure::{Latency, Tally, Worker, count, drive};
use crate::servers::Kind;

const REPOSITORY: &str = "bench/large";
const MEBIBYTE: u64 = 1024 * 1024;
/// The most that a client takes at once.
const SKIPPED: usize = 1024 * 1024;

/// New blobs are made for every run, one a client; these are the last run's.
pub struct Push {
    pusher: Pusher,
    count: usize,
    size_bytes: u64,
    blobs: Arc<[LargeBlob]>,
}

impl Push {
    pub fn new(pusher: Pusher, count: usize, size_bytes: u64) -> Self {
        Self { pusher, count, size_bytes, blobs: Arc::new([]) }
    }
}

#[async_trait]
impl Play for Push {
    async fn stock(&mut self, stage: &mut Stage, share: f64) -> Result<()> {
        // A warm-up of a second large layer would be a burden on the disk, and no warmer.
        let size_bytes = if share < 1.0 { self.size_bytes / 8 } else { self.size_bytes };
        self.blobs = (0..self.count).map(|_| stage.factory.large_blob(size_bytes)).collect();
        Ok(())
    }

    async fn run(&mut self, stage: &mut Stage, _lasting: Duration) -> Result<Tally> {
        let next = Arc::new(AtomicUsize::new(0));
        let commits = Arc::new(Mutex::new(Vec::new()));
        let pusher = self.pusher;
        // However long it takes: each client pushes one.
        let mut tally = drive(&stage.server.addresses, self.count, Duration::ZERO, |mut worker: Worker| {
            let (blobs, next, commits) = (Arc::clone(&self.blobs), Arc::clone(&next), Arc::clone(&commits));
            async move {
                let blob = &blobs[next.fetch_add(1, Ordering::Relaxed) % blobs.len()];
                let commit = flows::push_large(&mut worker.connection, REPOSITORY, blob, pusher).await?;
                commits.lock().await.push(commit);
                Ok(blob.size_bytes / MEBIBYTE)
            }
        })
        .await?;
        let commits = commits.lock().await;
        tally.commit = commits.first().copied().filter(|_| self.count == 1);
        tally.latency = Some(Latency::of_one(tally.lasted));
        Ok(tally)
    }

    async fn check(&mut self, stage: &mut Stage) -> Result<()> {
        let mut connection = Connection::open(stage.server.address()).await?;
        for blob in self.blobs.iter() {
            let path = flows::blob_path(REPOSITORY, &blob.digest);
            flows::check_large(&mut connection, &path, blob).await?;
        }
        Ok(())
    }
}

/// A blob that is there.
pub struct Pull {
    path: Arc<str>,
    size_bytes: u64,
}

impl Pull {
    pub async fn prepare(stage: &mut Stage, size_bytes: u64) -> Result<Self> {
        let blob = stage.factory.large_blob(size_bytes);
        let mut connection = Connection::open(stage.server.address()).await?;
        let path = if stage.server.kind == Kind::Nginx {
            let name = blob.digest.strip_prefix("sha256:").context("another digest")?;
            blob.write(&stage.server.data().join(name))?;
            format!("/{name}")
        } else {
            flows::push_large(&mut connection, REPOSITORY, &blob, Pusher::Docker).await?;
            flows::blob_path(REPOSITORY, &blob.digest)
        };
        flows::check_large(&mut connection, &path, &blob).await?;
        Ok(Self { path: path.into(), size_bytes: blob.size_bytes })
    }
}

#[async_trait]
impl Play for Pull {
    async fn run(&mut self, stage: &mut Stage, lasting: Duration) -> Result<Tally> {
        let size_bytes = self.size_bytes;
        let work = |worker| pull(worker, Arc::clone(&self.path), size_bytes);
        let mut tally = drive(&stage.server.addresses, stage.clients, lasting, work).await?;
        tally.units *= count(size_bytes / MEBIBYTE);
        Ok(tally)
    }
}

async fn pull(mut worker: Worker, path: Arc<str>, size_bytes: u64) -> Result<u64> {
    let mut pulled = 0;
    let mut room = vec![0; SKIPPED];
    while worker.goes_on() {
        flows::pull_large(&mut worker.connection, &path, size_bytes, &mut room).await?;
        pulled += 1;
    }
    Ok(pulled)
}
