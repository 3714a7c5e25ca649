//! Manifests over HTTP: end-3, end-7 and end-9.

use axum::body::Body;
use axum::response::Response;
use berth_auth::{Delete, Look, Permission, Permissions, Pull, Push};
use futures_util::{StreamExt as _, stream};
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::blobs::{described, multipart, not_modified, wanted};
use super::error::HttpError;
use super::uploads::ascii;
use super::{CONTENT_DIGEST, Call, empty};
use crate::oci::{ByteRange, Ranges, Reference, RepositoryName, Tag};
use crate::registry::{ManifestPut, Permit, RegistryError};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");

type Result<T> = std::result::Result<T, HttpError>;

/// Whether a manifest is there, and what GET would say of it.
pub(super) async fn head(
    call: &Call<'_>,
    repository: RepositoryName,
    reference: &Reference,
) -> Result<Response> {
    let permit = call.access.permit::<Look>(repository)?;
    let head = call.app.registry().manifest_head(&permit, reference).await?;
    if not_modified(&call.head.headers, &head.digest) {
        return Ok(described(StatusCode::NOT_MODIFIED, &head.digest));
    }
    let mut response = described(StatusCode::OK, &head.digest);
    response.headers_mut().insert(header::CONTENT_TYPE, media_type(&head.media_type));
    response.headers_mut().insert(header::CONTENT_LENGTH, head.size_bytes.into());
    Ok(response)
}

/// The bytes of a manifest, or ranges of them.
pub(super) async fn get(
    call: &Call<'_>,
    repository: RepositoryName,
    reference: &Reference,
) -> Result<Response> {
    let permit = call.access.permit::<Pull>(repository)?;
    let registry = call.app.registry();
    let manifest = registry.manifest(&permit, reference).await?;
    let head = &manifest.head;
    if not_modified(&call.head.headers, &head.digest) {
        return Ok(described(StatusCode::NOT_MODIFIED, &head.digest));
    }
    let length = head.size_bytes;
    let ranges = match wanted(&call.head.headers, &head.digest, length) {
        Ranges::Unsatisfiable => return Err(HttpError::Range { length }),
        Ranges::Whole => Vec::new(),
        Ranges::Some(ranges) => ranges,
    };
    let mut response = described(StatusCode::PARTIAL_CONTENT, &head.digest);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type(&head.media_type));
    // An error in the middle ends the connection: a short body must not look like a whole one.
    let body = match ranges.as_slice() {
        [] => {
            headers.insert(header::CONTENT_LENGTH, length.into());
            *response.status_mut() = StatusCode::OK;
            match manifest.content {
                Some(content) => content.into(),
                None => Body::from_stream(registry.read_manifest(&permit, &manifest, 0..position(length))),
            }
        }
        [range] => {
            headers.insert(header::CONTENT_RANGE, ascii(&range.content_range(length)));
            headers.insert(header::CONTENT_LENGTH, range.len().into());
            Body::from_stream(registry.read_manifest(&permit, &manifest, positions(*range)))
        }
        ranges => {
            let parts = multipart(&head.digest, &head.media_type, length, ranges);
            parts.describe(&mut response);
            let read = |range: &ByteRange| registry.read_manifest(&permit, &manifest, positions(*range));
            let known = |text: String| stream::once(async { Ok(text.into()) });
            let pieces: Vec<_> = parts
                .heads
                .into_iter()
                .zip(ranges)
                .map(|(head, range)| known(head).chain(read(range)))
                .collect();
            Body::from_stream(stream::iter(pieces).flatten().chain(known(parts.end)))
        }
    };
    *response.body_mut() = body;
    Ok(response)
}

fn positions(range: ByteRange) -> std::ops::Range<usize> {
    position(range.start)..position(range.end_exclusive)
}

fn position(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// end-7: a manifest under a tag, or under its digest with any number of tags (end-7b).
pub(super) async fn put(
    call: &Call<'_>,
    repository: RepositoryName,
    reference: Reference,
) -> Result<Response> {
    let permit = call.access.permit::<Push>(repository)?;
    let parse =
        |text: &str| text.parse::<Tag>().map_err(|_| HttpError::Tag(text.chars().take(140).collect()));
    let tags = call.query.all("tag").map(parse).collect::<Result<Vec<Tag>>>()?;
    let limit = call.app.settings().manifest_bytes;
    let announced =
        call.head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(HttpError::ManifestTooLarge { limit });
    }
    let (content, _held) = call.body.collect(limit, &call.app.0.manifest_memory).await?;
    let content_type = call.head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.map(str::to_owned);
    let put = ManifestPut { reference: reference.clone(), tags, content_type, content };
    let pushed = call
        .app
        .registry()
        .put_manifest(&permit, put)
        .await
        .map_err(|error| refused(call, &permit, error))?;
    let named: Vec<&str> = pushed.tags.iter().map(Tag::as_str).collect();
    call.changed("push", permit.resource(), &named.join(","), pushed.digest.as_str(), Permissions::PUSH);
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    let location = format!("/v2/{}/manifests/{}", permit.resource(), pushed.digest);
    headers.insert(header::LOCATION, ascii(&location));
    headers.insert(CONTENT_DIGEST, ascii(pushed.digest.as_str()));
    // Tells the client that it need not keep a fallback tag.
    headers.extend(pushed.subject.map(|subject| (SUBJECT, ascii(subject.as_str()))));
    if matches!(reference, Reference::Digest(_)) {
        // One list, for a header each would be more headers than many clients read.
        let tags: Vec<&str> = pushed.tags.iter().map(Tag::as_str).collect();
        if !tags.is_empty() {
            headers.insert(TAG, ascii(&tags.join(", ")));
        }
    }
    Ok(response)
}

/// end-9: a tag alone, or a manifest with its tags.
pub(super) async fn delete(
    call: &Call<'_>,
    repository: RepositoryName,
    reference: Reference,
) -> Result<Response> {
    let permit = call.access.permit::<Delete>(repository)?;
    let (name, digest) = match &reference {
        Reference::Tag(tag) => (tag.as_str(), call.app.registry().delete_tag(&permit, tag).await?),
        Reference::Digest(digest) => {
            call.app.registry().delete_manifest(&permit, digest).await?;
            (digest.as_str(), digest.clone())
        }
    };
    call.changed("delete", permit.resource(), name, digest.as_str(), Permission::Delete.into());
    Ok(empty(StatusCode::ACCEPTED))
}

/// Says which rule keeps somebody from a tag who may set others.
fn refused(call: &Call<'_>, permit: &Permit<Push>, error: RegistryError) -> HttpError {
    match error {
        RegistryError::TagDenied { permission, tag } => HttpError::TagDenied {
            identity: call.access.identity().to_string(),
            action: permission,
            repository: permit.resource().clone(),
            tag,
            reason: call.access.why_not(permit.resource(), permission),
        },
        error => error.into(),
    }
}

fn media_type(text: &str) -> HeaderValue {
    // Checked when the manifest was put: no control characters.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}
