//! What is read from a store, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What has been read since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    /// Requests to an object store for the bytes of an object.
    pub requests: u64,
    /// The bytes that came.
    pub bytes: u64,
    /// Pieces of objects that were in the cache.
    pub hits: u64,
    /// Pieces of objects that were looked for in the cache and not found.
    pub misses: u64,
}

/// Counts [`Reads`].
#[derive(Debug, Default)]
pub(crate) struct Tally {
    requests: AtomicU64,
    bytes: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Tally {
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Relaxed);
    }

    pub(crate) fn hit(&self) {
        self.hits.fetch_add(1, Relaxed);
    }

    pub(crate) fn miss(&self) {
        self.misses.fetch_add(1, Relaxed);
    }

    pub(crate) fn reads(&self) -> Reads {
        let [requests, bytes, hits, misses] =
            [&self.requests, &self.bytes, &self.hits, &self.misses].map(|count| count.load(Relaxed));
        Reads { requests, bytes, hits, misses }
    }
}
