//! What has been counted, for Prometheus.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::{App, empty, json};

pub(super) async fn show(State(app): State<App>) -> Response {
    match app.0.metrics.text() {
        Ok(text) => json("application/openmetrics-text; version=1.0.0; charset=utf-8", text),
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}
