//! The file of an upload.
//!
//! It is appended to in place. What the index does not know of is cut off by the next writer, and a
//! lock on the file keeps a writer out whose time is over.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::names::Names;
use crate::{IsOurs, Key, StoreError};

/// So much is written before the disk is asked to catch up, in the background …
const SYNC_AFTER_BYTES: u64 = 16 * 1024 * 1024;
/// … and so much before the upload waits for it. It keeps the last sync of a large layer short.
const SYNC_BEHIND_BYTES: u64 = 64 * 1024 * 1024;

/// A file that was made and locked in less has had no other writer: their leases are many times as long.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long the index may take to say whose an upload is: a thread and the lock wait for it.
const ASKED_WITHIN: Duration = Duration::from_secs(10);

/// The file of an upload. It is opened when something is done with it.
pub(super) struct Sink {
    key: Key,
    path: PathBuf,
    names: Arc<Names>,
    /// Where the index says that the upload stands; so much of the file is durable.
    offset: u64,
    /// Asked once.
    is_ours: Option<IsOurs>,
    file: Option<Arc<File>>,
    /// The file has changed since it was opened, or is new.
    dirty: bool,
    /// Written since a sync was last begun.
    unsynced: u64,
    /// Given to the sync that is running.
    behind: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("key", &self.key).field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Sink {
    /// The file at `path`, of an upload that stands at `offset`.
    pub(super) fn new(key: Key, path: PathBuf, names: Arc<Names>, offset: u64, is_ours: IsOurs) -> Self {
        Self {
            key,
            path,
            names,
            offset,
            is_ours: Some(is_ours),
            file: None,
            dirty: false,
            unsynced: 0,
            behind: 0,
            syncing: None,
        }
    }

    /// Opens the file, and cuts it to the offset the index knows: bytes behind it were never accounted
    /// for. Blocks.
    fn open(&mut self) -> Result<Arc<File>, StoreError> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let (key, offset, begun) = (self.key.clone(), self.offset, Instant::now());
        let (file, is_made) = match open_or_make(&self.path, offset) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Missing { key }),
            opened => opened.map_err(StoreError::io("open an object for writing"))?,
        };
        if is_made {
            self.names.made(&key);
        }
        fail::fail_point!("storage::created", |_| std::process::abort());
        lock(&file, &key)?;
        let actual = file.metadata().map_err(StoreError::io("look at an object"))?.len();
        // Others may have been there meanwhile, unless it was just made. From here on the lock keeps them out.
        let is_new = is_made && actual == 0 && begun.elapsed() < AT_ONCE;
        if !is_new && !self.is_ours()? {
            return Err(StoreError::Busy { key });
        }
        if actual < offset {
            return Err(StoreError::WrongSize { key, expected: offset, actual });
        }
        if actual > offset {
            file.set_len(offset).map_err(StoreError::io("cut an object"))?;
        }
        self.dirty = offset == 0 || actual > offset;
        let file = Arc::new(file);
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Asks whether the upload is this writer's still. Blocks.
    fn is_ours(&mut self) -> Result<bool, StoreError> {
        let Some(is_ours) = self.is_ours.take() else { return Ok(false) };
        let asked =
            tokio::runtime::Handle::current().block_on(async { timeout(ASKED_WITHIN, is_ours).await });
        asked.unwrap_or_else(|late| Err(late.into())).map_err(StoreError::Index)
    }

    /// Appends at `offset`. Blocks. After an error the file is as long as before.
    pub(super) fn write(&mut self, offset: u64, chunks: &[Bytes]) -> Result<(), StoreError> {
        let file = self.open()?;
        self.dirty = true;
        if let Err(error) = write_all_at(&file, offset, chunks) {
            // On a full disk every byte counts; should this fail too, the next writer cuts.
            let _ = file.set_len(offset);
            return Err(StoreError::io("write an object")(error));
        }
        fail::fail_point!("storage::written", |_| std::process::abort());
        self.unsynced += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        Ok(())
    }

    /// Has the disk catch up with what was written, and waits for it if it is far behind. Blocks.
    pub(super) fn catch_up(&mut self) -> Result<(), StoreError> {
        let file = self.open()?;
        if self.syncing.as_ref().is_some_and(JoinHandle::is_finished)
            || self.behind + self.unsynced >= SYNC_BEHIND_BYTES
        {
            self.settle()?;
        }
        if self.syncing.is_none() && self.unsynced >= SYNC_AFTER_BYTES {
            self.behind = std::mem::take(&mut self.unsynced);
            self.syncing = Some(spawn_blocking(move || file.sync_data()));
        }
        Ok(())
    }

    /// Waits for the sync that is running. Blocks.
    fn settle(&mut self) -> Result<(), StoreError> {
        let Some(task) = self.syncing.take() else { return Ok(()) };
        self.behind = 0;
        let synced = tokio::runtime::Handle::current()
            .block_on(task)
            .unwrap_or_else(|panic| Err(io::Error::other(panic)));
        synced.map_err(StoreError::Unsynced)
    }

    /// Returns when the bytes so far would survive a power cut. Blocks.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.settle()?;
        let file = self.open()?;
        if self.dirty {
            file.sync_data().map_err(StoreError::Unsynced)?;
        }
        (self.dirty, self.unsynced) = (false, 0);
        Ok(())
    }

    /// Returns when the bytes, and the name they are under, would survive a power cut. Blocks.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        fail::fail_point!("storage::synced", |_| std::process::abort());
        self.names.sync(&self.key, &self.path)
    }
}

/// The file of an upload that stands at `offset`, open for writing, and whether it was not there before.
fn open_or_make(path: &Path, offset: u64) -> io::Result<(File, bool)> {
    if offset == 0 {
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok((made?, true)),
        }
    }
    Ok((OpenOptions::new().write(true).open(path)?, false))
}

/// Writes all chunks in one go: the page cache takes one large write with less work than many small ones.
fn write_all_at(mut file: &File, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut rest = slices.as_mut_slice();
    // Those at the front that are empty.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Keeps other writers out until the file is closed: a lease runs out while its writer is stuck in
/// the disk or asleep with its machine, and what it still does then must not fall on the bytes of
/// the next one.
fn lock(file: &File, key: &Key) -> Result<(), StoreError> {
    const PAUSE: Duration = Duration::from_millis(20);
    const PAUSES: u32 = 100;
    for _ in 0..PAUSES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            // Most likely on its last write: a request that was cut is soon done.
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock an object")(error)),
        }
    }
    Err(StoreError::Busy { key: key.clone() })
}
