//! A client whose requests may fail: what a test needs that breaks servers on purpose.
//!
//! It pushes as real clients do, looks before it uploads, and hands every answer back, so that the
//! test can tell what was acknowledged from what was not.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::json;

use crate::harness::{
    Server,
    content::{self, digest_like, sha256},
    http,
    layout::{CONFIG, LAYER, MANIFEST},
};

/// How a client sends a blob.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// POST, PATCH without a length, empty PUT.
    Docker,
    /// POST, PUT with all of it.
    Containerd,
    /// One POST.
    Single,
}

/// Why there is no good answer.
#[derive(Debug)]
pub enum Failure {
    /// None came: the server is gone, or goes.
    Gone(String),
    /// Another one came than was hoped for.
    Refused { request: String, status: StatusCode, body: String },
}

pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// Whether the server said that somebody else is at it.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::CONFLICT, .. })
    }

    /// Whether the server said that it does not have what was asked for.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::NOT_FOUND, .. })
    }
}

/// A small image: its blobs, the config first, and the manifest that names them.
#[derive(Clone, Debug)]
pub struct Image {
    pub manifest: Bytes,
    pub digest: String,
    pub blobs: Vec<Bytes>,
}

impl Image {
    /// An image of some layers, with a config that depends on the seed alone.
    pub fn new(seed: u64, layers: impl IntoIterator<Item = Bytes>) -> Self {
        let config = json!({"architecture": "amd64", "os": "linux", "seed": seed}).to_string();
        let mut blobs = vec![Bytes::from(config)];
        blobs.extend(layers);
        let descriptor = |media_type: &str, bytes: &Bytes| json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &blobs[0]),
            "layers": blobs[1..].iter().map(|layer| descriptor(LAYER, layer)).collect::<Vec<_>>(),
        });
        let manifest = Bytes::from(manifest.to_string());
        Self { digest: sha256(&manifest), manifest, blobs }
    }
}

/// A blob that depends on the seed alone.
pub fn blob(seed: u64, length: usize) -> Bytes {
    content::bytes(seed, length).into()
}

/// One way to one server.
#[derive(Clone)]
pub struct Wire {
    client: reqwest::Client,
    registry: Arc<str>,
}

impl Wire {
    pub fn to(server: &Server) -> Self {
        Self { client: http(), registry: server.url().into() }
    }

    /// A request below a repository.
    pub fn request(&self, method: Method, repository: &str, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}/v2/{repository}/{path}", self.registry))
    }

    /// Uploads a blob; an answer means that the server has it.
    pub async fn upload(&self, repository: &str, bytes: &Bytes, way: Way) -> Outcome<()> {
        let digest = sha256(bytes);
        if matches!(way, Way::Single) {
            let request = self.request(Method::POST, repository, &format!("blobs/uploads/?digest={digest}"));
            return expect(request.body(bytes.clone()), StatusCode::CREATED).await.map(drop);
        }
        let mut location = self.start(repository).await?;
        let mut body = bytes.clone();
        if matches!(way, Way::Docker) {
            location = self.append(&location, std::mem::take(&mut body)).await?;
        }
        let put = self.client.put(format!("{}{location}?digest={digest}", self.registry));
        expect(put.body(body), StatusCode::CREATED).await.map(drop)
    }

    /// Begins an upload session; the answer is its path.
    pub async fn start(&self, repository: &str) -> Outcome<String> {
        let request = self.request(Method::POST, repository, "blobs/uploads/");
        Ok(location(&expect(request, StatusCode::ACCEPTED).await?))
    }

    /// Adds bytes to a session as docker does, in pieces and without saying how many there are.
    pub async fn append(&self, location: &str, bytes: Bytes) -> Outcome<String> {
        let pieces: Vec<_> = bytes.chunks(16 * 1024).map(|piece| bytes.slice_ref(piece)).collect();
        self.append_pieces(location, pieces, Duration::ZERO).await
    }

    /// Adds bytes to a session, a piece at a time, with a pause between two of them.
    pub async fn append_pieces(
        &self,
        location: &str,
        pieces: Vec<Bytes>,
        pause: Duration,
    ) -> Outcome<String> {
        let pieces = stream::iter(pieces).then(move |piece| async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            Ok::<_, std::io::Error>(piece)
        });
        self.patch(location, reqwest::Body::wrap_stream(pieces)).await
    }

    /// Adds a body of the test's own to a session.
    pub async fn patch(&self, location: &str, body: impl Into<reqwest::Body>) -> Outcome<String> {
        let patch = self.client.patch(format!("{}{location}", self.registry));
        let answer = expect(patch.body(body), StatusCode::ACCEPTED).await?;
        Ok(self::location(&answer))
    }

    /// Makes what a session has a blob, with an empty PUT as docker sends it.
    pub async fn finish(&self, location: &str, digest: &str) -> Outcome<()> {
        let put = self.client.put(format!("{}{location}?digest={digest}", self.registry));
        expect(put, StatusCode::CREATED).await.map(drop)
    }

    /// Where a session stands, in bytes. It must have more than one.
    pub async fn offset(&self, location: &str) -> Outcome<usize> {
        let request = self.client.get(format!("{}{location}", self.registry));
        let range = header(&expect(request, StatusCode::NO_CONTENT).await?, "range");
        let (_, last) = range.split_once('-').expect("a range");
        Ok(last.parse::<usize>().expect("a number") + 1)
    }

    /// Ends a session without a blob.
    pub async fn cancel(&self, location: &str) -> Outcome<()> {
        let request = self.client.delete(format!("{}{location}", self.registry));
        expect(request, StatusCode::NO_CONTENT).await.map(drop)
    }

    /// Whether a pusher is told that a blob is there.
    pub async fn has(&self, repository: &str, digest: &str) -> Outcome<bool> {
        let request = self.request(Method::HEAD, repository, &format!("blobs/{digest}"));
        found(expect(request, StatusCode::OK).await.map(drop)).map(|found| found.is_some())
    }

    /// Mounts a blob; `false` where the server would rather have it uploaded.
    pub async fn mount(&self, repository: &str, digest: &str, from: &str) -> Outcome<bool> {
        let path = format!("blobs/uploads/?mount={digest}&from={from}");
        let answer = expect_one_of(
            self.request(Method::POST, repository, &path),
            &[StatusCode::CREATED, StatusCode::ACCEPTED],
        )
        .await?;
        if answer.status() == StatusCode::CREATED {
            return Ok(true);
        }
        self.cancel(&location(&answer)).await?;
        Ok(false)
    }

    /// Puts a manifest under a tag.
    pub async fn put_manifest(&self, repository: &str, tag: &str, image: &Image) -> Outcome<()> {
        let request = self.request(Method::PUT, repository, &format!("manifests/{tag}"));
        let request = request.header("Content-Type", MANIFEST).body(image.manifest.clone());
        expect(request, StatusCode::CREATED).await.map(drop)
    }

    /// Pushes an image as clients do: what is there already is not sent. Answers the longest time
    /// between the server's word that it has a blob and the end of the push.
    pub async fn push(
        &self,
        repository: &str,
        tag: &str,
        image: &Image,
        way: Way,
        from: Option<&str>,
    ) -> Outcome<Duration> {
        let mut confirmed = None;
        for bytes in &image.blobs {
            let digest = sha256(bytes);
            let asked = Instant::now();
            let mut has = self.has(repository, &digest).await?;
            if let Some(from) = from.filter(|_| !has) {
                has = self.mount(repository, &digest, from).await?;
            }
            if !has {
                self.upload(repository, bytes, way).await?;
            }
            // From before the question: the server's clock ran while its answer was on its way.
            confirmed.get_or_insert(asked);
        }
        let outcome = self.put_manifest(repository, tag, image).await;
        let gap = confirmed.map_or(Duration::ZERO, |confirmed| confirmed.elapsed());
        outcome.map(|()| gap)
    }

    /// The digest a tag points at.
    pub async fn tagged(&self, repository: &str, tag: &str) -> Outcome<Option<String>> {
        let request = self.request(Method::HEAD, repository, &format!("manifests/{tag}"));
        let answer = found(expect(request.header("Accept", MANIFEST), StatusCode::OK).await)?;
        Ok(answer.map(|answer| header(&answer, "docker-content-digest")))
    }

    /// Reads an image by tag or digest, and compares every byte of it.
    pub async fn pull(&self, repository: &str, reference: &str, image: &Image) -> Outcome<()> {
        let request = self.request(Method::GET, repository, &format!("manifests/{reference}"));
        let manifest = bytes(expect(request.header("Accept", MANIFEST), StatusCode::OK).await?).await?;
        assert_eq!(manifest, image.manifest, "the manifest {repository}:{reference}");
        for bytes in &image.blobs {
            let digest = sha256(bytes);
            assert_eq!(self.blob(repository, &digest).await?, *bytes, "blob {digest} of {repository}");
        }
        Ok(())
    }

    /// Reads a blob and compares it with its digest.
    pub async fn blob(&self, repository: &str, digest: &str) -> Outcome<Bytes> {
        let request = self.request(Method::GET, repository, &format!("blobs/{digest}"));
        let bytes = bytes(expect(request, StatusCode::OK).await?).await?;
        assert_eq!(digest_like(digest, &bytes), digest, "the bytes of blob {digest}");
        Ok(bytes)
    }

    /// Deletes a tag, a manifest or a blob; `false` where it was not there.
    pub async fn delete(&self, repository: &str, path: &str) -> Outcome<bool> {
        let request = self.request(Method::DELETE, repository, path);
        found(expect(request, StatusCode::ACCEPTED).await.map(drop)).map(|found| found.is_some())
    }
}

/// The answer, if it has this status.
pub async fn expect(request: RequestBuilder, status: StatusCode) -> Outcome<Response> {
    expect_one_of(request, &[status]).await
}

async fn expect_one_of(request: RequestBuilder, hoped_for: &[StatusCode]) -> Outcome<Response> {
    let (client, request) = request.build_split();
    let request = request.expect("a request of a test is well-formed");
    let line = format!("{} {}", request.method(), request.url());
    let answer = client.execute(request).await.map_err(|error| gone(&error))?;
    if hoped_for.contains(&answer.status()) {
        return Ok(answer);
    }
    let status = answer.status();
    let body = answer.text().await.unwrap_or_default();
    Err(Failure::Refused { request: line, status, body })
}

async fn bytes(answer: Response) -> Outcome<Bytes> {
    answer.bytes().await.map_err(|error| gone(&error))
}

fn gone(error: &reqwest::Error) -> Failure {
    Failure::Gone(format!("{error:?}"))
}

/// Makes absence an answer.
fn found<T>(outcome: Outcome<T>) -> Outcome<Option<T>> {
    match outcome {
        Err(failure) if failure.is_absence() => Ok(None),
        outcome => outcome.map(Some),
    }
}

fn location(answer: &Response) -> String {
    header(answer, "location")
}

fn header(answer: &Response, name: &str) -> String {
    answer.headers()[name].to_str().expect("the server's headers are text").to_owned()
}

/// Numbers that depend on the seed alone, for choices.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = content::bytes(self.0, 8);
        u64::from_le_bytes(word.try_into().expect("eight bytes were asked for"))
    }

    pub fn way(&mut self) -> Way {
        [Way::Docker, Way::Containerd, Way::Single][usize::try_from(self.below(3)).expect("a small number")]
    }
}
