//! The write-ahead log, as far as its syncs go: one for all who committed before it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Mutex, Notify, OwnedMutexGuard};
use tokio::task::spawn_blocking;

use crate::db::{Error, Result};

/// The log of an open database. SQLite keeps one file for as long as it is open.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    commits: AtomicU64,
    /// The last commit that would survive a power cut.
    synced: AtomicU64,
    /// The log's own handle, for the one who syncs.
    file: Arc<Mutex<Option<File>>>,
    /// Whoever syncs has ended.
    ended: Notify,
    /// Why a sync failed. The kernel may have dropped what it could not write, and the next sync would
    /// not say so: only what a restart finds can be trusted.
    failed: OnceLock<Arc<io::Error>>,
}

impl Log {
    pub(super) fn beside(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self {
            path: path.into(),
            commits: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            file: Arc::default(),
            ended: Notify::new(),
            failed: OnceLock::new(),
        }
    }

    /// An error once a commit could not be made durable: nothing is written from then on.
    pub(super) fn works(&self) -> Result<()> {
        match self.failed.get() {
            Some(error) => Err(Error::Unsynced(Arc::clone(error))),
            None => Ok(()),
        }
    }

    /// Counts a commit, by whoever still has the turn to write: a sync that counts it begins after it.
    pub(super) fn committed(&self) -> u64 {
        self.commits.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The last commit that was counted.
    pub(super) fn last(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// Returns when a commit would survive a power cut.
    pub(super) async fn sync(self: Arc<Self>, commit: u64) -> Result<()> {
        loop {
            let mut ended = pin!(self.ended.notified());
            // From here on no end is missed.
            ended.as_mut().enable();
            self.works()?;
            if self.synced.load(Ordering::SeqCst) >= commit {
                return Ok(());
            }
            match Arc::clone(&self.file).try_lock_owned() {
                Ok(file) => {
                    let log = Arc::clone(&self);
                    // A panic leaves the commit unsynced, and the next one tries.
                    let _ = spawn_blocking(move || log.sync_for_all(file)).await;
                }
                // A sync that began too early for this commit, maybe: then the next one is shared by
                // all who wait here.
                Err(_) => ended.await,
            }
        }
    }

    fn sync_for_all(&self, file: OwnedMutexGuard<Option<File>>) {
        // Also if this ends in a panic: another one must take over.
        let mut turn = SyncTurn { file: Some(file), ended: &self.ended };
        let file = turn.file.as_mut().expect("it is taken when the turn ends");
        let up_to = self.last();
        match sync(file, &self.path) {
            Ok(()) => drop(self.synced.fetch_max(up_to, Ordering::SeqCst)),
            Err(error) => self.fail(error),
        }
    }

    /// From now on nothing is written.
    pub(super) fn fail(&self, error: io::Error) {
        tracing::error!(%error, "the disk did not keep the index; berth must be started again");
        let _ = self.failed.set(Arc::new(error));
    }
}

/// The right to sync. Whoever waits is woken when it is free again.
struct SyncTurn<'a> {
    file: Option<OwnedMutexGuard<Option<File>>>,
    ended: &'a Notify,
}

impl Drop for SyncTurn<'_> {
    fn drop(&mut self) {
        drop(self.file.take());
        self.ended.notify_waiters();
    }
}

/// Syncs the log, and, the first time, that it is there.
fn sync(file: &mut Option<File>, path: &Path) -> io::Result<()> {
    fail::fail_point!("db::sync", |_| Err(io::Error::other("a test says that the disk is broken")));
    if let Some(file) = file {
        return file.sync_data();
    }
    let log = File::options().write(true).open(path)?;
    log.sync_all()?;
    if let Some(folder) = path.parent() {
        File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?.sync_all()?;
    }
    *file = Some(log);
    Ok(())
}
