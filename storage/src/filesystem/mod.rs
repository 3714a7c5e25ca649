//! A store in a local folder: `<root>/<first two digits>/<key>`, one file an object.
//!
//! A file is appended to in place while it is uploaded and is never renamed. What says that it is
//! complete is the index, not its name.

mod names;
mod reading;
mod sink;
mod writing;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use self::names::Names;
use self::reading::{Buffers, Reading};
use self::sink::Sink;
pub(crate) use self::writing::{BATCH_BYTES, Writer};
use crate::budget::Budget;
use crate::{Algorithm, Digest, Hasher, IsOurs, Key, Listed, PieceStream, SHARDS, StoreError, Upload};

const FORMAT: u64 = 1;
const MARKER: &str = "berth-store.json";
/// Read in one go for a hash.
const READ_BYTES: usize = 256 * 1024;
#[derive(Debug, Clone)]
pub(crate) struct Filesystem(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    root: PathBuf,
    id: String,
    buffers: Arc<Buffers>,
    names: Arc<Names>,
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
            let (buffers, names) = (Buffers::new(download_memory_bytes), Arc::new(Names::new()));
            Ok(Self(Arc::new(Folder { root, id, buffers, names })))
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

    pub(crate) fn writer(&self, upload: Upload, is_ours: IsOurs, budget: Arc<Budget>) -> Writer {
        let (key, names) = (upload.key().clone(), Arc::clone(&self.0.names));
        let sink = Sink::new(key, self.path(upload.key()), names, upload.offset(), is_ours);
        Writer::new(upload, sink, budget)
    }

    pub(crate) async fn close_as_it_is(&self, upload: &Upload) -> Result<bool, StoreError> {
        let (path, offset) = (self.path(upload.key()), upload.offset());
        let (key, names) = (upload.key().clone(), Arc::clone(&self.0.names));
        blocking("close an object", move || {
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                opened => opened.map_err(StoreError::io("open an object"))?,
            };
            // A writer whose time is over may still have it, and would go on where it is.
            match file.try_lock_shared() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(false),
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock an object")(error)),
            }
            if file.metadata().map_err(StoreError::io("look at an object"))?.len() != offset {
                return Ok(false);
            }
            // The bytes were synced when the index was told of them; their name was not.
            fail::fail_point!("storage::synced", |_| std::process::abort());
            names.sync(&key, &path)?;
            Ok(true)
        })
        .await
    }

    pub(crate) async fn read(
        &self,
        key: &Key,
        size_bytes: u64,
        range: Range<u64>,
        unread_bytes: usize,
    ) -> Result<PieceStream, StoreError> {
        let (path, key, buffers) = (self.path(key), key.clone(), Arc::clone(&self.0.buffers));
        let reading = blocking("open an object", move || {
            // What the disk has to be asked for is read on the same thread: a small blob costs one hop.
            Reading::begin(open_whole(&path, &key, size_bytes)?, range, unread_bytes, buffers)
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
        let (path, key, names) = (self.path(key), key.clone(), Arc::clone(&self.0.names));
        blocking("delete an object", move || {
            names.forget(&key);
            let was_there = match fs::remove_file(&path) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(StoreError::io("delete an object")(error)),
            };
            fail::fail_point!("storage::deleted", |_| std::process::abort());
            // The row goes next. Were the name to come back after a power cut, nothing would know it; and
            // one that is not there may have been removed just before a crash.
            names.sync_removed(&key, &path)?;
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

    /// Whether there is no object at all.
    pub(crate) async fn is_empty(&self) -> Result<bool, StoreError> {
        for shard in 0..SHARDS {
            let shard = u8::try_from(shard).expect("shards are counted by a byte");
            if !self.list(shard).await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
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
