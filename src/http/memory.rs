//! The memory that manifests on their way in and pages of referrers on their way out share.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::registry::SMALL_MANIFEST_BYTES;

/// The unit memory is counted in.
const UNIT_BYTES: usize = 1024;
/// What is sent in one go of what holds memory.
const PIECE_BYTES: usize = 16 * 1024;

/// A bound on what all of them hold together, beside [`SMALL_MANIFEST_BYTES`] each: nearly all manifests are smaller,
/// and wait for nobody.
#[derive(Debug)]
pub(super) struct Memory {
    free: Arc<Semaphore>,
    units: usize,
}

/// Memory that may be used, until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Held(Option<OwnedSemaphorePermit>);

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { free: Arc::new(Semaphore::new(units)), units }
    }

    /// Waits for memory for so many bytes.
    pub(super) async fn hold(&self, bytes: usize) -> Held {
        let mut held = Held::default();
        self.grow(&mut held, bytes).await;
        held
    }

    /// Waits until what is held is enough for so many bytes, or is all there is.
    pub(super) async fn grow(&self, held: &mut Held, bytes: usize) {
        let wanted = bytes.saturating_sub(SMALL_MANIFEST_BYTES).div_ceil(UNIT_BYTES).min(self.units);
        let has = held.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(missing) = u32::try_from(wanted.saturating_sub(has)).ok().filter(|missing| *missing > 0)
        else {
            return;
        };
        let more = Arc::clone(&self.free).acquire_many_owned(missing).await.expect("it is never closed");
        match &mut held.0 {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
    }
}

impl Held {
    /// A body that gives its memory back when it has been sent or cut.
    pub(super) fn send(self, bytes: Bytes) -> Body {
        Body::new(HeldBody { bytes, _held: self })
    }
}

/// What is left of a body that holds memory.
struct HeldBody {
    bytes: Bytes,
    _held: Held,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = Infallible;

    /// The next piece, as a copy: where it waits for a client that does not read, it must not keep all the rest in
    /// memory when this has been dropped.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.bytes.len().min(PIECE_BYTES);
        let piece = Bytes::copy_from_slice(&self.bytes.split_to(length));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}
