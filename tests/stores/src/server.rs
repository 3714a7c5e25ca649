//! A server inside of the test process, on a port of 127.0.0.1 that the kernel chose.
//!
//! It has a thread and a runtime of its own: tests that share it each have another, which ends with
//! the test.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
};

use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A running server. It ends, with all of its connections, when this value is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    // Says by its end that the server is to end.
    _running: oneshot::Sender<()>,
}

impl Server {
    /// Serves HTTP/1.1, over TLS if there is a configuration for it.
    pub(crate) fn start<S, B>(service: S, tls: Option<ServerConfig>) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<Cause> + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Cause>,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on 127.0.0.1");
        listener.set_nonblocking(true).expect("make a listener asynchronous");
        let address = listener.local_addr().expect("a listener has an address");
        let (running, over) = oneshot::channel();
        let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("start a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("adopt a listener");
                tokio::select! {
                    () = accept(listener, service, tls) => {}
                    _ = over => {}
                }
            });
        });
        Self { address, _running: running }
    }
}

async fn accept<S, B>(listener: tokio::net::TcpListener, service: S, tls: Option<TlsAcceptor>)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Cause> + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Cause>,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A peer that is gone already is no concern of the others.
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let (service, tls) = (service.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, service).await,
                        Some(tls) => {
                            // Who does not trust us says so, and goes.
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, service).await;
                            }
                        }
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve<T, S, B>(stream: T, service: S)
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Cause> + 'static,
    B: Body + 'static,
    B::Error: Into<Cause>,
{
    // Ends with an error where a client hangs up, or a body breaks off on purpose.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
