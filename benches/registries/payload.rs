//! Request bodies that cost the load generator next to nothing: shared buffers, handed out frame by frame.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;

/// The moment at which the last byte of a body was handed to the kernel.
pub type LastByte = Arc<OnceLock<Instant>>;

/// A body: one buffer, then another one a number of times.
pub struct Payload {
    head: Bytes,
    filler: Bytes,
    filler_times: u64,
    /// Whether it is sent with its `Content-Length`, and not in chunks.
    pub announced: bool,
    is_open: bool,
    last_byte: Option<LastByte>,
}

impl Payload {
    /// No body at all.
    pub fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// A body sent with its `Content-Length`.
    pub fn whole(bytes: Bytes) -> Self {
        Self {
            head: bytes,
            filler: Bytes::new(),
            filler_times: 0,
            announced: true,
            is_open: false,
            last_byte: None,
        }
    }

    /// A body sent in chunks without a length, as docker does.
    pub fn chunked(bytes: Bytes) -> Self {
        Self { announced: false, ..Self::whole(bytes) }
    }

    /// One chunk of a body that does not end.
    pub fn open(bytes: Bytes) -> Self {
        Self { is_open: true, ..Self::chunked(bytes) }
    }

    /// A body of `head` and then `filler` `filler_times` times; notes when its end was reached.
    pub fn repeated(
        head: Bytes,
        filler: Bytes,
        filler_times: u64,
        announced: bool,
        last_byte: LastByte,
    ) -> Self {
        Self { head, filler, filler_times, announced, is_open: false, last_byte: Some(last_byte) }
    }

    /// How much there is still to send.
    pub fn size_bytes(&self) -> u64 {
        self.head.len() as u64 + self.filler.len() as u64 * self.filler_times
    }

    /// The next part of it.
    pub fn next_frame(&mut self) -> Option<Bytes> {
        if !self.head.is_empty() {
            return Some(std::mem::take(&mut self.head));
        }
        if self.filler_times > 0 {
            self.filler_times -= 1;
            return Some(self.filler.clone());
        }
        if let Some(last_byte) = &self.last_byte {
            last_byte.get_or_init(Instant::now);
        }
        None
    }

    /// Whether a last chunk follows the frames.
    pub fn ends_in_chunk(&self) -> bool {
        !self.announced && !self.is_open
    }
}
