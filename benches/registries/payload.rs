//! Request bodies that cost the load generator next to nothing: shared buffers, handed out frame by frame.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The moment at which the last byte of a body was taken for sending.
pub type LastByte = Arc<OnceLock<Instant>>;

/// A body: one buffer, then another one a number of times.
pub struct Payload {
    head: Bytes,
    filler: Bytes,
    filler_times: u64,
    announced: bool,
    last_byte: Option<LastByte>,
}

impl Payload {
    /// No body at all.
    pub fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// A body sent with its `Content-Length`.
    pub fn whole(bytes: Bytes) -> Self {
        Self { head: bytes, filler: Bytes::new(), filler_times: 0, announced: true, last_byte: None }
    }

    /// A body sent in chunks without a length, as docker does.
    pub fn chunked(bytes: Bytes) -> Self {
        Self { announced: false, ..Self::whole(bytes) }
    }

    /// A chunked body of `head` and then `filler` `filler_times` times; notes when its end was reached.
    pub fn repeated(head: Bytes, filler: Bytes, filler_times: u64, last_byte: LastByte) -> Self {
        Self { head, filler, filler_times, announced: false, last_byte: Some(last_byte) }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.head.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.head)))));
        }
        if self.filler_times > 0 {
            self.filler_times -= 1;
            return Poll::Ready(Some(Ok(Frame::data(self.filler.clone()))));
        }
        if let Some(last_byte) = &self.last_byte {
            last_byte.get_or_init(Instant::now);
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.announced && self.head.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.announced { SizeHint::with_exact(self.head.len() as u64) } else { SizeHint::default() }
    }
}
