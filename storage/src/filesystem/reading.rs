//! A file on its way out: read from the page cache where the request runs, and on a thread that may
//! block only when the disk has to be asked. What is in the page cache need not be read at all where
//! the kernel can send it itself.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{FileRange, Piece, StoreError};

/// Read in one go …
const LARGE_BYTES: usize = 256 * 1024;
/// … unless memory is short, or there is no more to read. A download holds at most two of them.
const SMALL_BYTES: usize = 16 * 1024;
/// Large buffers that are kept for the next download.
const KEPT: usize = 16;
/// How far apart the bytes are by which the page cache is judged, and what is worth a call of its own.
const STRIDE_BYTES: usize = 64 * 1024;

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
    /// How much is handed out unread in one go, where the page cache has it.
    unread_bytes: usize,
    /// Read already.
    ready: Option<Buffer>,
    /// Being read: where the disk has to be asked, it is asked before the reader comes back.
    ahead: Option<JoinHandle<io::Result<Buffer>>>,
}

impl Reading {
    /// Begins, with the first piece where the disk has to be asked for it. Blocks.
    ///
    /// What is in memory is read when it is about to be sent: of a thousand downloads that begin at once,
    /// those that wait for their turn hold no buffer.
    pub(super) fn begin(
        file: File,
        range: Range<u64>,
        unread_bytes: usize,
        buffers: Arc<Buffers>,
    ) -> Result<Self, StoreError> {
        let (file, rest) = (Arc::new(file), range);
        let mut reading = Self { file, buffers, rest, unread_bytes, ready: None, ahead: None };
        if !reading.rest.is_empty() && !is_cached(&reading.file, reading.rest.start) {
            let (at, buffer) = reading.next_piece();
            reading.ready =
                Some(fill(&reading.file, at, buffer, 0).map_err(StoreError::io("read an object"))?);
        }
        Ok(reading)
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Piece, StoreError>> + Send {
        stream::unfold(self, Self::next)
    }

    async fn next(mut self) -> Option<(Result<Piece, StoreError>, Self)> {
        let piece = match (self.ready.take(), self.ahead.take()) {
            (Some(piece), _) => Ok(piece),
            (None, Some(task)) => self.wait(task).await,
            (None, None) if self.rest.is_empty() => return None,
            (None, None) => {
                let length = self.cached_bytes();
                if length > 0 {
                    return Some((Ok(self.unread_piece(length)), self));
                }
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
            Ok(piece) => Some((Ok(Piece::Bytes(Bytes::from_owner(piece))), self)),
            Err(error) => {
                self.rest = 0..0;
                Some((Err(StoreError::io("read an object")(error)), self))
            }
        }
    }

    async fn wait(&mut self, task: JoinHandle<io::Result<Buffer>>) -> io::Result<Buffer> {
        let piece = task.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))?;
        // What need not be read need not be read ahead either: the next look finds it.
        if !self.rest.is_empty() && self.cached_bytes() == 0 {
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

    /// How much of what comes next can be handed out unread: nothing if it is little, or has to be got
    /// from the disk.
    fn cached_bytes(&self) -> usize {
        let left = usize::try_from(self.rest.end - self.rest.start).unwrap_or(usize::MAX);
        let most = left.min(self.unread_bytes);
        if most > STRIDE_BYTES { cached_bytes(&self.file, self.rest.start, most) } else { 0 }
    }

    fn unread_piece(&mut self, size_bytes: usize) -> Piece {
        let start_bytes = self.rest.start;
        self.rest.start += size_bytes as u64;
        Piece::File(FileRange { file: Arc::clone(&self.file), start_bytes, size_bytes })
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

/// How many bytes from `at` on, `most` at most, are in the page cache, as far as one byte in each
/// stride tells.
fn cached_bytes(file: &File, at: u64, most: usize) -> usize {
    let is_there = |offset: usize| is_cached(file, at + offset as u64);
    match (0..most).step_by(STRIDE_BYTES).find(|&offset| !is_there(offset)) {
        Some(offset) => offset,
        None if is_there(most - 1) => most,
        None => (most - 1) / STRIDE_BYTES * STRIDE_BYTES,
    }
}

impl FileRange {
    /// Whether the page cache still has them, as far as the first tells.
    pub fn is_cached(&self) -> bool {
        is_cached(&self.file, self.start_bytes)
    }

    /// Has them in the page cache again. Blocks.
    pub fn load(&self) -> io::Result<()> {
        let (mut at, end) = (self.start_bytes, self.start_bytes + self.size_bytes as u64);
        let mut buffer = vec![0; SMALL_BYTES];
        while at < end {
            match self.file.read_at(&mut buffer, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => at += read as u64,
            }
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn is_cached(file: &File, at: u64) -> bool {
    use std::io::IoSliceMut;

    use rustix::io::{ReadWriteFlags, preadv2};

    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT) == Ok(1)
}

#[cfg(not(target_os = "linux"))]
fn is_cached(_: &File, _: u64) -> bool {
    false
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

    /// Eight pieces, the third of which is not in the page cache.
    fn file() -> (File, Vec<u8>) {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..8 * PIECE).map(|at| u8::try_from(at / 1000 % 251).unwrap()).collect();
        // In small writes: a page cache that is made of large folios drops only whole ones.
        for part in bytes.chunks(LARGE_BYTES / 4) {
            file.write_all(part).unwrap();
        }
        file.sync_all().unwrap();
        fadvise(&file, 2 * PIECE, std::num::NonZeroU64::new(PIECE), Advice::DontNeed).unwrap();
        (file, bytes)
    }

    fn read(piece: Piece) -> Bytes {
        match piece {
            Piece::Bytes(bytes) => bytes,
            Piece::File(FileRange { file, start_bytes, size_bytes }) => {
                let mut bytes = vec![0; size_bytes];
                file.read_exact_at(&mut bytes, start_bytes).unwrap();
                bytes.into()
            }
        }
    }

    #[tokio::test]
    async fn a_piece_that_takes_the_disk_does_not_make_the_next_ones_take_a_thread() {
        let (file, bytes) = file();
        let mut reading = Reading::begin(file, 0..8 * PIECE, 0, Buffers::new(4 * PIECE)).unwrap();
        let mut all = Vec::new();
        for _ in 0..4 {
            let (piece, rest) = reading.next().await.unwrap();
            all.extend_from_slice(&read(piece.unwrap()));
            reading = rest;
        }
        assert!(reading.ahead.is_none(), "a thread still reads what is in the page cache");
        while let Some((piece, rest)) = reading.next().await {
            all.extend_from_slice(&read(piece.unwrap()));
            reading = rest;
        }
        assert!(all == bytes, "what was read is not what was written");
    }

    #[tokio::test]
    async fn what_is_in_the_page_cache_is_handed_out_unread_and_the_rest_is_read() {
        let (file, bytes) = file();
        for range in [0..8 * PIECE, 1000..8 * PIECE - 1000, 2 * PIECE + 5..8 * PIECE, 0..2 * PIECE] {
            fadvise(&file, 2 * PIECE, std::num::NonZeroU64::new(PIECE), Advice::DontNeed).unwrap();
            let (again, most) = (file.try_clone().unwrap(), 4 * LARGE_BYTES);
            let mut reading = Reading::begin(again, range.clone(), most, Buffers::new(4 * PIECE)).unwrap();
            let (mut at, mut unread, mut all) = (range.start, 0, Vec::new());
            while let Some((piece, rest)) = reading.next().await {
                let piece = piece.unwrap();
                if let Piece::File(piece) = &piece {
                    assert_eq!(piece.start_bytes, at, "pieces are in order");
                    assert!(at != 2 * PIECE + 5, "the range begins with what was not in memory");
                    assert!(piece.size_bytes <= most);
                    unread += piece.size_bytes as u64;
                }
                all.extend_from_slice(&read(piece));
                at = range.start + all.len() as u64;
                reading = rest;
            }
            let wanted = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            assert!(all == bytes[wanted], "{range:?}: what was read is not what was written");
            assert!(unread >= PIECE, "{range:?}: only {unread} bytes were handed out unread");
        }
    }

    #[tokio::test]
    async fn what_is_small_is_read_with_the_look_at_it() {
        let (file, bytes) = file();
        let reading = Reading::begin(file, 0..1000, 4 * LARGE_BYTES, Buffers::new(4 * PIECE)).unwrap();
        assert!(reading.ready.is_none(), "a download that waits for its turn holds a buffer");
        let (piece, _) = reading.next().await.unwrap();
        let Ok(Piece::Bytes(piece)) = piece else { panic!("a small piece is bytes") };
        assert!(piece == bytes[..1000]);
    }
}
