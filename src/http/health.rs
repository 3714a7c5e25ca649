//! Whether the process lives, and whether it wants requests. Neither asks who is asking.

use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::{App, json};

pub(super) async fn live() -> Response {
    json("application/json", r#"{"status":"ok"}"#.to_owned())
}

/// Not ready while draining, or while the index does not answer. The store is not asked: manifests
/// are served without it.
pub(super) async fn ready(State(app): State<App>) -> Response {
    let reason = if app.0.draining.load(Ordering::Relaxed) {
        "draining"
    } else if let Err(error) = app.registry().ping().await {
        tracing::warn!(%error, "not ready: the index does not answer");
        "the index does not answer"
    } else {
        return json("application/json", r#"{"status":"ready"}"#.to_owned());
    };
    let mut response = json("application/json", format!(r#"{{"status":"not ready","reason":"{reason}"}}"#));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}
