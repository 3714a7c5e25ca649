//! A proxy before a store, which counts: every request that passes is written down, and some can be
//! held back, refused or cut.
//!
//! It is plain HTTP/1.1 on both sides, one connection to the store for each request. The `Host` header
//! passes unchanged: signatures cover it, and the store verifies the one that it receives.

use std::{
    error::Error,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
    time,
};

use crate::process::PATIENCE;

/// What the kernel keeps on the way to the client: little, so that what has left the store is what the
/// client has asked for.
const SEND_BUFFER_BYTES: u32 = 64 * 1024;

/// A running proxy. It ends when this value is dropped.
pub struct Proxy {
    address: SocketAddr,
    desk: Arc<Desk>,
    _serving: JoinSet<()>,
}

/// A request that has passed, as far as it has come.
#[derive(Clone, Debug)]
pub struct Passed {
    /// What the client wants done.
    pub method: Method,
    /// With what.
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
    /// What the client was answered, once it was.
    pub status: Option<StatusCode>,
    /// How much of the request's body has passed.
    pub sent_bytes: u64,
    /// How much of the answer's body has passed.
    pub received_bytes: u64,
    /// When the client let go of an answer that had not ended.
    pub dropped: Option<Instant>,
    /// Whether the answer has passed to its end.
    pub is_whole: bool,
    /// Whether the store is asked to copy.
    pub is_copy: bool,
}

/// What a request is to an S3 store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Stores an object.
    Put,
    /// Begins a multipart upload.
    Begin,
    /// Stores a part.
    Part,
    /// Makes parts an object.
    Complete,
    /// Ends a multipart upload without one.
    Abort,
    /// Deletes an object.
    Delete,
    /// Copies an object, or a part.
    Copy,
    /// Reads an object, or a range of it.
    Get,
    /// Looks at an object.
    Head,
    /// Lists objects, or multipart uploads.
    List,
    /// Anything else.
    Other,
}

/// What is done to what passes.
#[derive(Clone, Copy, Default)]
struct Switches {
    is_held: bool,
    refused_percent: u64,
    cut_after: Option<u64>,
}

struct Desk {
    store: String,
    passed: watch::Sender<Vec<Passed>>,
    switches: watch::Sender<Switches>,
    dice: AtomicU64,
}

type Answer = Response<Either<Passing, Full<Bytes>>>;

impl Proxy {
    /// A proxy on a port of 127.0.0.1, before the store at `http://HOST:PORT`. It lives in the runtime of
    /// the test.
    pub fn to(endpoint: &str) -> Self {
        let store = endpoint.strip_prefix("http://").expect("the store speaks plain HTTP").to_owned();
        let listener = listen();
        let address = listener.local_addr().expect("a listener has an address");
        let desk = Arc::new(Desk {
            store,
            passed: watch::Sender::default(),
            switches: watch::Sender::default(),
            dice: AtomicU64::new(0),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&desk)));
        Self { address, desk, _serving: serving }
    }

    /// Where clients reach the store through it: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that has passed since the last [`Self::forget`], in the order in which it began.
    pub fn passed(&self) -> Vec<Passed> {
        self.desk.passed.borrow().clone()
    }

    /// Begins to count anew. Nothing may be on its way.
    pub fn forget(&self) {
        self.desk.passed.send_modify(Vec::clear);
    }

    /// Waits until `find` finds something in what has passed.
    pub async fn until<T>(&self, what: &str, find: impl Fn(&[Passed]) -> Option<T>) -> T {
        let mut passed = self.desk.passed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = find(&passed.borrow_and_update()) {
                    return found;
                }
                passed.changed().await.expect("the desk is there as long as the proxy");
            }
        };
        let found = time::timeout(PATIENCE, waiting).await;
        found.unwrap_or_else(|_| panic!("it took too long until {what}: {:#?}", self.passed()))
    }

    /// Holds answers back from now on, or no longer.
    pub fn hold(&self, is_held: bool) {
        self.desk.switches.send_modify(|switches| switches.is_held = is_held);
    }

    /// Answers so many of a hundred requests 503 instead of passing them on, chosen by dice that depend
    /// on the seed alone.
    pub fn refuse(&self, percent: u64, seed: u64) {
        self.desk.dice.store(seed, Ordering::Relaxed);
        self.desk.switches.send_modify(|switches| switches.refused_percent = percent);
    }

    /// Cuts the connection behind so many bytes of any answer to a GET.
    pub fn cut_after(&self, bytes: Option<u64>) {
        self.desk.switches.send_modify(|switches| switches.cut_after = bytes);
    }
}

impl Passed {
    /// What it is to an S3 store.
    pub fn kind(&self) -> Kind {
        let has = |name: &str| self.query.split('&').any(|pair| pair.split('=').next() == Some(name));
        match self.method.as_str() {
            _ if self.is_copy => Kind::Copy,
            "PUT" if has("partNumber") => Kind::Part,
            "PUT" if self.query.is_empty() => Kind::Put,
            "POST" if has("uploads") => Kind::Begin,
            "POST" if has("uploadId") => Kind::Complete,
            "DELETE" if has("uploadId") => Kind::Abort,
            "DELETE" => Kind::Delete,
            "HEAD" => Kind::Head,
            "GET" if has("list-type") || has("uploads") || has("versions") || has("prefix") => Kind::List,
            "GET" if self.query.is_empty() => Kind::Get,
            _ => Kind::Other,
        }
    }

    /// Whether it changes what the store has.
    pub fn is_write(&self) -> bool {
        !matches!(self.kind(), Kind::Get | Kind::Head | Kind::List)
    }
}

impl Desk {
    /// Changes what is known of a request; nothing, if it was forgotten.
    fn note(&self, number: usize, change: impl FnOnce(&mut Passed)) {
        self.passed.send_modify(|passed| {
            if let Some(passed) = passed.get_mut(number) {
                change(passed);
            }
        });
    }

    fn begin(&self, method: &Method, uri: &http::Uri, headers: &HeaderMap) -> usize {
        let is_copy =
            ["x-amz-copy-source", "x-ms-copy-source"].iter().any(|name| headers.contains_key(*name));
        let begun = Passed {
            method: method.clone(),
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            status: None,
            sent_bytes: 0,
            received_bytes: 0,
            dropped: None,
            is_whole: false,
            is_copy,
        };
        let mut number = 0;
        self.passed.send_modify(|passed| {
            number = passed.len();
            passed.push(begun);
        });
        number
    }

    fn is_refused(&self) -> bool {
        let percent = self.switches.borrow().refused_percent;
        // SplitMix64.
        let mut word = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % 100 < percent
    }
}

fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_send_buffer_size(SEND_BUFFER_BYTES).expect("a socket takes the option");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("bind a port of 127.0.0.1");
    socket.listen(1024).expect("listen on a bound port")
}

async fn serve(listener: TcpListener, desk: Arc<Desk>) {
    // Ends with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let desk = Arc::clone(&desk);
        connections.spawn(async move {
            let service = service_fn(|request| pass(Arc::clone(&desk), request));
            // What goes wrong here is what was asked for, or what the client sees.
            let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(
    desk: Arc<Desk>,
    request: http::Request<Incoming>,
) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    let number = desk.begin(request.method(), request.uri(), request.headers());
    if desk.is_refused() {
        // As a store does that has heard enough, once the client has said all it wanted.
        let body = request.into_body().collect().await?.to_bytes();
        return Ok(refuse(&desk, number, body.len() as u64));
    }
    let is_get = request.method() == Method::GET;
    let request = request.map(|body| {
        let desk = Arc::clone(&desk);
        body.map_frame(move |frame| {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            desk.note(number, |passed| passed.sent_bytes += length);
            frame
        })
    });
    let stream = TcpStream::connect(&desk.store).await?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut way = JoinSet::new();
    way.spawn(connection);
    let response = sender.send_request(request).await?;

    let mut switches = desk.switches.subscribe();
    switches.wait_for(|switches| !switches.is_held).await?;
    desk.note(number, |passed| passed.status = Some(response.status()));
    let left = desk.switches.borrow().cut_after.filter(|_| is_get);
    Ok(response.map(|body| Either::Left(Passing { body, desk, number, left, ended: false, _way: way })))
}

fn refuse(desk: &Desk, number: usize, sent_bytes: u64) -> Answer {
    const BUSY: &str = "<Error><Code>SlowDown</Code><Message>The store has enough to do.</Message></Error>";
    desk.note(number, |passed| {
        passed.status = Some(StatusCode::SERVICE_UNAVAILABLE);
        (passed.sent_bytes, passed.is_whole) = (sent_bytes, true);
    });
    let answer = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
    let body = Full::new(Bytes::from_static(BUSY.as_bytes()));
    answer.body(Either::Right(body)).expect("an answer without a header is one")
}

/// An answer's body on its way to the client.
struct Passing {
    body: Incoming,
    desk: Arc<Desk>,
    number: usize,
    /// How much may still pass before the connection is cut.
    left: Option<u64>,
    ended: bool,
    /// The connection to the store, which ends with this value.
    _way: JoinSet<hyper::Result<()>>,
}

impl Body for Passing {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == Some(0) {
            return Poll::Ready(Some(Err("cut by the test".into())));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else { return Poll::Pending };
        let mut bytes = match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(bytes))) => bytes,
            Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => {
                self.ended = true;
                return Poll::Ready(None);
            }
        };
        if let Some(left) = &mut self.left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        self.desk.note(self.number, |passed| passed.received_bytes += bytes.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left != Some(0) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let is_whole = self.ended || self.is_end_stream();
        self.desk.note(self.number, |passed| {
            passed.is_whole = is_whole;
            passed.dropped = (!is_whole).then(Instant::now);
        });
    }
}
