//! Pieces of objects on a disk that is near.
//!
//! Keys are never used again and objects never change, so what is kept is never stale. It is compared with
//! its checksum whenever it is read; what was damaged is fetched anew. The cache only helps: trouble with it
//! is a line in the log, and the store is asked.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder as _, Error, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
};

use crate::{Key, StoreError};

/// What a folder of pieces is called; its version and size follow, so that another one is begun anew.
const FOLDER: &str = "pieces-1-";
const LOCK: &str = "berth-cache.lock";
const MIB: usize = 1024 * 1024;
/// Room is made in blocks of this size, and one is always free.
const BLOCK_BYTES: usize = 64 * MIB;
/// What waits to be written, at most. Beyond it a piece is not kept.
const QUEUE_BYTES: usize = 32 * MIB;

/// Where pieces are kept, and how many.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A folder of its own on a local disk.
    pub folder: PathBuf,
    /// What they may take there, in bytes.
    pub size_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Cache {
    pieces: HybridCache<String, Chunks>,
    /// Held while it is open: two processes would write over each other's pieces.
    _lock: File,
}

/// A piece as it came.
#[derive(Debug)]
struct Chunks(Vec<Bytes>);

impl Cache {
    /// Opens a cache, or makes one. What was kept before is there again.
    pub(crate) async fn open(settings: Settings) -> Result<Self, StoreError> {
        let Settings { folder, size_bytes } = settings;
        let refused = |path: &Path| {
            let path = path.to_owned();
            move |reason: String| StoreError::Cache { path, reason }
        };
        let (lock, pieces) = prepare(&folder, size_bytes).map_err(|error| refused(&folder)(error))?;
        let size = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        let device = FsDeviceBuilder::new(&pieces).with_capacity(size).build();
        let device = device.map_err(|error| refused(&folder)(error.to_string()))?;
        let engine = BlockEngineConfig::new(device)
            .with_block_size(BLOCK_BYTES)
            .with_buffer_pool_size(QUEUE_BYTES)
            .with_submit_queue_size_threshold(QUEUE_BYTES);
        // One piece stays in memory and is written when it goes, as is one that is read while it is among the
        // next to be overwritten. The page cache does the rest.
        let builder = HybridCacheBuilder::new().memory(1).with_shards(1);
        let pieces = builder.storage().with_engine_config(engine).build().await;
        let pieces = pieces.map_err(|error| refused(&folder)(error.to_string()))?;
        Ok(Self { pieces, _lock: lock })
    }

    /// A piece, if it is here and whole.
    pub(crate) async fn get(&self, key: &Key, range: Range<u64>) -> Option<Bytes> {
        match self.pieces.get(&name(key, &range)).await {
            Ok(found) => {
                let chunks: Vec<Bytes> = found?.value().0.clone();
                let bytes = if let [bytes] = &chunks[..] { bytes.clone() } else { chunks.concat().into() };
                (bytes.len() as u64 == range.end - range.start).then_some(bytes)
            }
            Err(error) => {
                tracing::warn!(%key, %error, "could not read from the cache; asking the store");
                None
            }
        }
    }

    /// Keeps a piece, unless more are coming in than the disk takes.
    pub(crate) fn keep(&self, key: &Key, range: Range<u64>, chunks: Vec<Bytes>) {
        self.pieces.insert(name(key, &range), Chunks(chunks));
    }

    /// Waits until everything is on the disk.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.pieces.close().await {
            tracing::warn!(%error, "could not write all of the cache");
        }
    }
}

/// Locks the folder, and makes the one for pieces of this version and size; there is no other one then.
fn prepare(folder: &Path, size_bytes: u64) -> Result<(File, PathBuf), String> {
    let in_words = |error: io::Error| error.to_string();
    // What is private in the store is private here.
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(in_words)?;
    let lock = File::create(folder.join(LOCK)).map_err(in_words)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => "another process uses it; give each its own".to_owned(),
        TryLockError::Error(error) => in_words(error),
    })?;
    let current = format!("{FOLDER}{size_bytes}");
    for entry in fs::read_dir(folder).map_err(in_words)? {
        let name = entry.map_err(in_words)?.file_name().to_string_lossy().into_owned();
        if name == LOCK || name == current {
            continue;
        }
        if !name.starts_with("pieces-") {
            return Err(format!("{name} is in it, which is not the cache's; choose a folder of its own"));
        }
        fs::remove_dir_all(folder.join(name)).map_err(in_words)?;
    }
    let pieces = folder.join(current);
    DirBuilder::new().recursive(true).mode(0o700).create(&pieces).map_err(in_words)?;
    Ok((lock, pieces))
}

fn name(key: &Key, range: &Range<u64>) -> String {
    format!("{key}/{}-{}", range.start, range.end)
}

impl Code for Chunks {
    fn encode(&self, to: &mut impl Write) -> foyer::Result<()> {
        self.0.iter().try_for_each(|chunk| to.write_all(chunk)).map_err(Error::io_error)
    }

    fn decode(from: &mut impl Read) -> foyer::Result<Self> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map_err(Error::io_error)?;
        Ok(Self(vec![bytes.into()]))
    }

    fn estimated_size(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }
}
