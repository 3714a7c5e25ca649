//! The request sequences of real clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Method;
use sha2::{Digest as _, Sha256};

use crate::client::Connection;
use crate::images::{Blob, Image, LargeBlob, MANIFEST_TYPE, digest_of};
use crate::payload::{LastByte, Payload};

/// The media type of a blob on its way in.
pub const BYTES_TYPE: Option<&str> = Some("application/octet-stream");

/// Whose way of pushing a blob.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pusher {
    /// POST, PATCH in chunks without a length, empty PUT.
    Docker,
    /// POST, PUT with the whole body.
    Containerd,
}

/// Pushes an image: every blob asked for first, then the manifest by its tag.
pub async fn push_image(connection: &mut Connection, image: &Image, pusher: Pusher) -> Result<()> {
    for blob in &image.blobs {
        push_blob(connection, &image.repository, blob, pusher).await?;
    }
    let path = manifest_path(&image.repository, &image.tag);
    connection.send(Method::HEAD, &path, None, Payload::empty()).await?.require(404)?;
    put_manifest(connection, &path, &image.manifest).await
}

/// Puts a manifest at a path that ends in a tag or its digest.
pub async fn put_manifest(connection: &mut Connection, path: &str, manifest: &Blob) -> Result<()> {
    let body = Payload::whole(manifest.bytes.clone());
    let answer = connection.send(Method::PUT, path, Some(MANIFEST_TYPE), body).await?;
    answer.require(201)?.require_digest(&manifest.digest)?;
    Ok(())
}

/// Pushes one blob that is not there yet.
pub async fn push_blob(
    connection: &mut Connection,
    repository: &str,
    blob: &Blob,
    pusher: Pusher,
) -> Result<()> {
    let path = blob_path(repository, &blob.digest);
    connection.send(Method::HEAD, &path, None, Payload::empty()).await?.require(404)?;
    let location = open_upload(connection, repository).await?;
    let answer = match pusher {
        Pusher::Docker => {
            let body = Payload::chunked(blob.bytes.clone());
            let answer = connection.send(Method::PATCH, &location, BYTES_TYPE, body).await?;
            let location = closing(&answer.require(202)?.location()?, &blob.digest);
            connection.send(Method::PUT, &location, None, Payload::empty()).await?
        }
        Pusher::Containerd => {
            let body = Payload::whole(blob.bytes.clone());
            connection.send(Method::PUT, &closing(&location, &blob.digest), BYTES_TYPE, body).await?
        }
    };
    answer.require(201)?.require_digest(&blob.digest)?;
    Ok(())
}

/// Pushes a large blob; returns the time from its last byte to the 201.
pub async fn push_large(
    connection: &mut Connection,
    repository: &str,
    blob: &LargeBlob,
    pusher: Pusher,
) -> Result<Duration> {
    let location = open_upload(connection, repository).await?;
    let last_byte = LastByte::default();
    let body = blob.payload(pusher == Pusher::Containerd, Arc::clone(&last_byte));
    let answer = match pusher {
        Pusher::Docker => {
            let answer = connection.send(Method::PATCH, &location, BYTES_TYPE, body).await?;
            let location = closing(&answer.require(202)?.location()?, &blob.digest);
            connection.send(Method::PUT, &location, None, Payload::empty()).await?
        }
        Pusher::Containerd => {
            connection.send(Method::PUT, &closing(&location, &blob.digest), BYTES_TYPE, body).await?
        }
    };
    let finished = Instant::now();
    answer.require(201)?.require_digest(&blob.digest)?;
    let last_byte = last_byte.get().context("a body that was never read to its end")?;
    Ok(finished.duration_since(*last_byte))
}

/// Pulls an image that was pushed: manifest by tag, config, layers, every byte compared.
pub async fn pull_image(connection: &mut Connection, image: &Image) -> Result<()> {
    let path = manifest_path(&image.repository, &image.tag);
    let answer = connection.send(Method::GET, &path, None, Payload::empty()).await?;
    answer.require(200)?.require_body(&image.manifest.bytes)?;
    for blob in image.blobs.iter().rev() {
        let path = blob_path(&image.repository, &blob.digest);
        let answer = connection.send(Method::GET, &path, None, Payload::empty()).await?;
        answer.require(200)?.require_body(&blob.bytes)?;
    }
    Ok(())
}

/// What becomes of an image that was pushed: looked for by its tag, listed, asked for what refers to it, pulled.
pub async fn use_image(connection: &mut Connection, image: &Image) -> Result<()> {
    let Image { repository, tag, manifest, .. } = image;
    let path = manifest_path(repository, tag);
    let answer = connection.send(Method::HEAD, &path, None, Payload::empty()).await?;
    answer.require(200)?.require_digest(&manifest.digest)?;
    for list in ["tags/list?n=100".to_owned(), format!("referrers/{}", manifest.digest)] {
        let path = format!("/v2/{repository}/{list}");
        connection.send(Method::GET, &path, None, Payload::empty()).await?.require(200)?;
    }
    pull_image(connection, image).await
}

/// Pulls a large blob and counts its bytes.
pub async fn pull_large(
    connection: &mut Connection,
    path: &str,
    size_bytes: u64,
    room: &mut [u8],
) -> Result<()> {
    let came = connection.count(path, room).await?;
    ensure!(came == size_bytes, "GET {path}: {came} of {size_bytes} bytes came");
    Ok(())
}

/// Pulls a large blob and hashes it: not for the measured part.
pub async fn check_large(connection: &mut Connection, path: &str, blob: &LargeBlob) -> Result<()> {
    let mut hasher = Sha256::new();
    connection.stream(path, |bytes| hasher.update(bytes)).await?;
    let digest = digest_of(hasher.finalize().as_slice());
    ensure!(digest == blob.digest, "GET {path}: the bytes that came are {digest}");
    Ok(())
}

/// Begins an upload session; returns where it goes on.
pub async fn open_upload(connection: &mut Connection, repository: &str) -> Result<String> {
    let path = format!("/v2/{repository}/blobs/uploads/");
    let answer = connection.send(Method::POST, &path, None, Payload::empty()).await?;
    answer.require(202)?.location()
}

/// Where a blob is.
pub fn blob_path(repository: &str, digest: &str) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// Where a manifest is.
pub fn manifest_path(repository: &str, reference: &str) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

/// Where a session is closed.
pub fn closing(location: &str, digest: &str) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}digest={}", digest.replace(':', "%3A"))
}
