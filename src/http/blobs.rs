//! Blobs over HTTP: end-2 and end-10.

use axum::body::Body;
use axum::response::Response;
use berth_auth::{Delete, Look, Permission, Pull};
use berth_storage::Digest;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::error::HttpError;
use super::uploads::ascii;
use super::{CONTENT_DIGEST, Call, empty, files};
use crate::oci::{ByteRange, Ranges, RepositoryName};
use crate::registry::{BlobContent, Piece, RegistryError};

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

type Result<T> = std::result::Result<T, HttpError>;

/// Whether a blob is there. To one who may push, yes is a promise.
pub(super) async fn head(call: &Call<'_>, repository: RepositoryName, digest: &Digest) -> Result<Response> {
    let look = call.access.permit::<Look>(repository.clone())?;
    let blob = match call.access.may(repository) {
        Ok(push) => call.app.registry().confirm_blob(&push, digest).await?,
        Err(_) => call.app.registry().find_blob(&look, digest).await?,
    };
    if not_modified(&call.head.headers, digest) {
        return Ok(described(StatusCode::NOT_MODIFIED, digest));
    }
    let mut response = described(StatusCode::OK, digest);
    response.headers_mut().insert(header::CONTENT_TYPE, OCTETS);
    response.headers_mut().insert(header::CONTENT_LENGTH, blob.size_bytes.into());
    Ok(response)
}

/// The bytes of a blob, or ranges of them.
pub(super) async fn get(call: &Call<'_>, repository: RepositoryName, digest: &Digest) -> Result<Response> {
    let permit = call.access.permit::<Pull>(repository)?;
    let content = call.app.registry().blob(&permit, digest).await?;
    if not_modified(&call.head.headers, digest) {
        return Ok(described(StatusCode::NOT_MODIFIED, digest));
    }
    if call.is_redirected()
        && let Some(address) = call.app.registry().blob_address(&content).await
        && let Ok(address) = HeaderValue::from_str(&address)
    {
        let mut response = described(StatusCode::TEMPORARY_REDIRECT, digest);
        response.headers_mut().insert(header::LOCATION, address);
        // It is this client's for a while; whoever comes next is asked who they are.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Ok(response);
    }
    let length = content.blob.size_bytes;
    match wanted(&call.head.headers, digest, length) {
        Ranges::Whole => {
            let whole = ByteRange { start: 0, end_exclusive: length };
            one(call, &content, whole, StatusCode::OK).await
        }
        Ranges::Unsatisfiable => Err(HttpError::Range { length }),
        Ranges::Some(ranges) => match ranges.as_slice() {
            [range] => one(call, &content, *range, StatusCode::PARTIAL_CONTENT).await,
            _ => Ok(several(call, content, &ranges)),
        },
    }
}

/// end-10: takes a blob out of the repository.
pub(super) async fn delete(call: &Call<'_>, repository: RepositoryName, digest: &Digest) -> Result<Response> {
    let permit = call.access.permit::<Delete>(repository)?;
    call.app.registry().delete_blob(&permit, digest).await?;
    call.changed("delete", permit.resource(), "blob", digest.as_str(), Permission::Delete.into());
    Ok(empty(StatusCode::ACCEPTED))
}

async fn one(
    call: &Call<'_>,
    content: &BlobContent,
    range: ByteRange,
    status: StatusCode,
) -> Result<Response> {
    let (registry, bytes) = (call.app.registry(), range.start..range.end_exclusive);
    // An error in the middle ends the connection: a short body must not look like a whole one.
    let body = match call.files() {
        None => Body::from_stream(registry.read_blob(content, bytes).await?),
        Some(files) => {
            let pieces = registry.read_blob_pieces(content, bytes, files::LONGEST).await?;
            Body::from_stream(pieces.map_ok(move |piece| match piece {
                Piece::Bytes(bytes) => bytes,
                Piece::File(range) => files.stand_in(range),
            }))
        }
    };
    let mut response = described(status, &content.blob.digest);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, OCTETS);
    headers.insert(header::CONTENT_LENGTH, range.len().into());
    if status == StatusCode::PARTIAL_CONTENT {
        headers.insert(header::CONTENT_RANGE, ascii(&range.content_range(content.blob.size_bytes)));
    }
    *response.body_mut() = body;
    Ok(response)
}

/// Several ranges, one after the other, each read when its turn comes.
fn several(call: &Call<'_>, content: BlobContent, ranges: &[ByteRange]) -> Response {
    let length = content.blob.size_bytes;
    let parts = multipart(&content.blob.digest, "application/octet-stream", length, ranges);
    let mut response = described(StatusCode::PARTIAL_CONTENT, &content.blob.digest);
    parts.describe(&mut response);
    let registry = call.app.registry().clone();
    let pieces = parts.heads.into_iter().zip(ranges.to_vec());
    let body = stream::iter(pieces).then(move |(head, range)| {
        let (registry, content) = (registry.clone(), content.clone());
        async move {
            let bytes = registry.read_blob(&content, range.start..range.end_exclusive).await?;
            let head = stream::once(async move { Ok(Bytes::from(head)) });
            Ok::<_, RegistryError>(head.chain(bytes.map_err(RegistryError::from)))
        }
    });
    let end = stream::once(async move { Ok(Bytes::from(parts.end)) });
    *response.body_mut() = Body::from_stream(body.try_flatten().chain(end));
    response
}

/// A `multipart/byteranges` body without the bytes of its ranges.
pub(super) struct Multipart {
    boundary: String,
    /// What stands before each range.
    pub(super) heads: Vec<String>,
    /// What stands behind the last.
    pub(super) end: String,
    length: u64,
}

/// Plans a `multipart/byteranges` body (RFC 9110, 14.6).
pub(super) fn multipart(digest: &Digest, media_type: &str, length: u64, ranges: &[ByteRange]) -> Multipart {
    // The digest of the content cannot be found in the content.
    let boundary = digest.encoded()[..32].to_owned();
    let head = |range: &ByteRange| {
        let content_range = range.content_range(length);
        format!("\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {content_range}\r\n\r\n")
    };
    let heads: Vec<String> = ranges.iter().map(head).collect();
    let end = format!("\r\n--{boundary}--\r\n");
    let around: usize = heads.iter().map(String::len).sum::<usize>() + end.len();
    let length = around as u64 + ranges.iter().map(|range| range.len()).sum::<u64>();
    Multipart { boundary, heads, end, length }
}

impl Multipart {
    /// Says what the body is and how long.
    pub(super) fn describe(&self, response: &mut Response) {
        let kind = format!("multipart/byteranges; boundary={}", self.boundary);
        response.headers_mut().insert(header::CONTENT_TYPE, ascii(&kind));
        response.headers_mut().insert(header::CONTENT_LENGTH, self.length.into());
    }
}

/// The ranges a GET asks for. `If-Range` with another entity makes it a GET of the whole.
pub(super) fn wanted(headers: &HeaderMap, digest: &Digest, length: u64) -> Ranges {
    let condition = headers.get(header::IF_RANGE).map(|value| value.as_bytes() == entity(digest).as_bytes());
    if condition == Some(false) {
        return Ranges::Whole;
    }
    Ranges::parse(headers.get(header::RANGE).and_then(|value| value.to_str().ok()), length)
}

fn entity(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client has it already (`If-None-Match`).
pub(super) fn not_modified(headers: &HeaderMap, digest: &Digest) -> bool {
    let matches = |tag: &str| {
        matches!(tag.trim().trim_start_matches("W/"), "*")
            || tag.trim().trim_start_matches("W/") == entity(digest)
    };
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(matches))
}

/// An answer about content: what it is called, and that ranges of it can be had.
pub(super) fn described(status: StatusCode, digest: &Digest) -> Response {
    let mut response = empty(status);
    let headers = response.headers_mut();
    headers.insert(CONTENT_DIGEST, ascii(digest.as_str()));
    headers.insert(header::ETAG, ascii(&entity(digest)));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}
