//! Bodies: read with an idle limit, drained after a refusal, bounded in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http_body::{Frame, SizeHint};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::HttpError;
use crate::registry::{Source, SourceError};

/// What is read, at most, of a body that was refused, and for how long.
const DRAIN_BYTES: usize = 16 * 1024 * 1024;
const DRAIN_FOR: Duration = Duration::from_secs(5);
/// How long a manifest may take to come in; it is small, and holds memory.
const MANIFEST_WITHIN: Duration = Duration::from_mins(1);
/// The unit memory is counted in.
const UNIT: usize = 1024;

/// How many units some bytes are.
pub(super) fn permits(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

/// The body of a request. Clones read the same body.
#[derive(Clone)]
pub(super) struct RequestBody {
    stream: Arc<Mutex<BodyDataStream>>,
    idle: Duration,
    empty: bool,
}

impl RequestBody {
    pub(super) fn new(body: Body, idle: Duration) -> Self {
        let empty = http_body::Body::is_end_stream(&body);
        Self { stream: Arc::new(Mutex::new(body.into_data_stream())), idle, empty }
    }

    /// Whether it is known to have no byte.
    pub(super) fn is_empty(&self) -> bool {
        self.empty
    }

    /// The body as the registry takes it.
    pub(super) fn source(&self) -> Source {
        Box::pin(stream::unfold(Some(self.clone()), |body| async {
            let body = body?;
            match body.next().await? {
                Ok(bytes) => Some((Ok(bytes), Some(body))),
                // After an error there is no more.
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn next(&self) -> Option<Result<Bytes, SourceError>> {
        let mut stream = self.stream.lock().await;
        match timeout(self.idle, stream.next()).await {
            Err(_) => Some(Err(SourceError::Idle(self.idle.as_secs()))),
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some(Ok(bytes)),
            Ok(Some(Err(error))) => Some(Err(SourceError::Cut(root(&error)))),
        }
    }

    /// The whole body, which must not be longer than `limit`; memory is taken as bytes come.
    pub(super) async fn collect(
        &self,
        limit: usize,
        memory: &Arc<Semaphore>,
    ) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), HttpError> {
        let mut whole = BytesMut::new();
        let mut held = Vec::new();
        let reading = async {
            while let Some(bytes) = self.next().await {
                let bytes = bytes.map_err(HttpError::Body)?;
                if whole.len() + bytes.len() > limit {
                    return Err(HttpError::ManifestTooLarge { limit });
                }
                held.push(hold(memory, bytes.len()).await);
                whole.extend_from_slice(&bytes);
            }
            Ok(())
        };
        let late = || HttpError::Body(SourceError::Idle(MANIFEST_WITHIN.as_secs()));
        timeout(MANIFEST_WITHIN, reading).await.map_err(|_| late())??;
        Ok((whole.freeze(), held))
    }

    /// Reads and drops some of what is left.
    pub(super) async fn drain(&self) {
        let reading = async {
            let mut left = DRAIN_BYTES;
            while left > 0
                && let Some(Ok(bytes)) = self.next().await
            {
                left = left.saturating_sub(bytes.len());
            }
        };
        // Late or not, the answer goes out now.
        let _ = timeout(DRAIN_FOR, reading).await;
    }
}

/// Waits for memory for so many bytes.
pub(super) async fn hold(memory: &Arc<Semaphore>, bytes: usize) -> OwnedSemaphorePermit {
    let units = u32::try_from(permits(bytes)).unwrap_or(u32::MAX);
    Arc::clone(memory).acquire_many_owned(units).await.expect("the budget is never closed")
}

/// A response body that gives its memory back when it has been sent.
pub(super) struct HeldBody {
    bytes: Option<Bytes>,
    _held: OwnedSemaphorePermit,
}

impl HeldBody {
    pub(super) fn body(bytes: Bytes, held: OwnedSemaphorePermit) -> Body {
        Body::new(Self { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), _held: held })
    }
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// The innermost reason, which is the one that says something.
fn root(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
