//! The requests to an object store, one by one: bounded in time, and compared with what the store says
//! it received.
//!
//! object_store tries again; what it must never meet is a request that hangs. Many stores answer with
//! a checksum of what they took. It is compared here, where both sides are at hand.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures_util::FutureExt as _;
use http::{HeaderMap, Method};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};
use tokio::time::{Sleep, sleep, timeout};

/// The rate at which anything but a broken store takes bytes.
const SLOWEST_BYTES_PER_SECOND: u64 = 512 * 1024;

/// How long a store may take, before it counts as broken.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a request is tried again, in all. Whoever waits for the answer has heard nothing yet.
    pub retry_for: Duration,
    /// Until an answer to a read begins.
    pub read: Duration,
    /// Until an answer to a write begins, besides the time for its bytes. Completing a large object
    /// takes some stores long.
    pub write: Duration,
    /// How long there may be silence in the middle of an answer. Some stores send blanks while they work.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let [retry_for, read, write, silence] = [10, 5, 30, 30].map(Duration::from_secs);
        Self { retry_for, read, write, silence }
    }
}

#[derive(Debug)]
pub(super) struct Connector {
    pub(super) patience: Patience,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Wire { client, patience: self.patience }))
    }
}

#[derive(Debug)]
struct Wire {
    client: HttpClient,
    patience: Patience,
}

#[derive(Debug, thiserror::Error)]
enum WireError {
    #[error("the store did not answer within {0:?}")]
    Silent(Duration),
    #[error("{0}")]
    Failed(String),
    #[error("the store says it received other bytes than it was sent: {name} {received} instead of {sent}")]
    Altered { name: &'static str, received: String, sent: String },
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let sent = (request.method() == Method::PUT).then(|| request.body().clone());
        let limit = match request.method() {
            &Method::GET | &Method::HEAD => self.patience.read,
            _ => {
                let bytes = request.body().content_length() as u64;
                self.patience.write + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
            }
        };
        let answered = timeout(limit, self.client.execute(request)).await;
        let response =
            answered.map_err(|_| HttpError::new(HttpErrorKind::Timeout, WireError::Silent(limit)))?;
        let response = response.map_err(|error| explained(&error))?;
        if let Some(sent) = sent
            && response.status().is_success()
        {
            compare(response.headers(), &sent)
                .map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?;
        }
        let patience = self.patience.silence;
        Ok(response.map(|body| HttpResponseBody::new(Watched { body, patience, alarm: None })))
    }
}

/// The same error, which says why by itself: whoever prints it prints no sources, and "error sending
/// request" may be a name that is unknown or a certificate that is not trusted.
fn explained(error: &HttpError) -> HttpError {
    let sources = std::iter::successors(std::error::Error::source(error), |error| error.source());
    let mut reasons: Vec<String> = Vec::new();
    for reason in sources.map(ToString::to_string) {
        // Some repeat what is below them.
        if reasons.last().is_none_or(|last| !last.contains(&reason)) {
            reasons.push(reason);
        }
    }
    HttpError::new(error.kind(), WireError::Failed(reasons.join(": ")))
}

/// Compares the checksums in an answer, whichever there are, with those of what was sent.
fn compare(headers: &HeaderMap, sent: &HttpRequestBody) -> Result<(), WireError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let google = |name: &str| {
        let hashes = headers.get_all("x-goog-hash").iter().filter_map(|value| value.to_str().ok());
        hashes.flat_map(|value| value.split(',')).find_map(|hash| hash.trim().strip_prefix(name))
    };
    // An object that is stored encrypted, or in parts, may have a checksum of checksums, which says so.
    let is_whole = |text: &&str| !text.contains('-');
    let checks = [
        ("x-amz-checksum-crc64nvme", CrcAlgorithm::Crc64Nvme, 8, text("x-amz-checksum-crc64nvme")),
        ("x-amz-checksum-crc32c", CrcAlgorithm::Crc32Iscsi, 4, text("x-amz-checksum-crc32c")),
        ("x-amz-checksum-crc32", CrcAlgorithm::Crc32IsoHdlc, 4, text("x-amz-checksum-crc32")),
        ("x-goog-hash crc32c", CrcAlgorithm::Crc32Iscsi, 4, google("crc32c=")),
    ];
    for (name, algorithm, length, received) in checks {
        let Some(received) = received.filter(is_whole) else { continue };
        let checksum = checksum(algorithm, sent).to_be_bytes();
        let ours = BASE64_STANDARD.encode(&checksum[8 - length..]);
        if ours != received {
            return Err(WireError::Altered { name, received: received.to_owned(), sent: ours });
        }
    }
    Ok(())
}

fn checksum(algorithm: CrcAlgorithm, body: &HttpRequestBody) -> u64 {
    let mut digest = crc_fast::Digest::new(algorithm);
    let mut body = body.clone();
    // What is in memory is there at once.
    while let Some(Some(Ok(frame))) = pin!(body.frame()).now_or_never() {
        if let Some(bytes) = frame.data_ref() {
            digest.update(bytes);
        }
    }
    digest.finalize()
}

/// A body that ends with an error when it falls silent.
struct Watched {
    body: HttpResponseBody,
    patience: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.alarm = None;
            return Poll::Ready(frame);
        }
        let patience = self.patience;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(patience)));
        if alarm.as_mut().poll(context).is_ready() {
            let error = HttpError::new(HttpErrorKind::Timeout, WireError::Silent(patience));
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
