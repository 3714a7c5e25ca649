//! Bodies: read with an idle limit, drained after a refusal, bounded in memory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::error::HttpError;
use super::memory::{Held, Memory};
use crate::registry::{Source, SourceError};

/// What is read, at most, of a body that was refused, and for how long.
const DRAIN_BYTES: usize = 16 * 1024 * 1024;
const DRAIN_FOR: Duration = Duration::from_secs(5);
/// How long a manifest may take to come in; it is small, and holds memory.
const MANIFEST_WITHIN: Duration = Duration::from_mins(1);

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
    pub(super) async fn collect(&self, limit: usize, memory: &Memory) -> Result<(Bytes, Held), HttpError> {
        let mut whole = BytesMut::new();
        let mut held = Held::default();
        let reading = async {
            while let Some(bytes) = self.next().await {
                let bytes = bytes.map_err(HttpError::Body)?;
                if whole.len() + bytes.len() > limit {
                    return Err(HttpError::ManifestTooLarge { limit });
                }
                memory.grow(&mut held, whole.len() + bytes.len()).await;
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

/// The innermost reason, which is the one that says something.
fn root(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
