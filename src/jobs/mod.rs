//! Work no request waits for: sessions that expire, objects that are doomed, blobs nothing needs, and
//! reading everything again.
//!
//! Each job is a series of small transactions and may be cut anywhere; the next round goes on. Jobs
//! are no request of anyone's, so they speak to the index and the store themselves (decision 0002).

mod blobs;
pub mod fsck;
mod objects;
pub mod scrub;
mod tokens;
mod uploads;

use std::ops::AddAssign;
use std::time::Duration;

use berth_storage::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::db::{self, Db};
use crate::telemetry::Metrics;

/// Rows one transaction handles at most.
const BATCH: i64 = 100;

/// What the jobs work on.
#[derive(Debug, Clone)]
pub struct Context {
    /// The index.
    pub db: Db,
    /// The store.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// How long content that nothing needs is kept.
    pub collect_min_age: Duration,
    /// What is counted.
    pub metrics: Metrics,
}

/// Trouble in a job.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// In the index.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// In the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a round of jobs did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Upload sessions that had expired.
    pub uploads_expired: u64,
    /// Blobs taken from repositories where no manifest needed them.
    pub links_collected: u64,
    /// Blobs that no repository held.
    pub blobs_collected: u64,
    /// Bytes of those blobs.
    pub bytes_collected: u64,
    /// Objects deleted from the store.
    pub objects_deleted: u64,
    /// Objects the store would not delete; they are tried again later.
    pub objects_failed: u64,
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.uploads_expired += other.uploads_expired;
        self.links_collected += other.links_collected;
        self.blobs_collected += other.blobs_collected;
        self.bytes_collected += other.bytes_collected;
        self.objects_deleted += other.objects_deleted;
        self.objects_failed += other.objects_failed;
    }
}

/// One round of every job, in the order that lets the last delete what the first found.
///
/// `progress` hears what was done so far, batch by batch.
pub async fn round(
    context: &Context,
    progress: &mut (dyn FnMut(&Report) + Send),
) -> Result<Report, JobError> {
    let mut total = Report::default();
    loop {
        let step = uploads::expire(context).await?;
        total += step;
        progress(&total);
        if step == Report::default() {
            break;
        }
    }
    blobs::collect(context, &mut total, progress).await?;
    objects::delete(context, &mut total, progress).await?;
    tokens::expire(context).await?;
    Ok(total)
}

/// Takes every session from its writer, who was an earlier life of this process. Only for a process
/// that knows it is alone.
pub async fn release(context: &Context) -> Result<(), JobError> {
    uploads::release(context).await
}

/// Runs rounds until `stop`.
pub async fn run(context: Context, every: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match round(&context, &mut |_| {}).await {
            Ok(report) if report == Report::default() => {}
            Ok(report) => tracing::info!(
                uploads_expired = report.uploads_expired,
                links_collected = report.links_collected,
                blobs_collected = report.blobs_collected,
                bytes_collected = report.bytes_collected,
                objects_deleted = report.objects_deleted,
                objects_failed = report.objects_failed,
                "swept {} upload sessions, collected {} blobs, deleted {} objects",
                report.uploads_expired,
                report.blobs_collected,
                report.objects_deleted
            ),
            Err(error) => tracing::error!(%error, "a round of jobs broke off; the next one goes on"),
        }
        match db::blobs::count_missing(&context.db).await {
            Ok(count) => context.metrics.blobs_missing(count),
            Err(error) => tracing::warn!(%error, "could not count the blobs that are lost"),
        }
    }
}
