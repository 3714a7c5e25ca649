//! The client of every load: one HTTP/1.1 keep-alive connection a worker, nothing pooled, nothing retried.
//!
//! It is to cost less than the servers it asks: a request is one write of bytes that were made before where
//! they can be, an answer is parsed where it was read, and nothing is allocated for either.

use std::fmt::Write as _;
use std::io::{IoSlice, Write as _};
use std::net::SocketAddr;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::Method;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;

use crate::payload::Payload;

const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                        application/vnd.docker.distribution.manifest.v2+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, */*";
const MOST_HEADERS: usize = 64;
const FIRST_READ: usize = 16 * 1024;
/// How much of a large blob is read at once.
const LARGE_READ: usize = 256 * 1024;
/// The largest body that is sent in one write with its headers.
const SMALL_BODY: usize = 64 * 1024;

/// One connection to one server.
pub struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    /// Sent with every request that [`Connection::send`] makes, if there is one.
    pub authorization: Option<String>,
    request: Vec<u8>,
    received: Vec<u8>,
    unchunked: Vec<u8>,
}

/// How the end of a body is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    None,
    Length(usize),
    Chunked,
}

/// The head of an answer: what is looked at, as places in what was received.
struct Head {
    status: u16,
    framing: Framing,
    announced: Option<usize>,
    digest: Option<Range<usize>>,
    location: Option<Range<usize>>,
    link: Option<Range<usize>>,
    size_bytes: usize,
}

/// An answer read to its end.
pub struct Answer<'a> {
    what: &'a [u8],
    head: Head,
    received: &'a [u8],
    /// The body's bytes.
    pub body: &'a [u8],
}

/// The bytes of a request without a body.
pub fn request_bytes(
    address: SocketAddr,
    method: &Method,
    path: &str,
    authorization: Option<&str>,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    start_request(&mut bytes, address, method, path, authorization)?;
    if method == Method::POST || method == Method::PUT {
        bytes.extend_from_slice(b"Content-Length: 0\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    Ok(bytes)
}

/// The bytes of a request with a form.
pub fn form_bytes(address: SocketAddr, path: &str, form: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    start_request(&mut bytes, address, &Method::POST, path, None)?;
    write!(
        bytes,
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    )?;
    Ok(bytes)
}

fn start_request(
    bytes: &mut Vec<u8>,
    address: SocketAddr,
    method: &Method,
    path: &str,
    authorization: Option<&str>,
) -> Result<()> {
    write!(
        bytes,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: registries-bench/1\r\nAccept: {ACCEPTED}\r\n"
    )?;
    if let Some(authorization) = authorization {
        write!(bytes, "Authorization: {authorization}\r\n")?;
    }
    Ok(())
}

impl Connection {
    /// Connects to a server.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            address,
            authorization: None,
            request: Vec::new(),
            received: Vec::new(),
            unchunked: Vec::new(),
        })
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        media_type: Option<&str>,
        body: Payload,
    ) -> Result<Answer<'_>> {
        self.send_only(&method, path, media_type, body).await?;
        self.answer(method == Method::HEAD).await
    }

    /// Sends bytes that are a whole request and reads the whole answer.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.received.clear();
        self.request.clear();
        self.request.extend_from_slice(first_line(request));
        self.stream.write_all(request).await.context("send a request")?;
        self.answer(request.starts_with(b"HEAD ")).await
    }

    /// Sends a request of which the answer is not awaited yet; the body may be left open by the payload.
    pub async fn send_only(
        &mut self,
        method: &Method,
        path: &str,
        media_type: Option<&str>,
        mut body: Payload,
    ) -> Result<()> {
        self.received.clear();
        self.request.clear();
        start_request(&mut self.request, self.address, method, path, self.authorization.as_deref())?;
        if let Some(media_type) = media_type {
            write!(self.request, "Content-Type: {media_type}\r\n")?;
        }
        if !body.announced {
            self.request.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        } else if body.size_bytes() > 0 || method == Method::POST || method == Method::PUT {
            write!(self.request, "Content-Length: {}\r\n", body.size_bytes())?;
        }
        self.request.extend_from_slice(b"\r\n");
        let head_bytes = self.request.len();
        if body.size_bytes() <= SMALL_BODY as u64 {
            while let Some(frame) = body.next_frame() {
                if body.announced {
                    self.request.extend_from_slice(&frame);
                } else {
                    write!(self.request, "{:x}\r\n", frame.len())?;
                    self.request.extend_from_slice(&frame);
                    self.request.extend_from_slice(b"\r\n");
                }
            }
            if body.ends_in_chunk() {
                self.request.extend_from_slice(b"0\r\n\r\n");
            }
            self.stream.write_all(&self.request).await.context("send a request")?;
        } else {
            self.stream.write_all(&self.request).await.context("send a request")?;
            self.send_frames(&mut body).await?;
        }
        self.request.truncate(head_bytes);
        Ok(())
    }

    async fn send_frames(&mut self, body: &mut Payload) -> Result<()> {
        let mut size = String::new();
        while let Some(frame) = body.next_frame() {
            if body.announced {
                self.stream.write_all(&frame).await.context("send a body")?;
                continue;
            }
            size.clear();
            write!(size, "{:x}\r\n", frame.len())?;
            let mut parts = [IoSlice::new(size.as_bytes()), IoSlice::new(&frame), IoSlice::new(b"\r\n")];
            let mut left = &mut parts[..];
            while !left.is_empty() {
                let written = self.stream.write_vectored(left).await.context("send a body")?;
                ensure!(written > 0, "send a body: the connection was closed");
                IoSlice::advance_slices(&mut left, written);
            }
        }
        if body.ends_in_chunk() {
            self.stream.write_all(b"0\r\n\r\n").await.context("send a body")?;
        }
        Ok(())
    }

    /// Sends bytes as they are: what ends a body that was left open.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Reads the answer to what was sent.
    pub async fn answer(&mut self, is_head: bool) -> Result<Answer<'_>> {
        let head = self.read_head(is_head).await?;
        self.read_answer(head).await
    }

    async fn read_answer(&mut self, head: Head) -> Result<Answer<'_>> {
        let start = head.size_bytes;
        let body = match head.framing {
            Framing::None => start..start,
            Framing::Length(size_bytes) => {
                while self.received.len() < start + size_bytes {
                    self.read(start + size_bytes).await?;
                }
                start..start + size_bytes
            }
            Framing::Chunked => {
                self.read_chunks(start).await?;
                return Ok(Answer {
                    what: first_line(&self.request),
                    head,
                    received: &self.received,
                    body: &self.unchunked,
                });
            }
        };
        ensure!(self.received.len() == body.end, "{}: more came than the answer", self.what());
        let what = first_line(&self.request);
        Ok(Answer { what, head, received: &self.received, body: &self.received[body] })
    }

    async fn read_chunks(&mut self, start: usize) -> Result<()> {
        self.unchunked.clear();
        let mut at = start;
        loop {
            let (header_bytes, size_bytes) = loop {
                match httparse::parse_chunk_size(&self.received[at..]) {
                    Ok(httparse::Status::Complete((header, size))) => break (header, usize::try_from(size)?),
                    Ok(httparse::Status::Partial) => self.read(0).await?,
                    Err(_) => bail!("{}: a chunk without a size", self.what()),
                }
            };
            at += header_bytes;
            while self.received.len() < at + size_bytes + 2 {
                self.read(at + size_bytes + 2).await?;
            }
            self.unchunked.extend_from_slice(&self.received[at..at + size_bytes]);
            at += size_bytes + 2;
            if size_bytes == 0 {
                return Ok(());
            }
        }
    }

    /// Sends a GET without reading the whole answer into memory: `each` sees the bytes as they come.
    pub async fn stream(&mut self, path: &str, mut each: impl FnMut(&[u8])) -> Result<u64> {
        let mut buffer = Vec::new();
        self.send_only(&Method::GET, path, None, Payload::empty()).await?;
        let head = self.read_head(false).await?;
        ensure!(head.status == 200, "{}: answered {}", self.what(), head.status);
        let Framing::Length(size_bytes) = head.framing else { bail!("{}: no length", self.what()) };
        let first = &self.received[head.size_bytes..];
        each(first);
        let mut came = first.len();
        while came < size_bytes {
            buffer.clear();
            buffer.reserve(LARGE_READ);
            let read = (&mut self.stream).take((size_bytes - came) as u64).read_buf(&mut buffer).await;
            let read = read.with_context(|| format!("{}: read the answer", self.what()))?;
            ensure!(read > 0, "{}: only {came} of {size_bytes} bytes came", self.what());
            each(&buffer[..read]);
            came += read;
        }
        ensure!(came == size_bytes, "{}: more came than the answer", self.what());
        Ok(came as u64)
    }

    /// As [`Connection::stream`], but the kernel throws the bytes away instead of copying them: a client that
    /// only counts costs the machine less, whoever serves it. `room` is how much of them at once.
    pub async fn count(&mut self, path: &str, room: &mut [u8]) -> Result<u64> {
        self.send_only(&Method::GET, path, None, Payload::empty()).await?;
        let head = self.read_head(false).await?;
        ensure!(head.status == 200, "{}: answered {}", self.what(), head.status);
        let Framing::Length(size_bytes) = head.framing else { bail!("{}: no length", self.what()) };
        let mut came = self.received.len() - head.size_bytes;
        while came < size_bytes {
            let most = room.len().min(size_bytes - came);
            let skip = || Ok(recv(&self.stream, &mut room[..most], RecvFlags::TRUNC)?.1);
            let skipped = self.stream.async_io(Interest::READABLE, skip).await;
            let skipped = skipped.with_context(|| format!("{}: read the answer", self.what()))?;
            ensure!(skipped > 0, "{}: only {came} of {size_bytes} bytes came", self.what());
            came += skipped;
        }
        ensure!(came == size_bytes, "{}: more came than the answer", self.what());
        Ok(came as u64)
    }

    async fn read_head(&mut self, is_head: bool) -> Result<Head> {
        loop {
            self.read(0).await?;
            if let Some(head) = parse_head(&self.received, is_head).with_context(|| self.what())? {
                return Ok(head);
            }
        }
    }

    /// Reads more; `wanted` is how much there will be altogether, if that is known.
    async fn read(&mut self, wanted: usize) -> Result<()> {
        let missing = wanted.saturating_sub(self.received.len());
        self.received.reserve(missing.max(FIRST_READ));
        let read = self.stream.read_buf(&mut self.received).await;
        let read = read.with_context(|| format!("{}: read the answer", self.what()))?;
        ensure!(read > 0, "{}: the connection was closed", self.what());
        Ok(())
    }

    fn what(&self) -> String {
        String::from_utf8_lossy(first_line(&self.request)).into_owned()
    }
}

fn first_line(request: &[u8]) -> &[u8] {
    let end = request.windows(5).position(|window| window == b" HTTP").unwrap_or(request.len());
    &request[..end]
}

fn parse_head(received: &[u8], is_head: bool) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(size_bytes) = response.parse(received)? else { return Ok(None) };
    let status = response.code.context("no status")?;
    let mut head = Head {
        status,
        framing: Framing::None,
        announced: None,
        digest: None,
        location: None,
        link: None,
        size_bytes,
    };
    let mut is_chunked = false;
    for header in response.headers.iter() {
        let place = || {
            let start = header.value.as_ptr().addr() - received.as_ptr().addr();
            Some(start..start + header.value.len())
        };
        // Most headers are told apart by their length.
        match header.name.len() {
            4 if header.name.eq_ignore_ascii_case("link") => head.link = place(),
            8 if header.name.eq_ignore_ascii_case("location") => head.location = place(),
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                head.announced = Some(std::str::from_utf8(header.value)?.parse()?);
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => is_chunked = true,
            21 if header.name.eq_ignore_ascii_case("docker-content-digest") => head.digest = place(),
            _ => {}
        }
    }
    if !is_head && status != 204 && status != 304 {
        head.framing = match head.announced {
            _ if is_chunked => Framing::Chunked,
            Some(size_bytes) => Framing::Length(size_bytes),
            None => bail!("an answer that ends with its connection"),
        };
    }
    Ok(Some(head))
}

impl Answer<'_> {
    fn what(&self) -> String {
        String::from_utf8_lossy(self.what).into_owned()
    }

    /// Fails unless the server answered with `status`.
    pub fn require(self, status: u16) -> Result<Self> {
        if self.head.status != status {
            let body = String::from_utf8_lossy(&self.body[..self.body.len().min(400)]);
            bail!("{}: answered {} instead of {status}: {body}", self.what(), self.head.status);
        }
        Ok(self)
    }

    /// Fails unless the answer names this digest in `Docker-Content-Digest`.
    pub fn require_digest(self, digest: &str) -> Result<Self> {
        let named = self.head.digest.clone().map(|place| &self.received[place]);
        ensure!(
            named == Some(digest.as_bytes()),
            "{}: the digest is {:?}, not {digest}",
            self.what(),
            named.map(String::from_utf8_lossy)
        );
        Ok(self)
    }

    /// Fails unless `Content-Length` announces this many bytes, which a HEAD answer should too.
    pub fn require_length(self, size_bytes: usize) -> Result<Self> {
        let announced = self.head.announced;
        ensure!(
            announced == Some(size_bytes),
            "{}: announced {announced:?} of {size_bytes} bytes",
            self.what()
        );
        Ok(self)
    }

    /// Fails unless the body is exactly these bytes.
    pub fn require_body(self, bytes: &Bytes) -> Result<Self> {
        ensure!(self.body == bytes, "{}: {} bytes that are not those expected", self.what(), self.body.len());
        Ok(self)
    }

    /// The path and query to go on at.
    pub fn location(&self) -> Result<String> {
        let place = self.head.location.clone().with_context(|| format!("{}: no Location", self.what()))?;
        let location: http::Uri = std::str::from_utf8(&self.received[place])?.parse()?;
        let path = location.path_and_query().with_context(|| format!("{}: empty Location", self.what()))?;
        Ok(path.as_str().to_owned())
    }

    /// The path and query of the next page, if there is one.
    pub fn next_page(&self) -> Result<Option<String>> {
        let Some(place) = self.head.link.clone() else { return Ok(None) };
        let link = std::str::from_utf8(&self.received[place])?;
        let (_, rest) = link.split_once('<').context("a Link without an address")?;
        let (address, _) = rest.split_once('>').context("a Link without an address")?;
        let address: http::Uri = address.parse()?;
        Ok(address.path_and_query().map(|path| path.as_str().to_owned()))
    }
}
