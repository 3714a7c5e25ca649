//! A hostile S3: what the protocol allows, and what networks and disks do, at its worst.
//!
//! By itself it is merely plain: lists are old, nothing is copied, parts must be of equal size, and
//! what is not in the first edition of the protocol is refused. It gets worse by methods of
//! [`Hostile`], at any time. All it keeps is in memory, and it counts what it is asked.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use object_store::aws::AmazonS3;
use tokio::{sync::watch, time::sleep};

use crate::{
    Backdoor, Issuer,
    bucket::{Bucket, Content, Multipart, Object},
    issuer,
    s3_account::{REGION, S3Account},
    server::Server,
    tls::Authority,
    xml::{self, Asked, Body, MODIFIED, Operation, Refusal},
};

/// How old its lists are.
const LAG: Duration = Duration::from_secs(5);

/// How long it waits before it cuts a connection.
const BEFORE_A_CUT: Duration = Duration::from_millis(20);

const CHECKSUM: &str = "x-amz-checksum-crc64nvme";

const NOT_SIGNED: Refusal = Refusal::new(StatusCode::FORBIDDEN, "AccessDenied", "Access denied.");
const EXPIRED: Refusal =
    Refusal::new(StatusCode::BAD_REQUEST, "ExpiredToken", "The provided token has expired.");
const SLOW_DOWN: Refusal =
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your request rate.");
const UNEQUAL_PARTS: Refusal =
    Refusal::new(StatusCode::BAD_REQUEST, "InvalidPart", "All parts but the last must be of equal size.");

/// An S3 server of one test's own.
pub struct Hostile {
    state: Arc<State>,
    account: S3Account,
    authority: Option<Authority>,
    _server: Server,
}

/// Where it falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// A request is taken, and never answered.
    Answers,
    /// The body of an object stops after so many bytes, for so long.
    Bodies {
        /// How many bytes come.
        after_bytes: u64,
        /// Until the rest comes.
        pause: Duration,
    },
}

/// What it says of an object, or a part, that it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// It is stored, and is not.
    Vanished,
    /// It is stored, and its last byte is not.
    Shorter,
    /// It is stored, and its first bit is another one.
    Flipped,
    /// It has another checksum than it has, where checksums are told.
    Checksum,
}

/// How many requests there were, by what they asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests(BTreeMap<Operation, u64>);

impl Requests {
    /// How many asked for this.
    pub fn of(&self, operation: Operation) -> u64 {
        self.0.get(&operation).copied().unwrap_or_default()
    }

    /// How many wrote: puts, parts, and what begins and completes them.
    pub fn writes(&self) -> u64 {
        let kinds = [Operation::Put, Operation::CreateMultipart, Operation::PutPart, Operation::Complete];
        kinds.into_iter().map(|kind| self.of(kind)).sum()
    }

    /// How many there were.
    pub fn all(&self) -> u64 {
        self.0.values().sum()
    }

    /// How many came after these.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().map(|(kind, count)| (*kind, count - earlier.of(*kind))).collect())
    }
}

struct State {
    buckets: Mutex<BTreeMap<String, Bucket>>,
    conduct: Mutex<Conduct>,
    requests: Mutex<Requests>,
    bytes_sent: AtomicU64,
    /// How many bodies of objects are on their way.
    sending: watch::Sender<usize>,
    next: AtomicU64,
}

/// How it behaves.
#[derive(Clone)]
struct Conduct {
    lag: Duration,
    slow_down_percent: u64,
    lost_answers_percent: u64,
    random: u64,
    stall: Option<Stall>,
    cut_after_bytes: Option<u64>,
    lie: Option<Lie>,
    tells_checksums: bool,
    discards: bool,
    issuer: Option<Arc<issuer::State>>,
}

impl Hostile {
    /// Starts a server.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts a server that is reached over TLS, with a certificate of [`Self::ca_file`].
    pub fn start_with_tls() -> Self {
        Self::start_with(Some(Authority::new()))
    }

    fn start_with(tls: Option<(Authority, tokio_rustls::rustls::ServerConfig)>) -> Self {
        let conduct = Conduct {
            lag: LAG,
            slow_down_percent: 0,
            lost_answers_percent: 0,
            random: 1,
            stall: None,
            cut_after_bytes: None,
            lie: None,
            tells_checksums: false,
            discards: false,
            issuer: None,
        };
        let state = Arc::new(State {
            buckets: Mutex::default(),
            conduct: Mutex::new(conduct),
            requests: Mutex::default(),
            bytes_sent: AtomicU64::new(0),
            sending: watch::Sender::new(0),
            next: AtomicU64::new(1),
        });
        let serving = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&serving);
            async move { Ok::<_, Infallible>(State::answer(state, request).await) }
        });
        let (authority, tls) = tls.unzip();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let server = Server::start(service, tls);
        let account = S3Account {
            endpoint: format!("{scheme}://{}", server.address),
            access_key: "berth-tests",
            secret_key: "not-a-secret",
        };
        Self { state, account, authority, _server: server }
    }

    /// The address: `http://127.0.0.1:PORT`, or `https`.
    pub fn endpoint(&self) -> &str {
        &self.account.endpoint
    }

    /// An access key. It takes any.
    pub fn access_key(&self) -> &str {
        self.account.access_key
    }

    /// The secret of [`Self::access_key`].
    pub fn secret_key(&self) -> &str {
        self.account.secret_key
    }

    /// The region that signatures name.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// The certificate of the authority, PEM, where it is reached over TLS.
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.authority.as_ref().map(Authority::file)
    }

    /// A client of a bucket that is not the one under test.
    pub fn client(&self, bucket: &str) -> AmazonS3 {
        self.account.client(bucket)
    }

    /// How old lists are from now on.
    pub fn lag_lists(&self, lag: Duration) {
        self.state.conduct().lag = lag;
    }

    /// Answers so many requests in a hundred with `503 SlowDown`, and does nothing of what they ask.
    pub fn slow_down(&self, percent: u64) {
        self.state.conduct().slow_down_percent = percent;
    }

    /// Answers so many requests in a hundred with `503 SlowDown`, having done what they ask.
    pub fn lose_answers(&self, percent: u64) {
        self.state.conduct().lost_answers_percent = percent;
    }

    /// Falls silent, or stops doing so.
    pub fn stall(&self, stall: Option<Stall>) {
        self.state.conduct().stall = stall;
    }

    /// Cuts each connection when so many bytes of an object have gone over it, or stops doing so.
    pub fn cut_bodies(&self, after_bytes: Option<u64>) {
        self.state.conduct().cut_after_bytes = after_bytes;
    }

    /// Lies of what it is sent, or stops doing so.
    pub fn lie(&self, lie: Option<Lie>) {
        self.state.conduct().lie = lie;
    }

    /// Takes CRC-64/NVME checksums, and tells that of what it stored.
    pub fn tell_checksums(&self) {
        self.state.conduct().tells_checksums = true;
    }

    /// Keeps of what it is sent from now on no more than how many bytes it was. They are read as zeros.
    pub fn discard(&self) {
        self.state.conduct().discards = true;
    }

    /// Takes nobody from now on but those who have credentials of an issuer, while these live.
    pub fn trust_only(&self, issuer: &Issuer) {
        self.state.conduct().issuer = Some(issuer.state());
    }

    /// What it was asked so far.
    pub fn requests(&self) -> Requests {
        self.state.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many bytes of objects it has sent so far.
    pub fn bytes_sent(&self) -> u64 {
        self.state.bytes_sent.load(Ordering::Relaxed)
    }

    /// How many bodies of objects are on their way.
    pub fn sending(&self) -> usize {
        *self.state.sending.borrow()
    }

    /// Waits until no body of an object is on its way: each has come to its end, or its connection has.
    pub async fn until_nothing_is_sent(&self) {
        let mut sending = self.state.sending.subscribe();
        sending.wait_for(|count| *count == 0).await.expect("the state lives as long as this");
    }
}

impl Conduct {
    /// Whether something happens that does so many times in a hundred.
    fn happens(&mut self, percent: u64) -> bool {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % 100 < percent
    }
}

impl State {
    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, operation: Operation) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.0.entry(operation).or_default() += 1;
    }

    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let asked = Asked::of(&request, "x-amz-copy-source");
        self.count(asked.operation);
        let (parts, body) = request.into_parts();
        let (conduct, is_slow, is_lost) = {
            let mut conduct = self.conduct();
            let (slow, lost) = (conduct.slow_down_percent, conduct.lost_answers_percent);
            let (is_slow, is_lost) = (conduct.happens(slow), conduct.happens(lost));
            (conduct.clone(), is_slow, is_lost)
        };
        let Ok(content) = receive(body, conduct.discards).await else {
            return Refusal::INVALID_ARGUMENT.answer();
        };
        if conduct.stall == Some(Stall::Answers) {
            return future::pending().await;
        }
        if is_slow {
            return SLOW_DOWN.answer();
        }
        let answer = refuse(&parts.headers, &asked, &conduct)
            .and_then(|()| self.carry_out(&asked, &parts.headers, content, &conduct));
        if is_lost { SLOW_DOWN.answer() } else { answer.unwrap_or_else(Refusal::answer) }
    }

    fn carry_out(
        self: &Arc<Self>,
        asked: &Asked,
        headers: &HeaderMap,
        content: Content,
        conduct: &Conduct,
    ) -> Result<Response<Body>, Refusal> {
        let mut buckets = self.buckets();
        let bucket = buckets.get_mut(&asked.bucket).ok_or(Refusal::NO_SUCH_BUCKET)?;
        let upload = asked.parameter("uploadId");
        match asked.operation {
            Operation::Put => {
                let (object, answer) = self.store(headers, content, conduct)?;
                if conduct.lie != Some(Lie::Vanished) {
                    bucket.objects.insert(asked.key.clone(), object);
                }
                Ok(answer)
            }
            Operation::PutPart => {
                let number = asked.part_number().ok_or(Refusal::INVALID_ARGUMENT)?;
                let multipart = bucket.multipart(upload, &asked.key)?;
                let (part, answer) = self.store(headers, content, conduct)?;
                if conduct.lie != Some(Lie::Vanished) {
                    multipart.parts.insert(number, part);
                }
                Ok(answer)
            }
            Operation::CreateMultipart => {
                let upload = format!("upload-{}", self.next());
                let multipart = Multipart { key: asked.key.clone(), parts: BTreeMap::new() };
                bucket.multiparts.insert(upload.clone(), multipart);
                Ok(xml::begun(asked, &upload))
            }
            Operation::Complete => {
                let text = content.bytes();
                let wanted = xml::parts(&String::from_utf8_lossy(&text)).ok_or(Refusal::INVALID_ARGUMENT)?;
                let parts = bucket.chosen(upload, &asked.key, &wanted)?;
                let all_but_last = &parts[..parts.len() - 1];
                if !all_but_last.iter().all(|part| part.size_bytes() == parts[0].size_bytes()) {
                    return Err(UNEQUAL_PARTS);
                }
                bucket.multiparts.remove(upload);
                let object = Object::of_parts(parts, self.next());
                let answer = xml::completed(asked, &object.e_tag);
                bucket.objects.insert(asked.key.clone(), object);
                Ok(answer)
            }
            Operation::Abort => {
                bucket.multipart(upload, &asked.key)?;
                bucket.multiparts.remove(upload);
                Ok(xml::empty(StatusCode::NO_CONTENT))
            }
            Operation::Get | Operation::Head => {
                let object = bucket.objects.get(&asked.key).ok_or(Refusal::NO_SUCH_KEY)?;
                self.read(object, headers, asked.operation == Operation::Head, conduct)
            }
            Operation::Delete => {
                bucket.objects.remove(&asked.key);
                Ok(xml::empty(StatusCode::NO_CONTENT))
            }
            Operation::List => Ok(xml::listed(asked, bucket.list(conduct.lag))),
            Operation::ListMultiparts => Ok(xml::listed_multiparts(asked, bucket.open_multiparts())),
            Operation::Copy | Operation::Other => Err(Refusal::NOT_IMPLEMENTED),
        }
    }

    /// What becomes of bytes that were sent, and what is said of it.
    fn store(
        &self,
        headers: &HeaderMap,
        content: Content,
        conduct: &Conduct,
    ) -> Result<(Object, Response<Body>), Refusal> {
        if let Some(announced) = headers.get(CHECKSUM)
            && announced.as_bytes() != checksum(&content).as_bytes()
        {
            return Err(Refusal::BAD_DIGEST);
        }
        let content = match conduct.lie {
            Some(Lie::Shorter) => content.slice(0..content.size_bytes().saturating_sub(1)),
            Some(Lie::Flipped) => flipped(&content),
            _ => content,
        };
        let object = Object::whole(content, self.next());
        let mut answer = xml::empty(StatusCode::OK);
        let e_tag = HeaderValue::try_from(&object.e_tag).expect("an ETag is text");
        answer.headers_mut().insert(header::ETAG, e_tag);
        if conduct.tells_checksums {
            let told = match conduct.lie {
                Some(Lie::Checksum) => checksum(&flipped(&object.content)),
                _ => checksum(&object.content),
            };
            let told = HeaderValue::try_from(told).expect("a checksum is text");
            answer.headers_mut().insert(CHECKSUM, told);
        }
        Ok((object, answer))
    }

    fn read(
        self: &Arc<Self>,
        object: &Object,
        headers: &HeaderMap,
        is_head: bool,
        conduct: &Conduct,
    ) -> Result<Response<Body>, Refusal> {
        let size = object.content.size_bytes();
        let range = xml::range(headers, size)?;
        let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let mut answer = xml::empty(status);
        let headers = answer.headers_mut();
        headers.insert(header::ETAG, HeaderValue::try_from(&object.e_tag).expect("an ETag is text"));
        headers.insert(header::LAST_MODIFIED, HeaderValue::from_static(MODIFIED));
        if let Some(range) = &range {
            let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            headers.insert(header::CONTENT_RANGE, HeaderValue::try_from(text).expect("a range is text"));
        }
        let range = range.unwrap_or(0..size);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
        if !is_head {
            *answer.body_mut() = self.send(object.content.slice(range), conduct);
        }
        Ok(answer)
    }

    /// The body of an object, as it arrives.
    fn send(self: &Arc<Self>, content: Content, conduct: &Conduct) -> Body {
        /// One of the pieces in which bodies are sent.
        const PIECE_BYTES: u64 = 64 * 1024;
        let size = content.size_bytes();
        let mut edges = Vec::new();
        let (mut pause, mut pause_at, mut end) = (Duration::ZERO, None, size);
        if let Some(Stall::Bodies { after_bytes, pause: length }) = conduct.stall {
            (pause, pause_at) = (length, Some(after_bytes.min(size)));
        }
        let cut = conduct.cut_after_bytes.filter(|after| *after < size);
        if let Some(after) = cut {
            end = after;
        }
        let mut at = 0;
        while at < end {
            let next = pause_at.filter(|pause| at < *pause).unwrap_or(end).min(at + PIECE_BYTES).min(end);
            edges.push(at..next);
            at = next;
        }
        let underway = Underway::begin(Arc::clone(self));
        let pieces = stream::iter(edges).then(move |edge| {
            let is_late = pause_at == Some(edge.start);
            let piece = content.slice(edge).bytes();
            underway.state.bytes_sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            async move {
                if is_late {
                    sleep(pause).await;
                }
                Ok(Frame::data(piece))
            }
        });
        // What came before is on its way by then: hyper forgets what it has not written yet.
        let end = stream::iter(cut).then(|_| async {
            sleep(BEFORE_A_CUT).await;
            Err(io::Error::other("cut on purpose"))
        });
        StreamBody::new(pieces.chain(end)).boxed_unsync()
    }
}

/// A body on its way, until this is dropped.
struct Underway {
    state: Arc<State>,
}

impl Underway {
    fn begin(state: Arc<State>) -> Self {
        state.sending.send_modify(|count| *count += 1);
        Self { state }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.state.sending.send_modify(|count| *count -= 1);
    }
}

/// What a request brings with it, or as many zeros.
async fn receive(mut body: Incoming, discards: bool) -> Result<Content, hyper::Error> {
    let mut content = Content::default();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        // Short bodies are documents.
        if discards && content.size_bytes() + piece.len() as u64 > 64 * 1024 {
            content.push_zeros(piece.len());
        } else {
            content.push(piece);
        }
    }
    Ok(content)
}

/// Refuses what is not signed, and whatever came to the protocol later.
fn refuse(headers: &HeaderMap, asked: &Asked, conduct: &Conduct) -> Result<(), Refusal> {
    if !headers.contains_key(header::AUTHORIZATION) && asked.parameter("X-Amz-Signature").is_empty() {
        return Err(NOT_SIGNED);
    }
    if conduct.issuer.as_ref().is_some_and(|issuer| !issuer.honours(headers)) {
        return Err(EXPIRED);
    }
    let known = [CHECKSUM, "x-amz-checksum-algorithm"];
    let is_new = |name: &str| match name {
        "x-amz-tagging" | "x-amz-sdk-checksum-algorithm" => true,
        name if conduct.tells_checksums && known.contains(&name) => false,
        name => name.starts_with("x-amz-checksum-"),
    };
    let says = |name: &str, what: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(what))
    };
    let is_chunked = says("content-encoding", "aws-chunked") || says("x-amz-content-sha256", "STREAMING-");
    if is_chunked || headers.keys().any(|name| is_new(name.as_str())) {
        return Err(Refusal::INVALID_ARGUMENT);
    }
    Ok(())
}

fn flipped(content: &Content) -> Content {
    let mut bytes = content.bytes().to_vec();
    if let Some(first) = bytes.first_mut() {
        *first ^= 1;
    }
    Bytes::from(bytes).into()
}

fn checksum(content: &Content) -> String {
    BASE64_STANDARD.encode(content.checksum(CrcAlgorithm::Crc64Nvme).to_be_bytes())
}

#[async_trait]
impl Backdoor for Hostile {
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
