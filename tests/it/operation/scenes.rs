//! What the tests of a server's operation share: an image to lose, other subcommands, disks of a
//! test's own, connections byte by byte, and waiting for a state without guessing how long.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::harness::{
    Repository, Server, content, http,
    layout::{CONFIG, LAYER, MANIFEST},
    process::{PATIENCE, Process},
    server::berth,
};

/// Writes each of these tests once for SQLite and once for PostgreSQL.
macro_rules! on_each_database {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::harness::Database::Sqlite).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $test() {
                let _bench = $crate::harness::tools::workbench!("postgres");
                super::$test($crate::harness::Database::Postgres).await;
            })+
        }
    };
}
pub(crate) use on_each_database;

/// Looks again and again until there is something to see.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "it took too long until {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub said: String,
}

/// Runs `berth` to its end, whichever way it ends.
pub async fn run(command: Command) -> Ended {
    let mut process = Process::start(command);
    let status = process.end(PATIENCE).await;
    Ended { code: status.code(), said: process.said() }
}

/// Runs a subcommand on a server's data and configuration.
pub async fn run_on(server: &Server, arguments: &[&str]) -> Ended {
    let mut command = berth();
    command.args(arguments).arg("--data").arg(server.data());
    if server.config().is_file() {
        command.arg("--config").arg(server.config());
    }
    run(command).await
}

/// An image in a repository: its manifest and its blobs, the config first.
pub struct Image {
    pub manifest: Vec<u8>,
    pub blobs: Vec<Vec<u8>>,
}

impl Image {
    /// An image with layers of these sizes, with the same bytes for the same seed.
    pub fn of(seed: u64, layers: &[usize]) -> Self {
        let config = json!({"architecture": "amd64", "os": "linux", "seed": seed}).to_string().into_bytes();
        let layers = layers.iter().zip(1..).map(|(size, number)| content::bytes(seed * 100 + number, *size));
        let blobs: Vec<_> = std::iter::once(config).chain(layers).collect();
        let descriptor = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": content::sha256(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &blobs[0]),
            "layers": blobs[1..].iter().map(|layer| descriptor(LAYER, layer)).collect::<Vec<_>>(),
        });
        Self { manifest: manifest.to_string().into_bytes(), blobs }
    }

    /// The digest of one of its blobs.
    pub fn digest(&self, blob: usize) -> String {
        content::sha256(&self.blobs[blob])
    }

    /// Pushes what is not there yet, as a client would; returns the digest of the manifest.
    pub async fn push(&self, repository: &Repository, tag: &str) -> String {
        for blob in &self.blobs {
            if head(repository, &content::sha256(blob)).await != 200 {
                repository.push_blob(blob).await;
            }
        }
        repository.push_manifest(tag, MANIFEST, &self.manifest).await
    }

    /// Pulls it, and compares every byte.
    pub async fn is_whole(&self, repository: &Repository, tag: &str) {
        let pulled = repository.pull(tag).await;
        assert_eq!(pulled.contents[&pulled.digest], self.manifest);
        assert!(self.blobs.iter().all(|blob| pulled.contents[&content::sha256(blob)] == *blob));
    }
}

/// The status of a HEAD of a blob.
pub async fn head(repository: &Repository, digest: &str) -> u16 {
    let answer = http().head(repository.url(&format!("blobs/{digest}"))).send().await;
    answer.expect("HEAD of a blob").status().as_u16()
}

/// The body of a refusal, which must be JSON as the spec has it.
pub async fn error_body(answer: reqwest::Response) -> Value {
    let text = answer.text().await.expect("read an error");
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
    assert!(body["errors"][0]["code"].is_string(), "an OCI error body: {body}");
    body
}

/// Begins an upload session; returns its path.
pub async fn begin(repository: &Repository) -> String {
    let answer = http().post(repository.url("blobs/uploads/")).send().await.expect("start an upload");
    assert_eq!(answer.status(), 202);
    answer.headers()["location"].to_str().expect("a location is text").to_owned()
}

/// A file system in memory. It is unmounted when this value is dropped, or else by the run.
pub struct Disk(PathBuf);

impl Disk {
    pub fn mount(at: &Path, size: &str) -> Self {
        let options = format!("size={size}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status();
        assert!(status.expect("run mount").success(), "mount a file system on {}", at.display());
        Self(at.to_owned())
    }

    /// Leaves so much room, in bytes, and no more.
    pub fn fill(&self, room: u64) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.filler()).expect("make the filler");
        while file.write_all(&[0; 4096]).is_ok() {}
        let length = file.metadata().expect("look at the filler").len();
        file.set_len(length.saturating_sub(room)).expect("cut the filler");
    }

    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("remove the filler");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A connection on which a test says every byte itself.
pub struct Wire(TcpStream);

impl Wire {
    pub async fn connect(to: impl ToSocketAddrs) -> Self {
        Self(TcpStream::connect(to).await.expect("connect to the server"))
    }

    /// A connection whose kernel takes next to nothing that the test does not read.
    pub async fn connect_narrow(to: &str) -> Self {
        const BUFFER_BYTES: u32 = 16 * 1024;
        let socket = TcpSocket::new_v4().expect("make a socket");
        socket.set_recv_buffer_size(BUFFER_BYTES).expect("set its buffer");
        let to = to.parse().expect("an address");
        Self(socket.connect(to).await.expect("connect to the server"))
    }

    /// The port it comes from.
    pub fn port(&self) -> u16 {
        self.0.local_addr().expect("a connection has an address").port()
    }

    /// Sends bytes; whether the server still took them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sending = timeout(PATIENCE, self.0.write_all(bytes.as_ref()));
        sending.await.expect("the server takes bytes or hangs up").is_ok()
    }

    /// The head of the next answer, byte by byte so that nothing behind it is taken.
    pub async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, self.0.read_u8()).await.expect("an answer comes in time");
            head.push(byte.unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&head));
            }));
        }
        String::from_utf8(head).expect("a head is text")
    }

    /// So many bytes of a body.
    pub async fn body(&mut self, length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        let reading = timeout(PATIENCE, self.0.read_exact(&mut body)).await;
        reading.expect("a body comes in time").expect("the body is whole");
        body
    }

    /// Whatever comes until the server hangs up.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A connection that is reset has ended too.
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("the server hangs up in time");
        rest
    }
}

/// A way to a server that can be cut, and made again.
pub struct Forwarder {
    port: u16,
    target: String,
    tasks: JoinSet<()>,
}

impl Forwarder {
    pub async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port of 127.0.0.1");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let mut forwarder = Self { port, target, tasks: JoinSet::new() };
        forwarder.forward(listener);
        forwarder
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection, and refuses new ones.
    pub async fn cut(&mut self) {
        self.tasks.shutdown().await;
    }

    pub async fn mend(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("bind the port again");
        self.forward(listener);
    }

    fn forward(&mut self, listener: TcpListener) {
        let target = self.target.clone();
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let target = target.clone();
                connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
    }
}

/// A metric's value, as whoever watches reads it.
pub async fn metric(server: &Server, name: &str) -> u64 {
    let said = server.said();
    let address = said.split_once("metrics  ").expect("it says where its metrics are").1;
    let address = address.split_whitespace().next().expect("an address follows");
    let answer = http().get(address).send().await.expect("GET of the metrics");
    let kind = answer.headers()["content-type"].to_str().expect("a media type is text").to_owned();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = answer.text().await.expect("read the metrics");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a metric is a number")
}
