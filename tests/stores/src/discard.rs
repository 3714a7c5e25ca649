//! An S3 store that keeps nothing but sizes, for tests that send more than there is room for.
//!
//! It speaks as much of the protocol as an upload needs, believes every signature, and has no bytes to
//! give back.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

/// A running store. It ends when this value is dropped.
pub struct Discard {
    endpoint: String,
    ledger: Arc<Mutex<Ledger>>,
    _serving: JoinSet<()>,
}

/// What is there, by name, in bytes.
#[derive(Default)]
struct Ledger {
    objects: BTreeMap<String, u64>,
    /// The parts of each multipart upload, by its id.
    open: HashMap<String, BTreeMap<u32, u64>>,
    begun: u64,
}

impl Discard {
    /// A store without an object on a port of 127.0.0.1, in the runtime of the test.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port of 127.0.0.1");
        let address = listener.local_addr().expect("a listener has an address");
        let ledger = Arc::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&ledger)));
        Self { endpoint: format!("http://{address}"), ledger, _serving: serving }
    }

    /// The address: `http://127.0.0.1:PORT`. Any bucket is there.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The sizes of all objects, in bytes, by their names with the bucket's before them.
    pub fn objects(&self) -> BTreeMap<String, u64> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).objects.clone()
    }
}

async fn serve(listener: TcpListener, ledger: Arc<Mutex<Ledger>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let ledger = Arc::clone(&ledger);
        connections.spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&ledger), request));
            let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    ledger: Arc<Mutex<Ledger>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    let mut size_bytes = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Ok(say(StatusCode::BAD_REQUEST, "")) };
        size_bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
    }
    let query: HashMap<&str, &str> = head
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(ledger.answer(&head.method, head.uri.path(), &query, size_bytes))
}

impl Ledger {
    fn answer(
        &mut self,
        method: &Method,
        name: &str,
        query: &HashMap<&str, &str>,
        size_bytes: u64,
    ) -> Response<Full<Bytes>> {
        let upload = query.get("uploadId").map(|id| (*id).to_owned());
        let part = query.get("partNumber").and_then(|number| number.parse().ok());
        match (method.as_str(), upload) {
            ("POST", None) => {
                self.begun += 1;
                let id = format!("upload-{}", self.begun);
                let said = format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                );
                self.open.insert(id, BTreeMap::new());
                say(StatusCode::OK, &said)
            }
            ("PUT", Some(id)) => match (self.open.get_mut(&id), part) {
                (Some(parts), Some(part)) => {
                    parts.insert(part, size_bytes);
                    say(StatusCode::OK, "")
                }
                _ => say(StatusCode::NOT_FOUND, "<Error><Code>NoSuchUpload</Code></Error>"),
            },
            ("POST", Some(id)) => match self.open.remove(&id) {
                Some(parts) => {
                    self.objects.insert(name.to_owned(), parts.values().sum());
                    let said =
                        "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>";
                    say(StatusCode::OK, said)
                }
                None => say(StatusCode::NOT_FOUND, "<Error><Code>NoSuchUpload</Code></Error>"),
            },
            ("DELETE", Some(id)) => {
                self.open.remove(&id);
                say(StatusCode::NO_CONTENT, "")
            }
            ("PUT", None) => {
                self.objects.insert(name.to_owned(), size_bytes);
                say(StatusCode::OK, "")
            }
            ("DELETE", None) => {
                self.objects.remove(name);
                say(StatusCode::NO_CONTENT, "")
            }
            ("HEAD", _) => match self.objects.get(name) {
                Some(size_bytes) => {
                    let mut answer = say(StatusCode::OK, "");
                    answer.headers_mut().insert("content-length", (*size_bytes).into());
                    answer
                }
                None => say(StatusCode::NOT_FOUND, ""),
            },
            ("GET", _) if query.contains_key("list-type") => {
                say(StatusCode::OK, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
            }
            _ => say(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>"),
        }
    }
}

fn say(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let answer = Response::builder()
        .status(status)
        .header("etag", "\"e\"")
        .header("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT");
    answer.body(Full::new(Bytes::copy_from_slice(text.as_bytes()))).expect("the headers are plain text")
}
