//! The referrers of a manifest over HTTP: end-12.

use axum::body::Body;
use axum::response::Response;
use berth_auth::Pull;
use berth_storage::Digest;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderName, HeaderValue, header};

use super::error::HttpError;
use super::memory::Held;
use super::query::next_link;
use super::uploads::ascii;
use super::{Call, json};
use crate::oci::RepositoryName;
use crate::oci::manifest::OCI_INDEX;
use crate::registry::{ReferrersPage, ReferrersQuery, Registry, RegistryError};

/// What stands behind the descriptors.
const END: &[u8] = b"]}";
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Artifact types one request may ask for; each is a range of the index.
const TYPES: usize = 32;

/// An index of descriptors, also for a manifest nobody knows.
pub(super) async fn list(
    call: &Call<'_>,
    repository: RepositoryName,
    digest: Digest,
) -> Result<Response, HttpError> {
    let permit = call.access.permit::<Pull>(repository)?;
    let mut artifact_types: Vec<String> =
        call.query.all("artifactType").filter(|each| !each.is_empty()).map(str::to_owned).collect();
    artifact_types.sort_unstable();
    artifact_types.dedup();
    if artifact_types.len() > TYPES {
        return Err(HttpError::UriTooLong { limit: call.app.settings().header_bytes / 2 });
    }
    let last = call.query.last().to_owned();
    let query = ReferrersQuery { subject: digest, artifact_types, last };
    let registry = call.app.registry();
    let mut page = registry.find_referrers(&permit, &query).await?;
    let next = page.next().map(str::to_owned);
    let memory_bytes = usize::try_from(page.memory_bytes()).unwrap_or(usize::MAX);
    let held = call.app.0.manifest_memory.hold(memory_bytes).await;
    let begin = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":["#);
    let first = registry.read_referrers(&mut page).await?.unwrap_or_default();
    let mut response = json(OCI_INDEX, String::new());
    if page.is_over() {
        let text = [begin.as_bytes(), &first, END].concat();
        response.headers_mut().insert(header::CONTENT_LENGTH, text.len().into());
        *response.body_mut() = held.send(text.into());
    } else {
        let known = stream::iter([Ok(begin.into()), Ok(first)]);
        *response.body_mut() = Body::from_stream(known.chain(rest(registry.clone(), page, held)));
    }
    let headers = response.headers_mut();
    if !query.artifact_types.is_empty() {
        headers.insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    if let Some(next) = &next {
        let mut parameters: Vec<(&str, &str)> =
            query.artifact_types.iter().map(|each| ("artifactType", each.as_str())).collect();
        parameters.push(("last", next));
        let path = format!("/v2/{}/referrers/{}", permit.resource(), query.subject);
        headers.insert(header::LINK, ascii(&next_link(&path, &parameters)));
    }
    Ok(response)
}

/// The pieces of a page behind the first, each read when its turn comes. An error ends the connection: a part
/// of a list must not look like the whole.
fn rest(
    registry: Registry,
    page: ReferrersPage,
    held: Held,
) -> impl Stream<Item = Result<Bytes, RegistryError>> {
    stream::try_unfold(Some((registry, page, held)), async |left| {
        let Some((registry, mut page, held)) = left else { return Ok(None) };
        let read = registry.read_referrers(&mut page).await;
        let read = read
            .inspect_err(|error| tracing::warn!(%error, "could not read a list of referrers to its end"))?;
        Ok(Some(match read {
            Some(text) => (text, Some((registry, page, held))),
            None => (Bytes::from_static(END), None),
        }))
    })
}
