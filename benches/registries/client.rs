//! The client of every load: one HTTP/1.1 keep-alive connection a worker, nothing pooled, nothing retried.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, USER_AGENT,
};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::payload::Payload;

const ACCEPTED: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, */*",
);
const AGENT: HeaderValue = HeaderValue::from_static("registries-bench/1");
const DIGEST: &str = "docker-content-digest";

/// One connection to one server.
pub struct Connection {
    sender: SendRequest<Payload>,
    host: HeaderValue,
    // Holds the one task that moves the connection's bytes; dropped, it ends.
    _driver: JoinSet<()>,
}

/// An answer read to its end.
pub struct Answer {
    what: String,
    status: StatusCode,
    headers: HeaderMap,
    /// The body's bytes.
    pub body: Bytes,
}

impl Connection {
    /// Connects to a server.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // A failure shows in the request that was under way.
            let _ = connection.await;
        });
        let host = HeaderValue::from_str(&address.to_string())?;
        Ok(Self { sender, host, _driver: driver })
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        media_type: Option<&'static str>,
        body: Payload,
    ) -> Result<Answer> {
        let what = || format!("{method} {path}");
        let request = self.request(&method, path, media_type, body)?;
        self.sender.ready().await.with_context(what)?;
        let (parts, body) = self.sender.send_request(request).await.with_context(what)?.into_parts();
        let body = body.collect().await.with_context(what)?.to_bytes();
        Ok(Answer { what: what(), status: parts.status, headers: parts.headers, body })
    }

    /// Sends a GET without reading the whole answer into memory: `each` sees the bytes as they come.
    pub async fn stream(&mut self, path: &str, mut each: impl FnMut(&Bytes)) -> Result<u64> {
        let request = self.request(&Method::GET, path, None, Payload::empty())?;
        self.sender.ready().await?;
        let mut answer = self.sender.send_request(request).await?;
        ensure!(answer.status() == StatusCode::OK, "GET {path}: answered {}", answer.status());
        let mut size_bytes = 0;
        while let Some(frame) = answer.frame().await {
            if let Ok(data) = frame?.into_data() {
                size_bytes += data.len() as u64;
                each(&data);
            }
        }
        Ok(size_bytes)
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        media_type: Option<&'static str>,
        body: Payload,
    ) -> Result<Request<Payload>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, ACCEPTED);
        if let Some(media_type) = media_type {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        Ok(request.body(body)?)
    }
}

impl Answer {
    /// Fails unless the server answered with `status`.
    pub fn require(self, status: StatusCode) -> Result<Self> {
        if self.status != status {
            let body = String::from_utf8_lossy(&self.body[..self.body.len().min(400)]);
            bail!("{}: answered {} instead of {status}: {body}", self.what, self.status);
        }
        Ok(self)
    }

    /// Fails unless the answer names this digest in `Docker-Content-Digest`.
    pub fn require_digest(self, digest: &str) -> Result<Self> {
        let named = self.headers.get(DIGEST).map(HeaderValue::as_bytes);
        ensure!(named == Some(digest.as_bytes()), "{}: {DIGEST} is {named:?}, not {digest}", self.what);
        Ok(self)
    }

    /// Fails unless `Content-Length` announces this many bytes, which a HEAD answer should too.
    pub fn require_length(self, size_bytes: usize) -> Result<Self> {
        let announced = self.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        ensure!(
            announced == Some(size_bytes),
            "{}: announced {announced:?} of {size_bytes} bytes",
            self.what
        );
        Ok(self)
    }

    /// Fails unless the body is exactly these bytes.
    pub fn require_body(self, bytes: &Bytes) -> Result<Self> {
        ensure!(self.body == bytes, "{}: {} bytes that are not those pushed", self.what, self.body.len());
        Ok(self)
    }

    /// The path and query to go on at.
    pub fn location(&self) -> Result<String> {
        let location = self.headers.get(LOCATION).with_context(|| format!("{}: no Location", self.what))?;
        let location: http::Uri = location.to_str()?.parse()?;
        let path = location.path_and_query().with_context(|| format!("{}: empty Location", self.what))?;
        Ok(path.as_str().to_owned())
    }
}
