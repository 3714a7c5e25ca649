//! The repositories of the registry over HTTP: `_catalog`.

use axum::response::Response;
use http::header;
use serde_json::json;

use super::error::HttpError;
use super::query::next_link;
use super::uploads::ascii;
use super::{Call, json};

/// A page of repositories in byte order, and a link to the next.
pub(super) async fn list(call: &Call<'_>) -> Result<Response, HttpError> {
    let permit = call.access.list()?;
    let limit = call.query.page(call.app.settings().page)?;
    let last = call.query.last();
    let page = call.app.registry().repositories(&permit, last, limit, |name| call.access.shows(name)).await?;
    let mut response = json("application/json", json!({ "repositories": page.names }).to_string());
    if page.more {
        let n = limit.to_string();
        let link = next_link("/v2/_catalog", &[("n", &n), ("last", &page.last)]);
        response.headers_mut().insert(header::LINK, ascii(&link));
    }
    Ok(response)
}
