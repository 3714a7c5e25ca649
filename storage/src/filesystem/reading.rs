//! A file on its way out: read from the page cache where the request runs, and on a thread that may
//! block only when the disk has to be asked.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::StoreError;

/// Read in one go …
const LARGE_BYTES: usize = 256 * 1024;
/// … unless memory is short, or there is no more to read. A download holds at most two of them.
const SMALL_BYTES: usize = 16 * 1024;
/// Large buffers that are kept for the next download.
const KEPT: usize = 16;

/// The buffers of all downloads.
#[derive(Debug)]
pub(super) struct Buffers {
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lent: usize,
    idle: Vec<Box<[u8]>>,
}

/// A buffer, which goes back when it is dropped.
struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    home: Option<Arc<Buffers>>,
}

impl Buffers {
    /// So many bytes are in large buffers at most; whoever comes then gets small ones.
    pub(super) fn new(memory_bytes: u64) -> Arc<Self> {
        let most = usize::try_from(memory_bytes).unwrap_or(usize::MAX) / LARGE_BYTES;
        Arc::new(Self { most, inner: Mutex::default() })
    }

    fn take(self: &Arc<Self>, wanted: u64) -> Buffer {
        if wanted > SMALL_BYTES as u64 {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.lent < self.most {
                inner.lent += 1;
                let bytes = inner.idle.pop();
                drop(inner);
                let bytes = bytes.unwrap_or_else(|| vec![0; LARGE_BYTES].into());
                return Buffer { bytes, filled: 0, home: Some(Arc::clone(self)) };
            }
        }
        let size = usize::try_from(wanted).map_or(SMALL_BYTES, |wanted| wanted.min(SMALL_BYTES));
        Buffer { bytes: vec![0; size].into(), filled: 0, home: None }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        let mut inner = home.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.lent -= 1;
        if inner.idle.len() < KEPT {
            inner.idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// A download under way.
pub(super) struct Reading {
    file: Arc<File>,
    buffers: Arc<Buffers>,
    rest: Range<u64>,
    /// Read already.
    ready: Option<Buffer>,
    /// Being read: once the disk had to be asked, it is asked before the reader comes back.
    ahead: Option<JoinHandle<io::Result<Buffer>>>,
}

impl Reading {
    /// Begins, with the first piece. Blocks.
    pub(super) fn begin(file: File, range: Range<u64>, buffers: Arc<Buffers>) -> Result<Self, StoreError> {
        let mut reading =
            Self { file: Arc::new(file), buffers, rest: range.start..range.end, ready: None, ahead: None };
        if !reading.rest.is_empty() {
            let (at, buffer) = reading.next_piece();
            reading.ready = Some(fill(&reading.file, at, buffer).map_err(StoreError::io("read an object"))?);
        }
        Ok(reading)
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
        stream::unfold(self, Self::next)
    }

    async fn next(mut self) -> Option<(Result<Bytes, StoreError>, Self)> {
        let piece = match (self.ready.take(), self.ahead.take()) {
            (Some(piece), _) => Ok(piece),
            (None, Some(task)) => self.wait(task).await,
            (None, None) if self.rest.is_empty() => return None,
            (None, None) => {
                let (at, mut buffer) = self.next_piece();
                if fill_now(&self.file, at, &mut buffer) {
                    Ok(buffer)
                } else {
                    let task = self.spawn(at, buffer);
                    self.wait(task).await
                }
            }
        };
        match piece {
            Ok(piece) => Some((Ok(Bytes::from_owner(piece)), self)),
            Err(error) => {
                self.rest = 0..0;
                Some((Err(StoreError::io("read an object")(error)), self))
            }
        }
    }

    async fn wait(&mut self, task: JoinHandle<io::Result<Buffer>>) -> io::Result<Buffer> {
        let piece = task.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))?;
        if !self.rest.is_empty() {
            let (at, buffer) = self.next_piece();
            self.ahead = Some(self.spawn(at, buffer));
        }
        Ok(piece)
    }

    fn spawn(&self, at: u64, buffer: Buffer) -> JoinHandle<io::Result<Buffer>> {
        let file = Arc::clone(&self.file);
        spawn_blocking(move || fill(&file, at, buffer))
    }

    fn next_piece(&mut self) -> (u64, Buffer) {
        let at = self.rest.start;
        let wanted = self.rest.end - at;
        let mut buffer = self.buffers.take(wanted);
        buffer.filled =
            usize::try_from(wanted).map_or(buffer.bytes.len(), |wanted| wanted.min(buffer.bytes.len()));
        self.rest.start += buffer.filled as u64;
        (at, buffer)
    }
}

fn fill(file: &File, at: u64, mut buffer: Buffer) -> io::Result<Buffer> {
    let filled = buffer.filled;
    file.read_exact_at(&mut buffer.bytes[..filled], at)?;
    Ok(buffer)
}

/// Fills the buffer if that takes no disk: `false` if it does, or if it cannot be told.
#[cfg(target_os = "linux")]
fn fill_now(file: &File, at: u64, buffer: &mut Buffer) -> bool {
    use std::io::IoSliceMut;

    use rustix::io::{ReadWriteFlags, preadv2};

    let filled = buffer.filled;
    let mut slices = [IoSliceMut::new(&mut buffer.bytes[..filled])];
    matches!(preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT), Ok(read) if read == filled)
}

#[cfg(not(target_os = "linux"))]
fn fill_now(_: &File, _: u64, _: &mut Buffer) -> bool {
    false
}
