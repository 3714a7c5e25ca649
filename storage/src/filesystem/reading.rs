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
    /// Being read: where the disk has to be asked, it is asked before the reader comes back.
    ahead: Option<JoinHandle<io::Result<Buffer>>>,
}

impl Reading {
    /// Begins, with the first piece. Blocks.
    pub(super) fn begin(file: File, range: Range<u64>, buffers: Arc<Buffers>) -> Result<Self, StoreError> {
        let mut reading =
            Self { file: Arc::new(file), buffers, rest: range.start..range.end, ready: None, ahead: None };
        if !reading.rest.is_empty() {
            let (at, buffer) = reading.next_piece();
            reading.ready =
                Some(fill(&reading.file, at, buffer, 0).map_err(StoreError::io("read an object"))?);
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
                let read = fill_now(&self.file, at, &mut buffer);
                if read == buffer.filled {
                    Ok(buffer)
                } else {
                    let task = self.spawn(at, buffer, read);
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
            let (at, mut buffer) = self.next_piece();
            let read = fill_now(&self.file, at, &mut buffer);
            // One page that was not there, or was just being written back, says nothing of the next
            // ones: a download that stayed with the threads would pay two switches a piece to its end.
            if read == buffer.filled {
                self.ready = Some(buffer);
            } else {
                self.ahead = Some(self.spawn(at, buffer, read));
            }
        }
        Ok(piece)
    }

    fn spawn(&self, at: u64, buffer: Buffer, read: usize) -> JoinHandle<io::Result<Buffer>> {
        let file = Arc::clone(&self.file);
        spawn_blocking(move || fill(&file, at, buffer, read))
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

/// Fills the buffer, of which the first `read` bytes are there.
fn fill(file: &File, at: u64, mut buffer: Buffer, read: usize) -> io::Result<Buffer> {
    let filled = buffer.filled;
    file.read_exact_at(&mut buffer.bytes[read..filled], at + read as u64)?;
    Ok(buffer)
}

/// Fills as much of the buffer as takes no disk, and says how much: nothing if it cannot be told.
#[cfg(target_os = "linux")]
fn fill_now(file: &File, at: u64, buffer: &mut Buffer) -> usize {
    use std::io::IoSliceMut;

    use rustix::io::{ReadWriteFlags, preadv2};

    let filled = buffer.filled;
    let mut slices = [IoSliceMut::new(&mut buffer.bytes[..filled])];
    preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT).unwrap_or(0)
}

#[cfg(not(target_os = "linux"))]
fn fill_now(_: &File, _: u64, _: &mut Buffer) -> usize {
    0
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write as _;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    const PIECE: u64 = LARGE_BYTES as u64;

    #[tokio::test]
    async fn a_piece_that_takes_the_disk_does_not_make_the_next_ones_take_a_thread() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..8 * PIECE).map(|at| u8::try_from(at / 1000 % 251).unwrap()).collect();
        // In small writes: a page cache that is made of large folios drops only whole ones.
        for part in bytes.chunks(LARGE_BYTES / 4) {
            file.write_all(part).unwrap();
        }
        file.sync_all().unwrap();
        fadvise(&file, 2 * PIECE, std::num::NonZeroU64::new(PIECE), Advice::DontNeed).unwrap();

        let mut reading = Reading::begin(file, 0..8 * PIECE, Buffers::new(4 * PIECE)).unwrap();
        let mut read = Vec::new();
        for _ in 0..4 {
            let (piece, rest) = reading.next().await.unwrap();
            read.extend_from_slice(&piece.unwrap());
            reading = rest;
        }
        assert!(reading.ahead.is_none(), "a thread still reads what is in the page cache");
        while let Some((piece, rest)) = reading.next().await {
            read.extend_from_slice(&piece.unwrap());
            reading = rest;
        }
        assert!(read == bytes, "what was read is not what was written");
    }
}
