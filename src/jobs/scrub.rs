//! Reads every blob again, round after round, at the pace that brings a round through in its period.
//!
//! What a disk or a bucket loses in silence is found before somebody needs it. How far a round has
//! come is in the index, so that it goes on after a restart and on another replica.

use std::time::Duration;

use berth_storage::{Digest, Hasher, Key, StoreError};
use futures_util::TryStreamExt as _;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Context, JobError};
use crate::db::{blobs, scrubs};
use crate::telemetry::FoundBy;

/// How long a replica that scrubs may be silent before another does.
const LEASE: Duration = Duration::from_mins(10);
/// How often the round is looked at when there is nothing to do, or another replica does it …
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// … and at least how often a busy scrubber says how far it is.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Blobs that are looked up at a time.
const BATCH: i64 = 100;
/// Tags that are named of a blob that is lost.
const NAMES: i64 = 100;

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a round takes.
    pub period: Duration,
    /// What is read in a second at most, in bytes.
    pub bytes_per_second: u64,
}

/// Scrubs until `stop`.
pub async fn run(context: Context, settings: Settings, stop: CancellationToken) {
    let scrubber = Scrubber { context, settings, holder: Key::generate().to_string() };
    let working = async {
        loop {
            let next = scrubber.step().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "scrubbing met trouble; trying again later");
                LOOK_EVERY
            });
            sleep(next).await;
        }
    };
    stop.run_until_cancelled(working).await;
    if let Err(error) = scrubber.let_go().await {
        tracing::debug!(%error, "could not let go of the scrub; its lease runs out");
    }
}

struct Scrubber {
    context: Context,
    settings: Settings,
    holder: String,
}

/// What reading a blob came to.
enum Verdict {
    Whole,
    Lost(String),
    /// It is another blob's object now, or the store met trouble that says nothing of the blob.
    Unknown,
}

impl Scrubber {
    /// Reads the blobs whose time has come; the answer is when to look again.
    async fn step(&self) -> Result<Duration, JobError> {
        let Some(mut scrub) = self.take().await? else { return Ok(LOOK_EVERY) };
        if scrub.begun_at == 0 && !self.begin(&mut scrub).await? {
            return Ok(LOOK_EVERY);
        }
        let mut saved = Instant::now();
        loop {
            let wait = self.wait(&scrub);
            if !wait.is_zero() {
                self.save(&scrub).await?;
                return Ok(wait);
            }
            let batch = blobs::behind(&self.context.db, &scrub.position, BATCH).await?;
            if batch.is_empty() {
                return self.end(scrub).await;
            }
            for blob in batch {
                if !self.wait(&scrub).is_zero() {
                    break;
                }
                self.look_at(&blob, &mut saved, &scrub).await?;
                blob.digest.as_str().clone_into(&mut scrub.position);
                scrub.done_bytes += blob.size_bytes;
                if saved.elapsed() >= SAVE_EVERY {
                    if !self.save(&scrub).await? {
                        return Ok(LOOK_EVERY);
                    }
                    saved = Instant::now();
                }
            }
        }
    }

    /// How long there is nothing to do: what has been read is ahead of what the round asks for by now.
    fn wait(&self, scrub: &scrubs::Scrub) -> Duration {
        let elapsed = millis_since(scrub.begun_at, self.context.clock.now());
        let period = self.settings.period.as_millis().max(1);
        // The first blob of a round is due at once, the next when that much of the time has gone by. What
        // has come since the round began is due at its end.
        let due_at = u128::from(scrub.done_bytes) * period / u128::from(scrub.total_bytes.max(1));
        let due_at = due_at.min(period);
        let left = due_at.saturating_sub(elapsed);
        Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX)).min(LOOK_EVERY)
    }

    async fn begin(&self, scrub: &mut scrubs::Scrub) -> Result<bool, JobError> {
        let total_bytes = blobs::total_bytes(&self.context.db).await?;
        let begun_at = self.context.clock.now();
        *scrub = scrubs::Scrub { position: String::new(), begun_at, total_bytes, done_bytes: 0 };
        self.save(scrub).await
    }

    /// A round is through. The next one begins when its period is over.
    async fn end(&self, scrub: scrubs::Scrub) -> Result<Duration, JobError> {
        let elapsed = millis_since(scrub.begun_at, self.context.clock.now());
        let left = self.settings.period.as_millis().saturating_sub(elapsed);
        if left > 0 {
            self.save(&scrub).await?;
            return Ok(Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX)).min(LOOK_EVERY));
        }
        tracing::info!(size_bytes = scrub.done_bytes, "scrubbed everything, {} bytes", scrub.done_bytes);
        self.save(&scrubs::Scrub { begun_at: 0, ..scrub }).await?;
        Ok(Duration::from_secs(1).min(self.settings.period))
    }

    async fn look_at(
        &self,
        blob: &blobs::Stored,
        saved: &mut Instant,
        scrub: &scrubs::Scrub,
    ) -> Result<(), JobError> {
        match self.read(blob, saved, scrub).await? {
            Verdict::Whole => self.context.metrics.scrubbed(blob.size_bytes),
            Verdict::Lost(reason) => self.lose(blob, &reason).await?,
            Verdict::Unknown => {}
        }
        Ok(())
    }

    /// Reads and hashes a blob, no faster than the rate.
    async fn read(
        &self,
        blob: &blobs::Stored,
        saved: &mut Instant,
        scrub: &scrubs::Scrub,
    ) -> Result<Verdict, JobError> {
        let mut bytes = match self.context.store.scan(&blob.storage_key, blob.size_bytes).await {
            Ok(bytes) => bytes,
            Err(error) => return Ok(verdict(&blob.digest, error)),
        };
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let (begun, mut done) = (Instant::now(), 0);
        loop {
            match bytes.try_next().await {
                Ok(None) => break,
                Ok(Some(piece)) => {
                    hasher.update(&piece);
                    done += piece.len() as u64;
                }
                Err(error) => return Ok(verdict(&blob.digest, error)),
            }
            sleep_until(begun + self.time_for(done)).await;
            if saved.elapsed() >= SAVE_EVERY {
                // A large blob takes long; the position stays where it was.
                self.save(scrub).await?;
                *saved = Instant::now();
            }
        }
        let actual = hasher.digest();
        if actual == blob.digest {
            return Ok(Verdict::Whole);
        }
        Ok(Verdict::Lost(format!("its bytes hash to {actual}")))
    }

    fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_micros(bytes.saturating_mul(1_000_000) / self.settings.bytes_per_second.max(1))
    }

    /// From now on nobody is told that the blob is here; the next push of its bytes heals it.
    async fn lose(&self, blob: &blobs::Stored, reason: &str) -> Result<(), JobError> {
        let Context { db, clock, metrics, .. } = &self.context;
        let mut tx = db.begin().await?;
        // Collected, or healed, since it was looked up?
        if blobs::mark_missing(&mut tx, &blob.digest, &blob.storage_key, clock.now()).await? == 0 {
            return Ok(());
        }
        tx.commit().await?;
        metrics.blob_lost(FoundBy::scrub);
        let needed_by = blobs::needed_by(db, &blob.digest, NAMES).await?.join(", ");
        let (digest, key) = (&blob.digest, &blob.storage_key);
        tracing::error!(%digest, %key, reason, needed_by,
            "blob {digest} is damaged: {reason}; push an image that has it to restore it");
        Ok(())
    }

    async fn take(&self) -> Result<Option<scrubs::Scrub>, JobError> {
        let clock = &self.context.clock;
        let mut tx = self.context.db.begin_one().await?;
        let scrub = scrubs::take(&mut tx, &self.holder, clock.now(), clock.after(LEASE)).await?;
        tx.commit_lightly().await?;
        Ok(scrub)
    }

    /// `false` once another replica scrubs.
    async fn save(&self, scrub: &scrubs::Scrub) -> Result<bool, JobError> {
        self.save_until(scrub, self.context.clock.after(LEASE)).await
    }

    async fn save_until(&self, scrub: &scrubs::Scrub, until: i64) -> Result<bool, JobError> {
        let mut tx = self.context.db.begin_one().await?;
        let saved = scrubs::save(&mut tx, &self.holder, scrub, until).await?;
        tx.commit_lightly().await?;
        Ok(saved > 0)
    }

    async fn let_go(&self) -> Result<(), JobError> {
        if let Some(scrub) = self.take().await? {
            self.save_until(&scrub, 0).await?;
        }
        Ok(())
    }
}

fn verdict(digest: &Digest, error: StoreError) -> Verdict {
    match error {
        StoreError::Missing { .. } | StoreError::WrongSize { .. } => Verdict::Lost(error.to_string()),
        error => {
            tracing::warn!(%digest, %error, "could not scrub blob {digest}; the next round tries again");
            Verdict::Unknown
        }
    }
}

fn millis_since(then: i64, now: i64) -> u128 {
    u128::try_from(now.saturating_sub(then)).unwrap_or_default()
}
