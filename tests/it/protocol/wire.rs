//! What the tests of the protocol share: each database in turn, requests down to their last byte,
//! and answers that are looked at as a client would.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::Body;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{
    Database, Repository, Server, content,
    layout::{CONFIG, LAYER, MANIFEST},
    tools::Workbench,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server and a way to it.
pub struct Berth {
    pub server: Server,
    client: reqwest::Client,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// An image in a repository, and its parts.
pub struct Image {
    pub manifest: Vec<u8>,
    pub digest: String,
    pub config: String,
    pub layer: String,
}

/// Runs a test on a server over SQLite, then on one over PostgreSQL; or over the run's database alone.
pub async fn on_each_database(test: impl AsyncFn(&Berth)) {
    on_each_database_with("", test).await;
}

/// As [`on_each_database`], on servers of a configuration.
pub async fn on_each_database_with(config: &str, test: impl AsyncFn(&Berth)) {
    for database in Database::each() {
        let place = std::any::type_name_of_val(&test);
        if database == Database::Postgres && Workbench::with(&["postgres"], place).is_none() {
            return;
        }
        // Seen when the test fails.
        eprintln!("on {database:?}:");
        test(&Berth::of(Server::builder().config(config).database(database).start().await)).await;
    }
}

impl Berth {
    pub fn of(server: Server) -> Self {
        Self { client: server.client(), server }
    }

    /// The same server, spoken to in HTTP/2.
    pub fn over_http2(server: Server) -> Self {
        let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().timeout(PATIENCE);
        let client = client.tls_certs_only([]).build();
        Self { server, client: client.expect("a client that trusts nobody has nothing to load") }
    }

    pub fn repository(&self, name: &str) -> Repository {
        self.server.repository(name)
    }

    /// Sends a request to a path with its query, whatever comes back. The body's form decides between
    /// `Content-Length` and a chunked body.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let method: Method = method.parse().expect("a method");
        let url = format!("{}{path}", self.server.url());
        let mut request = self.client.request(method, &url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await.unwrap_or_else(|error| panic!("{url}: {error:?}")).to_vec();
        Answer { status, headers, body }
    }

    /// Sends a request that has no body.
    pub async fn ask(&self, method: &str, path: &str) -> Answer {
        self.send(method, path, &[], Vec::new()).await
    }

    /// Begins an upload; returns its location.
    pub async fn begin(&self, repository: &str) -> String {
        let begun = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/")).await;
        assert_eq!(begun.status, 202, "{begun:?}");
        begun.header("location").to_owned()
    }

    /// Pushes an image of one layer; returns what it is made of.
    pub async fn push_image(&self, repository: &str, tag: &str, seed: u64) -> Image {
        let pushed = self.repository(repository);
        let config = pushed.push_blob(format!(r#"{{"seed":{seed}}}"#).as_bytes()).await;
        let layer = pushed.push_blob(&content::bytes(seed, 1000)).await;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config, format!(r#"{{"seed":{seed}}}"#).len()),
            "layers": [descriptor(LAYER, &layer, 1000)],
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = pushed.push_manifest(tag, MANIFEST, &manifest).await;
        Image { manifest, digest, config, layer }
    }

    /// Opens a connection of its own.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.host()).await.expect("the server listens")
    }

    /// Sends bytes on a connection of their own, whatever they are; returns the answer.
    pub async fn send_raw(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut connection = self.connect().await;
        // A server that has heard enough may close before it has read all.
        let _ = connection.write_all(bytes.as_ref()).await;
        read_answer(&mut connection).await
    }

    /// Sends a request line and no body, so that nothing tidies the path up.
    pub async fn ask_raw(&self, method: &str, target: &str) -> Answer {
        let host = self.server.host();
        self.send_raw(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"))
            .await
    }
}

impl Answer {
    /// A header that must be there, as text.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers));
        value.to_str().expect("a header is text")
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().expect("a header is text")).collect()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts that it has a status, and shows all of it otherwise.
    #[track_caller]
    pub fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text());
        self
    }

    /// Asserts that it is an OCI error body with a status and a code, under the id of its request.
    #[track_caller]
    pub fn is_refused(&self, status: u16, code: &str) -> &Self {
        self.is(status);
        assert_eq!(self.header("content-type"), "application/json");
        let errors = self.json();
        let errors = errors["errors"].as_array().expect("errors are a list");
        assert!(!errors.is_empty(), "{}", self.text());
        let id = self.header("x-request-id");
        assert!(!id.is_empty());
        for error in errors {
            assert_eq!(error["code"], code, "{}", self.text());
            assert_eq!(error["detail"]["request_id"], id, "{}", self.text());
            assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{}", self.text());
        }
        self
    }

    /// Asserts that an upload stands at so many bytes.
    #[track_caller]
    pub fn stands_at(&self, bytes: usize) -> &Self {
        assert_eq!(self.header("range"), format!("0-{}", bytes.saturating_sub(1)));
        self
    }
}

/// A descriptor without more than it must have.
pub fn descriptor(media_type: &str, digest: &str, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// A body that is sent in chunks and has no length.
pub fn chunked(bytes: &[u8]) -> Body {
    let chunks: Vec<_> = bytes.chunks(10_000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
    Body::wrap_stream(futures_util::stream::iter(chunks))
}

/// A location with the digest a client ends the upload with.
pub fn with_digest(location: &str, digest: &str) -> String {
    let joint = if location.contains('?') { '&' } else { '?' };
    format!("{location}{joint}digest={digest}")
}

/// Where a `Link` header says that the next page is, if there is one.
pub fn next(answer: &Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().expect("a link is text");
    let (address, relation) = link.split_once('>').expect("a link has an address");
    assert_eq!(relation, r#"; rel="next""#);
    Some(address.strip_prefix('<').expect("an address is in brackets").to_owned())
}

/// Reads one answer of HTTP/1.1, whose end is its `Content-Length` or that of the connection.
pub async fn read_answer(connection: &mut TcpStream) -> Answer {
    let reading = async {
        let mut read = Vec::new();
        loop {
            if let Some(answer) = parse(&read) {
                return answer;
            }
            match connection.read_buf(&mut read).await {
                Ok(0) | Err(_) => {
                    return parse_to_the_end(&read)
                        .unwrap_or_else(|| panic!("no answer, but {:?}", String::from_utf8_lossy(&read)));
                }
                Ok(_) => {}
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("an answer comes in time")
}

/// The whole answer, once its last byte is there.
fn parse(read: &[u8]) -> Option<Answer> {
    let answer = parse_to_the_end(read)?;
    if answer.status == 100 {
        return parse(&answer.body);
    }
    let length: usize = answer.headers.get("content-length")?.to_str().ok()?.parse().ok()?;
    (answer.body.len() >= length).then(|| Answer { body: answer.body[..length].to_vec(), ..answer })
}

fn parse_to_the_end(read: &[u8]) -> Option<Answer> {
    let end = read.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&read[..end]).expect("a head is text");
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().expect("a status is a number");
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').expect("a header has a colon");
        let name: HeaderName = name.parse().expect("a header's name");
        (name, HeaderValue::from_str(value.trim()).expect("a header's value"))
    });
    Some(Answer { status, headers: headers.collect(), body: read[end + 4..].to_vec() })
}
