//! The referrers of a manifest over HTTP: end-12.

use axum::response::Response;
use berth_auth::Pull;
use berth_storage::Digest;
use http::{HeaderName, HeaderValue, header};

use super::body::{HeldBody, hold};
use super::error::HttpError;
use super::query::next_link;
use super::uploads::ascii;
use super::{Call, json};
use crate::oci::RepositoryName;
use crate::oci::manifest::OCI_INDEX;
use crate::registry::ReferrersQuery;

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
    let page = registry.find_referrers(&permit, &query).await?;
    let size_bytes = usize::try_from(page.size_bytes).unwrap_or(usize::MAX);
    let held = hold(&call.app.0.manifest_memory, size_bytes).await;
    let mut text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":["#);
    let end = "]}";
    text.reserve_exact(size_bytes.saturating_add(end.len()));
    registry.read_referrers(&query, &page, &mut text).await?;
    text.push_str(end);
    let length = text.len();
    let mut response = json(OCI_INDEX, String::new());
    *response.body_mut() = HeldBody::body(text.into(), held);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    if !query.artifact_types.is_empty() {
        headers.insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    if let Some(next) = &page.next {
        let mut parameters: Vec<(&str, &str)> =
            query.artifact_types.iter().map(|each| ("artifactType", each.as_str())).collect();
        parameters.push(("last", next));
        let path = format!("/v2/{}/referrers/{}", permit.resource(), query.subject);
        headers.insert(header::LINK, ascii(&next_link(&path, &parameters)));
    }
    Ok(response)
}
