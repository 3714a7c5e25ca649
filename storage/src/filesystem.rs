//! A store in a local folder: `<root>/<first two digits>/<key>`, one file an object.
//!
//! A file is appended to in place while it is uploaded and is never renamed. What says that it is
//! complete is the index, not its name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::reading::{Buffers, Reading};
use crate::{Algorithm, ByteStream, Digest, Hasher, Key, Listed, SHARDS, StoreError};

const FORMAT: u64 = 1;
const MARKER: &str = "berth-store.json";
/// Read in one go for a hash.
const READ_BYTES: usize = 256 * 1024;
/// So much is written before the disk is asked to catch up, in the background …
const SYNC_AFTER_BYTES: u64 = 16 * 1024 * 1024;
/// … and so much before the upload waits for it. It keeps the last sync of a large layer short.
const SYNC_BEHIND_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct Filesystem(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    root: PathBuf,
    id: String,
    buffers: Arc<Buffers>,
}

/// Written once, when a store is made.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format: u64,
    id: String,
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| Err(StoreError::Io { operation, source: io::Error::other(panic) }))
}

impl Filesystem {
    pub(crate) async fn open(root: PathBuf, download_memory_bytes: u64) -> Result<Self, StoreError> {
        blocking("open the store", move || {
            fs::create_dir_all(&root)
                .map_err(|source| StoreError::NotWritable { path: root.clone(), source })?;
            let marker = read_marker(&root)?;
            let id = match marker {
                Some(marker) => marker.id,
                None => make(&root)?,
            };
            probe(&root)?;
            Ok(Self(Arc::new(Folder { root, id, buffers: Buffers::new(download_memory_bytes) })))
        })
        .await
    }

    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    pub(crate) fn location(&self) -> String {
        self.0.root.display().to_string()
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.0.root.join(key.shard()).join(key.as_str())
    }

    /// The file of an upload that stands at `offset`. It is opened when something is done with it.
    pub(crate) fn sink(&self, key: &Key, offset: u64) -> Sink {
        Sink {
            key: key.clone(),
            path: self.path(key),
            offset,
            file: None,
            dirty: false,
            unsynced: 0,
            behind: 0,
            syncing: None,
        }
    }

    pub(crate) async fn read(
        &self,
        key: &Key,
        size_bytes: u64,
        range: Range<u64>,
    ) -> Result<ByteStream, StoreError> {
        let (path, key, buffers) = (self.path(key), key.clone(), Arc::clone(&self.0.buffers));
        let reading = blocking("open an object", move || {
            // The first piece is read on the same thread: a small blob costs one hop.
            Reading::begin(open_whole(&path, &key, size_bytes)?, range, buffers)
        })
        .await?;
        Ok(reading.into_stream().boxed())
    }

    pub(crate) async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let path = self.path(key);
        blocking("look at an object", move || match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("look at an object")(error)),
        })
        .await
    }

    pub(crate) async fn delete(&self, key: &Key) -> Result<bool, StoreError> {
        let path = self.path(key);
        blocking("delete an object", move || {
            let was_there = match fs::remove_file(&path) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(StoreError::io("delete an object")(error)),
            };
            fail::fail_point!("storage::deleted", |_| std::process::abort());
            // The row goes next. Were the name to come back after a power cut, nothing would know it; and
            // one that is not there may have been removed just before a crash.
            sync_parent(&path)?;
            Ok(was_there)
        })
        .await
    }

    pub(crate) async fn list(&self, shard: u8) -> Result<Vec<Listed>, StoreError> {
        let folder = self.0.root.join(format!("{shard:02x}"));
        blocking("list objects", move || {
            let failed = StoreError::io("list objects");
            let mut found = Vec::new();
            for entry in fs::read_dir(&folder).map_err(&failed)? {
                let entry = entry.map_err(&failed)?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let Ok(key) = Key::try_from(name) else { continue };
                match entry.metadata() {
                    Ok(metadata) => found.push(Listed { key, size_bytes: metadata.len() }),
                    // Deleted since the listing began.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            Ok(found)
        })
        .await
    }

    pub(crate) async fn hash(
        &self,
        key: &Key,
        size_bytes: u64,
        algorithm: Algorithm,
    ) -> Result<Digest, StoreError> {
        let (path, key) = (self.path(key), key.clone());
        blocking("hash an object", move || {
            let mut file = open_whole(&path, &key, size_bytes)?;
            let mut hasher = Hasher::new(algorithm);
            let mut buffer = vec![0; READ_BYTES];
            loop {
                match file.read(&mut buffer).map_err(StoreError::io("read an object"))? {
                    0 => return Ok(hasher.digest()),
                    n => hasher.update(&buffer[..n]),
                }
            }
        })
        .await
    }
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

/// Opens an object, which must be as long as the index says.
fn open_whole(path: &Path, key: &Key, size_bytes: u64) -> Result<File, StoreError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::Missing { key: key.clone() },
        _ => StoreError::io("open an object")(error),
    })?;
    let actual = file.metadata().map_err(StoreError::io("look at an object"))?.len();
    if actual != size_bytes {
        return Err(StoreError::WrongSize { key: key.clone(), expected: size_bytes, actual });
    }
    Ok(file)
}

/// The file of an upload.
#[derive(Debug)]
pub(crate) struct Sink {
    key: Key,
    path: PathBuf,
    /// Where the index says that the upload stands; so much of the file is durable.
    offset: u64,
    file: Option<Arc<File>>,
    /// The file has changed since it was opened, or is new.
    dirty: bool,
    /// Written since a sync was last begun.
    unsynced: u64,
    /// Given to the sync that is running.
    behind: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl Sink {
    /// Opens the file, and cuts it to the offset the index knows: bytes behind it were never accounted
    /// for. Blocks.
    fn open(&mut self) -> Result<Arc<File>, StoreError> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let (key, offset) = (self.key.clone(), self.offset);
        let opened = OpenOptions::new().write(true).create(offset == 0).truncate(false).open(&self.path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Missing { key }),
            opened => opened.map_err(StoreError::io("open an object for writing"))?,
        };
        fail::fail_point!("storage::created", |_| std::process::abort());
        lock(&file, &key)?;
        let actual = file.metadata().map_err(StoreError::io("look at an object"))?.len();
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

    /// Appends at `offset`. Blocks. After an error the file is as long as before.
    pub(crate) fn write(&mut self, offset: u64, chunks: &[Bytes]) -> Result<(), StoreError> {
        let file = self.open()?;
        self.dirty = true;
        let mut at = offset;
        for chunk in chunks {
            if let Err(error) = file.write_all_at(chunk, at) {
                // On a full disk every byte counts; should this fail too, the next writer cuts.
                let _ = file.set_len(offset);
                return Err(StoreError::io("write an object")(error));
            }
            at += chunk.len() as u64;
        }
        fail::fail_point!("storage::written", |_| std::process::abort());
        self.unsynced += at - offset;
        self.catch_up(&file)
    }

    fn catch_up(&mut self, file: &Arc<File>) -> Result<(), StoreError> {
        if self.syncing.as_ref().is_some_and(JoinHandle::is_finished)
            || self.behind + self.unsynced >= SYNC_BEHIND_BYTES
        {
            self.settle()?;
        }
        if self.syncing.is_none() && self.unsynced >= SYNC_AFTER_BYTES {
            let file = Arc::clone(file);
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
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.settle()?;
        let file = self.open()?;
        if self.dirty {
            file.sync_data().map_err(StoreError::Unsynced)?;
        }
        (self.dirty, self.unsynced) = (false, 0);
        Ok(())
    }

    /// Returns when the bytes, and the name they are under, would survive a power cut. Blocks.
    pub(crate) fn finish(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        fail::fail_point!("storage::synced", |_| std::process::abort());
        sync_parent(&self.path)
    }
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().expect("an object is in a folder");
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::io("sync a folder"))
}

fn read_marker(root: &Path) -> Result<Option<Marker>, StoreError> {
    let path = root.join(MARKER);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Io { operation: "read the store's marker file", source }),
    };
    // The format is looked at before the rest: another version's marker may have other fields.
    let found = serde_json::from_str::<serde_json::Value>(&text)
        .ok()
        .and_then(|marker| marker.get("format")?.as_u64())
        .ok_or_else(|| StoreError::Marker { path: path.clone(), reason: "it names no format".into() })?;
    if found != FORMAT {
        return Err(StoreError::Format { path: root.to_owned(), found, supported: FORMAT });
    }
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| StoreError::Marker { path, reason: error.to_string() })
}

/// Makes an empty folder a store; the marker comes last, so a half-made one is made again.
fn make(root: &Path) -> Result<String, StoreError> {
    let not_writable = |source| StoreError::NotWritable { path: root.to_owned(), source };
    let ours = |name: &str| {
        name == "lost+found" || name.starts_with(MARKER) || (name.len() == 2 && hex::decode(name).is_ok())
    };
    for entry in fs::read_dir(root).map_err(not_writable)? {
        let name = entry.map_err(not_writable)?.file_name();
        if !name.to_str().is_some_and(ours) {
            return Err(StoreError::NotAStore { path: root.to_owned() });
        }
    }
    for shard in 0..SHARDS {
        fs::create_dir_all(root.join(format!("{shard:02x}"))).map_err(not_writable)?;
    }
    let marker = Marker { format: FORMAT, id: Key::generate().to_string() };
    let text = serde_json::to_string(&marker).expect("a marker is plain JSON");
    let temporary = root.join(format!("{MARKER}.new"));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, root.join(MARKER))?;
        File::open(root)?.sync_all()
    };
    write().map_err(not_writable)?;
    Ok(marker.id)
}

/// A folder that cannot be written is refused now, not at the first push.
fn probe(root: &Path) -> Result<(), StoreError> {
    let path = root.join(format!("{MARKER}.probe"));
    File::create(&path)
        .and_then(|_| fs::remove_file(&path))
        .map_err(|source| StoreError::NotWritable { path: root.to_owned(), source })
}
