//! The tags of a repository over HTTP: end-8.

use axum::response::Response;
use berth_auth::Pull;
use http::header;
use serde_json::json;

use super::error::HttpError;
use super::query::next_link;
use super::uploads::ascii;
use super::{Call, json};
use crate::oci::RepositoryName;

/// A page of tags in byte order, and a link to the next.
pub(super) async fn list(call: &Call<'_>, repository: RepositoryName) -> Result<Response, HttpError> {
    let permit = call.access.permit::<Pull>(repository)?;
    let limit = call.query.page(call.app.settings().page)?;
    let last = call.query.last();
    let page = call.app.registry().tags(&permit, last, limit).await?;
    let name = permit.resource().as_str();
    let mut response = json("application/json", json!({ "name": name, "tags": page.names }).to_string());
    if let (true, Some(last)) = (page.more, page.names.last()) {
        let n = limit.to_string();
        let link = next_link(&format!("/v2/{name}/tags/list"), &[("n", &n), ("last", last)]);
        response.headers_mut().insert(header::LINK, ascii(&link));
    }
    Ok(response)
}
