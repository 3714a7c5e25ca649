//! The memory that all uploads share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What memory is counted in.
const UNIT_BYTES: u64 = 64 * 1024;
/// The size of the pieces that are used again.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;

/// A bound on what all uploads together hold. Who asks first gets first.
#[derive(Debug)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    units: u32,
    waiting: AtomicUsize,
    /// Pieces that nobody uses now. Given back and taken anew, they would lie all over the allocator's
    /// memory, which then holds twice what is in use.
    pieces: Mutex<Vec<Vec<u8>>>,
}

/// Memory of the budget, given back when this is dropped.
pub(crate) type Held = OwnedSemaphorePermit;

impl Budget {
    /// So many bytes, but never less than `least`.
    pub(crate) fn new(bytes: u64, least: u64) -> Arc<Self> {
        let units = units(bytes.max(least)).min(Semaphore::MAX_PERMITS as u64);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let free = Arc::new(Semaphore::new(units as usize));
        Arc::new(Self { free, units, waiting: AtomicUsize::new(0), pieces: Mutex::default() })
    }

    /// Waits for so much memory, or for all there is if that is less.
    ///
    /// Whoever waits here must hold nothing that others wait for, but what comes free by itself.
    pub(crate) async fn take(&self, bytes: u64) -> Held {
        let wanted = u32::try_from(units(bytes)).unwrap_or(u32::MAX).clamp(1, self.units);
        if let Ok(held) = Arc::clone(&self.free).try_acquire_many_owned(wanted) {
            return held;
        }
        let _waiting = Waiting::new(&self.waiting);
        Arc::clone(&self.free).acquire_many_owned(wanted).await.expect("the budget is never closed")
    }

    /// An empty piece of memory that was taken.
    pub(crate) fn piece(&self) -> Vec<u8> {
        let used = self.pieces.lock().unwrap_or_else(PoisonError::into_inner).pop();
        used.unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES))
    }

    /// Keeps a piece for whoever needs one next.
    pub(crate) fn give_back(&self, mut piece: Vec<u8>) {
        let most = u64::from(self.units) * UNIT_BYTES / PIECE_BYTES as u64;
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        if piece.capacity() == PIECE_BYTES && (pieces.len() as u64) < most {
            piece.clear();
            pieces.push(piece);
        }
    }

    /// Whether somebody waits for memory.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

fn units(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT_BYTES)
}

/// One who waits, until this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
