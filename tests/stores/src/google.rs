//! Google Cloud Storage: a server of our own for its XML API, which is what object_store speaks, in
//! this process and in memory.
//!
//! It is written from Google's documentation of that API. Neither emulator that can be had does for
//! it: gcp-storage-emulator 2026.7.19 knows no HEAD, no DELETE and no list outside of the JSON API, and
//! answers 501, so that Berth gives up as soon as it opens the store; fake-gcs-server 1.56.1 refuses a
//! plain PUT of an object (400, `invalid uploadType`); and neither has multipart uploads.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::{
    encoding::AsDer as _,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    Backdoor,
    bucket::{Bucket, Content, Multipart, Object},
    client::Straight,
    run,
    server::Server,
    xml::{self, Asked, Body, MODIFIED, Operation, Refusal},
};

const ACCOUNT: &str = "berth-tests@tests.iam.gserviceaccount.com";

/// A server of Google Cloud Storage.
pub struct Google {
    state: Arc<State>,
    endpoint: String,
    _server: Server,
    folder: TempDir,
}

struct State {
    buckets: Mutex<BTreeMap<String, Bucket>>,
    /// The key that tokens must be signed with.
    public_key: Vec<u8>,
    next: AtomicU64,
}

impl Google {
    /// The server that all tests of the run share.
    pub fn of_the_run() -> &'static Self {
        static SERVER: LazyLock<Google> = LazyLock::new(Google::start);
        &SERVER
    }

    /// The address: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The key file of a service account that may do everything, as Google's console gives it out.
    pub fn service_account_file(&self) -> PathBuf {
        self.folder.path().join("service-account.json")
    }

    /// A client of a bucket that is not the one under test.
    pub fn client(&self, bucket: &str) -> GoogleCloudStorage {
        let client = GoogleCloudStorageBuilder::new()
            .with_base_url(&self.endpoint)
            .with_client_options(object_store::ClientOptions::new().with_allow_http(true))
            .with_service_account_path(self.service_account_file().to_string_lossy())
            .with_bucket_name(bucket)
            .with_http_connector(Straight);
        client.build().expect("an address and a key are all it needs")
    }

    fn start() -> Self {
        let folder = run::folder("google");
        let public_key = make_account(&folder.path().join("service-account.json"));
        let state = State { buckets: Mutex::default(), public_key, next: AtomicU64::new(1) };
        let state = Arc::new(state);
        let serving = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&serving);
            async move { Ok::<_, Infallible>(state.answer(request).await) }
        });
        let server = Server::start(service, None);
        let endpoint = format!("http://{}", server.address);
        Self { state, endpoint, _server: server, folder }
    }
}

/// Writes the key file of a service account, and returns its public key.
fn make_account(file: &Path) -> Vec<u8> {
    let key = KeyPair::generate(KeySize::Rsa2048).expect("make a key");
    let pkcs8 = key.as_der().expect("a key can be written");
    let lines: Vec<_> = BASE64_STANDARD.encode(pkcs8.as_ref()).into_bytes();
    let lines: Vec<_> = lines.chunks(64).map(String::from_utf8_lossy).collect();
    let account = json!({
        "type": "service_account",
        "project_id": "tests",
        "private_key_id": "1",
        "private_key": format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            lines.join("\n")
        ),
        "client_email": ACCOUNT,
        "client_id": "1",
    });
    std::fs::write(file, account.to_string()).expect("write the key of an account");
    key.public_key().as_ref().to_vec()
}

impl State {
    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let asked = Asked::of(&request, "x-goog-copy-source");
        let (parts, body) = request.into_parts();
        // A body that breaks off has nobody left who waits for an answer.
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if !self.is_signed(&parts.headers, &asked) {
            let refusal =
                Refusal::new(StatusCode::UNAUTHORIZED, "AuthenticationRequired", "Authentication required.");
            return refusal.answer();
        }
        self.carry_out(&asked, &parts.headers, body).unwrap_or_else(Refusal::answer)
    }

    /// Whether a request has a token of the account, or is a signed URL, which is taken as it is.
    fn is_signed(&self, headers: &HeaderMap, asked: &Asked) -> bool {
        if !asked.parameter("X-Goog-Signature").is_empty() {
            return true;
        }
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer "));
        let Some((message, signature)) = token.and_then(|token| token.rsplit_once('.')) else { return false };
        let Ok(signature) = BASE64_URL_SAFE_NO_PAD.decode(signature) else { return false };
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        key.verify(message.as_bytes(), &signature).is_ok()
    }

    fn carry_out(&self, asked: &Asked, headers: &HeaderMap, body: Bytes) -> Result<Response<Body>, Refusal> {
        let mut buckets = self.buckets();
        let bucket = buckets.get_mut(&asked.bucket).ok_or(Refusal::NO_SUCH_BUCKET)?;
        match asked.operation {
            Operation::Put => {
                let content = received(headers, body)?;
                may_replace(headers, bucket.objects.get(&asked.key))?;
                let object = Object::whole(content, self.next());
                let answer = described(StatusCode::OK, &object, true);
                bucket.objects.insert(asked.key.clone(), object);
                Ok(answer)
            }
            Operation::Get | Operation::Head => {
                let object = bucket.objects.get(&asked.key).ok_or(Refusal::NO_SUCH_KEY)?;
                read(object, headers, asked.operation == Operation::Head)
            }
            Operation::Delete => {
                bucket.objects.remove(&asked.key).ok_or(Refusal::NO_SUCH_KEY)?;
                Ok(xml::empty(StatusCode::NO_CONTENT))
            }
            Operation::List => Ok(xml::listed(asked, bucket.list(Duration::ZERO))),
            Operation::CreateMultipart => {
                let upload = format!("upload-{}", self.next());
                let multipart = Multipart { key: asked.key.clone(), parts: BTreeMap::new() };
                bucket.multiparts.insert(upload.clone(), multipart);
                Ok(xml::begun(asked, &upload))
            }
            Operation::PutPart => {
                let content = received(headers, body)?;
                let number = asked.part_number().ok_or(Refusal::INVALID_ARGUMENT)?;
                let multipart = bucket.multipart(asked.parameter("uploadId"), &asked.key)?;
                let part = Object::whole(content, self.next());
                let answer = described(StatusCode::OK, &part, true);
                multipart.parts.insert(number, part);
                Ok(answer)
            }
            Operation::Complete => {
                let wanted = xml::parts(&String::from_utf8_lossy(&body)).ok_or(Refusal::INVALID_ARGUMENT)?;
                let upload = asked.parameter("uploadId");
                let parts = bucket.chosen(upload, &asked.key, &wanted)?;
                bucket.multiparts.remove(upload);
                let object = Object::of_parts(parts, self.next());
                let mut answer = xml::completed(asked, &object.e_tag);
                describe(&mut answer, &object, true);
                bucket.objects.insert(asked.key.clone(), object);
                Ok(answer)
            }
            Operation::Abort => {
                let upload = asked.parameter("uploadId");
                bucket.multipart(upload, &asked.key)?;
                bucket.multiparts.remove(upload);
                Ok(xml::empty(StatusCode::NO_CONTENT))
            }
            Operation::ListMultiparts => Ok(xml::listed_multiparts(asked, bucket.open_multiparts())),
            // No client under test copies.
            Operation::Copy | Operation::Other => Err(Refusal::NOT_IMPLEMENTED),
        }
    }
}

/// What was received, if it is what the client says it sent.
fn received(headers: &HeaderMap, body: Bytes) -> Result<Content, Refusal> {
    let content = Content::from(body);
    let hashes = headers.get_all("x-goog-hash").iter().filter_map(|value| value.to_str().ok());
    let announced =
        hashes.flat_map(|value| value.split(',')).find_map(|hash| hash.trim().strip_prefix("crc32c="));
    match announced {
        Some(announced) if announced != crc32c(&content) => Err(Refusal::BAD_DIGEST),
        _ => Ok(content),
    }
}

/// Whether an object may stand in place of another, or of none (generation 0).
fn may_replace(headers: &HeaderMap, there: Option<&Object>) -> Result<(), Refusal> {
    let Some(wanted) = headers.get("x-goog-if-generation-match") else { return Ok(()) };
    let generation = there.map_or(0, |object| object.generation);
    if wanted.to_str().ok().and_then(|wanted| wanted.parse().ok()) == Some(generation) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::PRECONDITION_FAILED,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold.",
    ))
}

fn read(object: &Object, headers: &HeaderMap, is_head: bool) -> Result<Response<Body>, Refusal> {
    let size = object.content.size_bytes();
    let range = xml::range(headers, size)?;
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    // The checksum of an object says nothing of a part of it.
    let mut answer = described(status, object, range.is_none());
    let headers = answer.headers_mut();
    if let Some(range) = &range {
        let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        headers.insert(header::CONTENT_RANGE, HeaderValue::try_from(text).expect("a range is text"));
    }
    let range = range.unwrap_or(0..size);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if !is_head {
        let pieces = object.content.slice(range).into_pieces().into_iter();
        let frames = stream::iter(pieces.map(|piece| Ok(Frame::data(piece))));
        *answer.body_mut() = StreamBody::new(frames).boxed_unsync();
    }
    Ok(answer)
}

fn described(status: StatusCode, object: &Object, with_hash: bool) -> Response<Body> {
    let mut answer = xml::empty(status);
    describe(&mut answer, object, with_hash);
    answer
}

fn describe(answer: &mut Response<Body>, object: &Object, with_hash: bool) {
    let headers = answer.headers_mut();
    let e_tag = HeaderValue::try_from(&object.e_tag).expect("an ETag is text");
    headers.insert(header::ETAG, e_tag);
    headers.insert(header::LAST_MODIFIED, HeaderValue::from_static(MODIFIED));
    headers.insert("x-goog-generation", HeaderValue::from(object.generation));
    headers.insert("x-goog-stored-content-length", HeaderValue::from(object.content.size_bytes()));
    if with_hash {
        let hash = format!("crc32c={}", crc32c(&object.content));
        headers.insert("x-goog-hash", HeaderValue::try_from(hash).expect("a checksum is text"));
    }
}

fn crc32c(content: &Content) -> String {
    BASE64_STANDARD.encode(&content.checksum(CrcAlgorithm::Crc32Iscsi).to_be_bytes()[4..])
}

#[async_trait]
impl Backdoor for Google {
    async fn fresh_bucket(&self) -> String {
        let bucket = format!("berth-{}", self.state.next());
        self.state.buckets().insert(bucket.clone(), Bucket::default());
        bucket
    }

    async fn objects(&self, bucket: &str) -> Vec<(String, u64)> {
        let buckets = self.state.buckets();
        let objects = buckets[bucket].list(Duration::ZERO);
        objects.map(|object| (object.key.to_owned(), object.size_bytes)).collect()
    }

    async fn open_multiparts(&self, bucket: &str) -> usize {
        self.state.buckets()[bucket].open_multiparts().count()
    }

    async fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.state.buckets()[bucket].objects.get(key).map(|object| object.content.bytes())
    }

    async fn put(&self, bucket: &str, key: &str, bytes: Bytes) {
        let object = Object::whole(bytes.into(), self.state.next());
        let mut buckets = self.state.buckets();
        let bucket = buckets.get_mut(bucket).expect("the bucket is there");
        bucket.objects.insert(key.to_owned(), object);
    }

    async fn delete(&self, bucket: &str, key: &str) {
        let mut buckets = self.state.buckets();
        buckets.get_mut(bucket).expect("the bucket is there").objects.remove(key);
    }
}
