//! HTTP/1.1 over TLS or plain, a thread a connection: enough for one client at a time, and for bad days.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request, read to its end.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// Its query's parameters, in order.
    pub query: Vec<(String, String)>,
    /// Its headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
    /// The certificate that the client showed, DER.
    pub client_certificate: Option<Vec<u8>>,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// An answer.
    Answer {
        /// The status.
        status: u16,
        /// Headers beside the length.
        headers: Vec<(String, String)>,
        /// The body.
        body: String,
    },
    /// These bytes, whatever they are, and the end.
    Raw(Vec<u8>),
    /// The end of the connection.
    Close,
    /// Nothing, for as long as the client waits.
    Silence,
    /// Another reply, later.
    Late(Duration, Box<Reply>),
}

impl Reply {
    /// An answer of JSON.
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::text(status, &body.to_string()).with("content-type", "application/json")
    }

    /// An answer of text.
    pub fn text(status: u16, body: &str) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.to_owned() }
    }

    /// The error that registries answer.
    pub fn oci_error(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &serde_json::json!({"errors": [{"code": code, "message": message}]}))
    }

    /// The same answer with one header more.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

impl Request {
    /// The one value of a query parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut values = self.query.iter().filter(|(parameter, _)| parameter == name);
        let value = values.next().map(|(_, value)| value.as_str());
        if values.next().is_some() { None } else { value }
    }

    /// The body as a form, each field once; an error says what is wrong with it.
    pub fn form(&self) -> Result<BTreeMap<String, String>, String> {
        if self.headers.get("content-type").map(String::as_str) != Some("application/x-www-form-urlencoded") {
            return Err(format!("a form of type {:?}", self.headers.get("content-type")));
        }
        let mut form = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(&self.body) {
            if form.insert(name.to_string(), value.to_string()).is_some() {
                return Err(format!("the field {name} twice"));
            }
        }
        Ok(form)
    }
}

/// A server, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let (stop, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let handler = Arc::new(handler);
        let shared = (stop.clone(), connections.clone());
        std::thread::spawn(move || {
            let (stop, connections) = shared;
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                connections.fetch_add(1, Ordering::SeqCst);
                let (tls, handler) = (tls.clone(), handler.clone());
                std::thread::spawn(move || {
                    stream.set_nodelay(true).ok();
                    // A client that gives up is part of the tests.
                    let _ended = match tls {
                        Some(config) => serve_tls(stream, config, &*handler),
                        None => serve(stream, None, &*handler),
                    };
                });
            }
        });
        Self { address, connections, stop }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
    }
}

fn serve_tls(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    handler: &dyn Fn(&Request) -> Reply,
) -> std::io::Result<()> {
    let mut connection = ServerConnection::new(config).expect("the configuration is good");
    let mut socket = stream;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    let certificate = connection.peer_certificates().and_then(|chain| chain.first()).map(|der| der.to_vec());
    serve(StreamOwned::new(connection, socket), certificate.as_ref(), handler)
}

fn serve(
    mut stream: impl Read + Write,
    certificate: Option<&Vec<u8>>,
    handler: &dyn Fn(&Request) -> Reply,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Some(request) = read(&mut stream, &mut buffer, certificate)? else { return Ok(()) };
        let mut reply = handler(&request);
        while let Reply::Late(span, later) = reply {
            std::thread::sleep(span);
            reply = *later;
        }
        match reply {
            Reply::Answer { status, headers, body } => {
                let mut head =
                    vec![format!("HTTP/1.1 {status} X"), format!("content-length: {}", body.len())];
                head.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
                let answer = head.join("\r\n") + "\r\n\r\n" + &body;
                stream.write_all(answer.as_bytes())?;
                stream.flush()?;
            }
            Reply::Raw(bytes) => {
                stream.write_all(&bytes)?;
                return stream.flush();
            }
            Reply::Close | Reply::Late(..) => return Ok(()),
            Reply::Silence => {
                std::io::copy(&mut stream, &mut std::io::sink())?;
                return Ok(());
            }
        }
    }
}

fn read(
    stream: &mut impl Read,
    buffer: &mut Vec<u8>,
    certificate: Option<&Vec<u8>>,
) -> std::io::Result<Option<Request>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        if let Ok(httparse::Status::Complete(head)) = parsed.parse(buffer) {
            let headers: BTreeMap<_, _> = parsed
                .headers
                .iter()
                .map(|header| {
                    (header.name.to_lowercase(), String::from_utf8_lossy(header.value).into_owned())
                })
                .collect();
            let length: usize =
                headers.get("content-length").map_or(0, |length| length.parse().expect("a length"));
            if buffer.len() >= head + length {
                let (path, query) = parsed
                    .path
                    .unwrap_or_default()
                    .split_once('?')
                    .unwrap_or((parsed.path.unwrap_or_default(), ""));
                let request = Request {
                    method: parsed.method.unwrap_or_default().to_owned(),
                    path: path.to_owned(),
                    query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
                    headers,
                    body: buffer[head..head + length].to_vec(),
                    client_certificate: certificate.cloned(),
                };
                buffer.drain(..head + length);
                return Ok(Some(request));
            }
        }
        let mut chunk = [0; 8192];
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Ok(None);
        }
        buffer.extend_from_slice(&chunk[..count]);
    }
}
