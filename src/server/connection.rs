//! A connection, from its first byte to its last.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::{BoxError, Router};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::files::FileStream;
use super::linger::Linger;
use super::streams::Streams;
use super::tls::{Accepted, Certificates};
use crate::http::{Files, Peer};

/// The longest request head hyper takes in.
const HEAD_BYTES: usize = 128 * 1024;
/// Windows of HTTP/2, wide enough for long ways, narrow enough for many connections.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const STREAMS: u32 = 250;
/// How often a silent HTTP/2 connection is asked whether it lives.
const PING: Duration = Duration::from_secs(20);

/// What hyper reads from and writes to.
type Io<S> = TokioIo<Pin<Box<TimeoutStream<Linger<S>>>>>;

/// How connections are taken.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) router: Router,
    /// With them it speaks TLS.
    pub(super) certificates: Option<Certificates>,
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) header_bytes: u32,
    /// From now on nobody begins.
    pub(super) closing: CancellationToken,
    /// From now on nobody goes on.
    pub(super) ending: CancellationToken,
}

/// What a request is told of its connection.
struct Beside {
    peer: Peer,
    files: Option<Files>,
}

impl Beside {
    fn put(&self, extensions: &mut http::Extensions) {
        extensions.insert(self.peer.clone());
        if let Some(files) = &self.files {
            extensions.insert(files.clone());
        }
    }
}

impl Door {
    /// Takes connections, for ever.
    pub(super) async fn accept(
        &self,
        listener: &TcpListener,
        slots: &Arc<Semaphore>,
        connections: &TaskTracker,
    ) {
        loop {
            let slot = Arc::clone(slots).acquire_owned().await.expect("the slots are never closed");
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for connections to end.
                    tracing::warn!(%error, "could not accept a connection");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let door = self.clone();
            connections.spawn(async move {
                let ending = door.ending.clone();
                let peer = Peer { address: peer.ip(), tls: false, certificates: None };
                // What a connection needs is kept out of the task, which is many times copied.
                ending.run_until_cancelled_owned(Box::pin(door.serve(stream, peer))).await;
                drop(slot);
            });
        }
    }

    /// Serves one connection, HTTP/1.1 or HTTP/2 as its first bytes say.
    async fn serve(self, stream: TcpStream, peer: Peer) {
        // Small answers go out at once.
        let _ = stream.set_nodelay(true);
        let ended = match self.certificates.clone() {
            None => self.serve_plain(stream, peer).await,
            // Each kind of connection in a box: the room of all would be the largest's.
            Some(certificates) => Box::pin(self.serve_tls(stream, peer, &certificates)).await,
        };
        if let Err(error) = ended {
            // Clients hang up, and docker tries TLS first: nothing anyone must act on.
            tracing::debug!(%error, "a connection broke off");
        }
    }

    async fn serve_plain(&self, stream: TcpStream, peer: Peer) -> Result<(), BoxError> {
        let first_bytes = timeout(self.header_timeout, speaks_http2(&stream));
        let Some(Ok(Some(speaks_http2))) = self.closing.run_until_cancelled(first_bytes).await else {
            return Ok(());
        };
        let files = Files::default();
        let mut beside = Beside { peer, files: None };
        if speaks_http2 {
            return Ok(Box::pin(self.serve_http2(stream, beside)).await?);
        }
        beside.files = Some(files.clone());
        Ok(self.serve_http1(FileStream::new(stream, files), beside).await?)
    }

    async fn serve_tls(
        &self,
        stream: TcpStream,
        peer: Peer,
        certificates: &Certificates,
    ) -> Result<(), BoxError> {
        let Some(accepted) = self.closing.run_until_cancelled(certificates.accept(stream)).await else {
            return Ok(());
        };
        let Accepted::Tls { stream, speaks_http2, certificates } = accepted? else { return Ok(()) };
        let beside = Beside { peer: Peer { tls: true, certificates, ..peer }, files: None };
        let served = if speaks_http2 {
            Box::pin(self.serve_http2(stream, beside)).await
        } else {
            Box::pin(self.serve_http1(stream, beside)).await
        };
        Ok(served?)
    }

    async fn serve_http1(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        beside: Beside,
    ) -> hyper::Result<()> {
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            let router = self.router.clone();
            beside.put(request.extensions_mut());
            async move {
                Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {}))
            }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.header_timeout)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(self.io(stream), service)
        );
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = self.closing.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }

    /// The stream with its limit on how long a client may not read, closed so that the client has read all.
    fn io<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Io<S> {
        let mut stream = TimeoutStream::new(Linger::new(stream));
        stream.set_write_timeout(Some(self.idle_timeout));
        TokioIo::new(Box::pin(stream))
    }

    async fn serve_http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        beside: Beside,
    ) -> hyper::Result<()> {
        let streams = Streams::default();
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            beside.put(request.extensions_mut());
            let (router, stream) = (self.router.clone(), streams.open());
            async move {
                let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
                Ok::<_, Infallible>(response.map(|body| stream.send(body)))
            }
        });
        let mut connection = pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(self.header_bytes)
                .keep_alive_interval(PING)
                .keep_alive_timeout(PING)
                .serve_connection(self.io(stream), service)
        );
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = streams.unused(self.header_timeout, self.idle_timeout) => {}
            () = self.closing.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection => ended,
            // Nobody is left whom an answer would reach.
            () = streams.unused(self.idle_timeout, self.idle_timeout) => Ok(()),
        }
    }
}

/// Looks at the first bytes without taking them: `PRI * HTTP/2.0` begins as no method of HTTP/1.1
/// does. `None` if the connection ends first.
async fn speaks_http2(stream: &TcpStream) -> Option<bool> {
    const SHORTEST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_millis(200);
    let mut first = [0; 2];
    let mut pause = SHORTEST;
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return None,
            // `P` alone may become POST, PUT, PATCH or PRI. Many that stop there must cost nothing.
            Ok(1) if first[0] == b'P' => {
                sleep(pause).await;
                pause = LONGEST.min(2 * pause);
            }
            Ok(_) => return Some(first == *b"PR"),
        }
    }
}
