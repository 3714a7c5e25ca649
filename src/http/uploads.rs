//! Upload sessions over HTTP: end-4 to end-6, end-11 to end-14.

use axum::response::Response;
use berth_auth::{Permission, Permissions, Push, Scope};
use berth_storage::{Algorithm, Digest};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::error::HttpError;
use super::{CONTENT_DIGEST, Call, empty};
use crate::oci::{ContentRange, RepositoryName, range_until};
use crate::registry::{Chunk, MountFrom, Permit, RegistryError, Session};

const CHUNK_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

type Result<T> = std::result::Result<T, HttpError>;

/// Begins an upload; or mounts a blob, or takes a whole one, where the query says so.
pub(super) async fn begin(call: &Call<'_>, repository: RepositoryName) -> Result<Response> {
    let permit = call.access.permit::<Push>(repository).map_err(|error| with_source(call, error))?;
    if let Some(mounted) = mount(call, &permit).await? {
        return Ok(mounted);
    }
    if let Some(digest) = call.query.get("digest") {
        return whole(call, &permit, digest.parse()?).await;
    }
    let algorithm = match call.query.get("digest-algorithm") {
        Some(name) => name.parse()?,
        None => Algorithm::Sha256,
    };
    let session = call.app.registry().start_upload(&permit, algorithm).await?;
    let mut response = accepted(permit.resource(), &session, StatusCode::ACCEPTED);
    let chunk_min = call.app.settings().chunk_min_bytes;
    response.headers_mut().insert(CHUNK_MIN, chunk_min.into());
    Ok(response)
}

/// Whoever mounts needs to read there too, and asks for one token for both.
fn with_source(call: &Call<'_>, error: HttpError) -> HttpError {
    let source = call.query.get("mount").and_then(|_| call.query.get("from"));
    match (error, source.and_then(|name| name.parse::<RepositoryName>().ok())) {
        (HttpError::Unauthorized { scope, error, reason }, Some(source)) => {
            let scope = scope.and(Scope::of(source.as_str(), Permission::Pull.into()));
            HttpError::Unauthorized { scope, error, reason }
        }
        (error, _) => error,
    }
}

/// A mount that cannot be is no error: the client then uploads.
async fn mount(call: &Call<'_>, permit: &Permit<Push>) -> Result<Option<Response>> {
    let Some(digest) = call.query.get("mount") else { return Ok(None) };
    let digest: Digest = digest.parse()?;
    let may_pull = |name| call.access.may(name).ok();
    let from = match call.query.get("from") {
        None => MountFrom::Any(&may_pull),
        Some(name) => match name.parse().ok().and_then(may_pull) {
            None => return Ok(None),
            Some(source) => MountFrom::Repository(source),
        },
    };
    let mounted = call.app.registry().mount(permit, &digest, from).await?;
    if mounted.is_some() {
        call.changed("mount", permit.resource(), "blob", digest.as_str(), Permissions::PUSH);
    }
    Ok(mounted.map(|blob| created(permit.resource(), &blob.digest)))
}

/// A blob in a single POST.
async fn whole(call: &Call<'_>, permit: &Permit<Push>, digest: Digest) -> Result<Response> {
    let registry = call.app.registry();
    let session = registry.start_upload(permit, digest.algorithm()).await?;
    match registry.finish_upload(permit, &session.id, chunk(call)?, &digest).await {
        Ok(blob) => {
            call.changed("push", permit.resource(), "blob", blob.digest.as_str(), Permissions::PUSH);
            Ok(created(permit.resource(), &blob.digest))
        }
        Err(error) => {
            // The client never heard of this session, so nobody else would end it before it expires.
            if let Err(second) = registry.cancel_upload(permit, &session.id).await {
                tracing::debug!(%second, "could not cancel the session of a failed upload");
            }
            Err(error.into())
        }
    }
}

/// end-13: where a session stands.
pub(super) async fn status(call: &Call<'_>, repository: RepositoryName, id: &str) -> Result<Response> {
    let permit = call.access.permit::<Push>(repository)?;
    let session = call.app.registry().upload(&permit, id).await?;
    Ok(accepted(permit.resource(), &session, StatusCode::NO_CONTENT))
}

/// end-5: more bytes.
pub(super) async fn append(call: &Call<'_>, repository: RepositoryName, id: &str) -> Result<Response> {
    let permit = call.access.permit::<Push>(repository)?;
    let source = call.body.source();
    let chunk = chunk(call)?.unwrap_or(Chunk { source, start: None, size_bytes: None });
    let appended = call.app.registry().append(&permit, id, chunk).await;
    let session = appended.map_err(|error| placed(error, permit.resource(), id))?;
    Ok(accepted(permit.resource(), &session, StatusCode::ACCEPTED))
}

/// end-6: the last bytes, if any, and the digest of all.
pub(super) async fn finish(call: &Call<'_>, repository: RepositoryName, id: &str) -> Result<Response> {
    let permit = call.access.permit::<Push>(repository)?;
    let digest = call.query.get("digest").ok_or(HttpError::DigestMissing)?.parse()?;
    let finished = call.app.registry().finish_upload(&permit, id, chunk(call)?, &digest).await;
    let blob = finished.map_err(|error| placed(error, permit.resource(), id))?;
    call.changed("push", permit.resource(), "blob", blob.digest.as_str(), Permissions::PUSH);
    Ok(created(permit.resource(), &blob.digest))
}

/// end-14: an upload that will not be finished.
pub(super) async fn cancel(call: &Call<'_>, repository: RepositoryName, id: &str) -> Result<Response> {
    let permit = call.access.permit::<Push>(repository)?;
    call.app.registry().cancel_upload(&permit, id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// The bytes of the request and what it says of them; `None` for an empty body that is not placed.
///
/// docker sends neither `Content-Length` nor `Content-Range`; both, one or none are fine.
fn chunk(call: &Call<'_>) -> Result<Option<Chunk>> {
    let range = match text(&call.head.headers, &header::CONTENT_RANGE) {
        Some(text) if call.body.is_empty() && text.is_empty() => None,
        Some(text) => Some(ContentRange::parse(text)?),
        None => None,
    };
    let length = text(&call.head.headers, &header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    if call.body.is_empty() && range.is_none() {
        return Ok(None);
    }
    if let (Some(length), Some(range)) = (length, range)
        && length != range.len()
    {
        return Err(HttpError::ChunkSize { length, range: range.len() });
    }
    let size_bytes = range.map(ContentRange::len).or(length);
    Ok(Some(Chunk { source: call.body.source(), start: range.map(|range| range.start), size_bytes }))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Gives an error about the order of chunks the headers that help to go on.
fn placed(error: RegistryError, repository: &RepositoryName, id: &str) -> HttpError {
    match error {
        RegistryError::OutOfOrder { offset } => {
            HttpError::OutOfOrder { offset, location: location(repository, id) }
        }
        error => error.into(),
    }
}

/// Relative: whatever stands between the client and us, it knows the way it came (X1).
fn location(repository: &RepositoryName, id: &str) -> String {
    format!("/v2/{repository}/blobs/uploads/{id}")
}

fn accepted(repository: &RepositoryName, session: &Session, status: StatusCode) -> Response {
    let mut response = empty(status);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, ascii(&location(repository, &session.id)));
    headers.insert(header::RANGE, ascii(&range_until(session.offset)));
    headers.insert(UPLOAD_UUID, ascii(&session.id));
    response
}

fn created(repository: &RepositoryName, digest: &Digest) -> Response {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, ascii(&format!("/v2/{repository}/blobs/{digest}")));
    headers.insert(CONTENT_DIGEST, ascii(digest.as_str()));
    response
}

/// Names, tags, digests and ids are printable ASCII by their grammar.
pub(super) fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("names, tags, digests and ids are printable ASCII")
}
