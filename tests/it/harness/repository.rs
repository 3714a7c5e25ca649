//! Plain requests to one repository, as a client that is no particular client would send them.

use std::collections::BTreeMap;

use reqwest::{Response, StatusCode};
use serde_json::Value;

use super::{
    content::{digest_like, sha256},
    http,
};

/// One repository, and a way to it.
pub struct Repository {
    client: reqwest::Client,
    registry: String,
    name: String,
}

/// A manifest and everything below it, each compared with its digest.
pub struct Pulled {
    /// The digest of the manifest that was asked for.
    pub digest: String,
    pub media_type: String,
    /// What was read, by digest: manifests, configs, layers.
    pub contents: BTreeMap<String, Vec<u8>>,
}

impl Pulled {
    /// The manifest that was asked for.
    pub fn manifest(&self) -> Value {
        serde_json::from_slice(&self.contents[&self.digest]).expect("a manifest is JSON")
    }
}

impl Repository {
    /// The repository `name` of the registry at `http://HOST:PORT`.
    pub fn at(registry: &str, name: &str) -> Self {
        Self::through(http(), registry, name)
    }

    /// The same, through a client of the test's own.
    pub fn through(client: reqwest::Client, registry: &str, name: &str) -> Self {
        Self { client, registry: registry.to_owned(), name: name.to_owned() }
    }

    /// The address of something below the repository, for example `tags/list`.
    pub fn url(&self, path: &str) -> String {
        format!("{}/v2/{}/{path}", self.registry, self.name)
    }

    /// Sends a GET below the repository, whatever comes back.
    pub async fn get(&self, path: &str) -> Response {
        let url = self.url(path);
        // Without it the answer may be converted, which no client of today wants.
        let request = self.client.get(&url).header("Accept", ACCEPTED.join(", "));
        request.send().await.unwrap_or_else(|error| panic!("GET {url}: {error}"))
    }

    /// Pushes a blob as POST and PUT; returns its SHA-256 digest.
    pub async fn push_blob(&self, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let answer = self.client.post(self.url("blobs/uploads/")).send().await.expect("start an upload");
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "POST of a blob to {}", self.name);
        let location = answer.headers()["location"].to_str().expect("a location is text");
        let mut url = answer.url().join(location).expect("a location is a URL");
        url.query_pairs_mut().append_pair("digest", &digest);
        let answer = self.client.put(url).body(bytes.to_vec()).send().await.expect("finish an upload");
        assert_eq!(answer.status(), StatusCode::CREATED, "PUT of blob {digest}");
        digest
    }

    /// Puts a manifest under a tag or digest, whatever comes back.
    pub async fn put_manifest(&self, reference: &str, media_type: &str, bytes: &[u8]) -> Response {
        let url = self.url(&format!("manifests/{reference}"));
        let request = self.client.put(&url).header("Content-Type", media_type).body(bytes.to_vec());
        request.send().await.unwrap_or_else(|error| panic!("PUT {url}: {error}"))
    }

    /// Puts a manifest that the server must take; returns its digest.
    pub async fn push_manifest(&self, reference: &str, media_type: &str, bytes: &[u8]) -> String {
        let answer = self.put_manifest(reference, media_type, bytes).await;
        let status = answer.status();
        let digest = sha256(bytes);
        assert_eq!(status, StatusCode::CREATED, "PUT of manifest {digest}: {:?}", answer.text().await);
        digest
    }

    /// The digest that a HEAD of a tag answers.
    pub async fn digest(&self, tag: &str) -> String {
        let url = self.url(&format!("manifests/{tag}"));
        let request = self.client.head(&url).header("Accept", ACCEPTED.join(", "));
        let answer = request.send().await.unwrap_or_else(|error| panic!("HEAD {url}: {error}"));
        assert_eq!(answer.status(), StatusCode::OK, "HEAD {url}");
        digest_of(&answer)
    }

    /// Reads a blob and compares it with its digest.
    pub async fn blob(&self, digest: &str) -> Vec<u8> {
        let answer = self.get(&format!("blobs/{digest}")).await;
        assert_eq!(answer.status(), StatusCode::OK, "GET of blob {digest}");
        let bytes = answer.bytes().await.expect("read a blob").to_vec();
        assert_eq!(digest_like(digest, &bytes), digest, "the bytes of blob {digest}");
        bytes
    }

    /// Reads a manifest and all it names, and compares each with its digest and size.
    pub async fn pull(&self, reference: &str) -> Pulled {
        let (digest, media_type, bytes) = self.manifest(reference).await;
        let mut contents = BTreeMap::new();
        let mut wanted = descriptors(&bytes);
        contents.insert(digest.clone(), bytes);
        while let Some(descriptor) = wanted.pop() {
            let digest = descriptor["digest"].as_str().expect("a descriptor has a digest").to_owned();
            let bytes = if is_manifest(&descriptor) {
                let (found, media_type, bytes) = self.manifest(&digest).await;
                assert_eq!(found, digest, "the digest of a manifest asked for by digest");
                assert_eq!(descriptor["mediaType"], media_type, "the media type of {digest}");
                wanted.extend(descriptors(&bytes));
                bytes
            } else {
                self.blob(&digest).await
            };
            assert_eq!(descriptor["size"], bytes.len(), "the size of {digest}");
            contents.insert(digest, bytes);
        }
        Pulled { digest, media_type, contents }
    }

    async fn manifest(&self, reference: &str) -> (String, String, Vec<u8>) {
        let answer = self.get(&format!("manifests/{reference}")).await;
        assert_eq!(answer.status(), StatusCode::OK, "GET of manifest {reference} of {}", self.name);
        let digest = digest_of(&answer);
        let media_type = answer.headers()["content-type"].to_str().expect("a media type is text").to_owned();
        let bytes = answer.bytes().await.expect("read a manifest").to_vec();
        assert_eq!(digest_like(&digest, &bytes), digest, "the bytes of manifest {reference}");
        (digest, media_type, bytes)
    }
}

/// The media types of manifests.
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Whether a descriptor names a manifest, and not a blob.
pub fn is_manifest(descriptor: &Value) -> bool {
    descriptor["mediaType"].as_str().is_some_and(|media_type| ACCEPTED.contains(&media_type))
}

/// The descriptors in a manifest of any kind.
pub fn descriptors(manifest: &[u8]) -> Vec<Value> {
    let manifest: Value = serde_json::from_slice(manifest).expect("a manifest is JSON");
    let lists = ["manifests", "layers"].into_iter().filter_map(|list| manifest[list].as_array());
    let config = manifest.get("config").into_iter();
    config.chain(lists.flatten()).cloned().collect()
}

fn digest_of(answer: &Response) -> String {
    answer.headers()["docker-content-digest"].to_str().expect("a digest is text").to_owned()
}
