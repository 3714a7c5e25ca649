//! The way to a store: straight, whatever proxy the environment names.

use bytes::Bytes;
use http::{Request, StatusCode};
use object_store::{
    ClientOptions,
    client::{HttpClient, HttpConnector, HttpRequest},
};

use crate::process::PATIENCE;

/// Connects object_store's clients.
#[derive(Debug)]
pub(crate) struct Straight;

impl HttpConnector for Straight {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(straight()))
    }
}

/// An empty request, to be signed.
pub(crate) fn request(method: &str, url: &str) -> HttpRequest {
    Request::builder().method(method).uri(url).body(Bytes::new().into()).expect("a test's address is a URL")
}

/// Sends a request that carries all it needs.
pub(crate) async fn send(request: HttpRequest) -> (StatusCode, String) {
    let response = HttpClient::new(straight()).execute(request).await.expect("the store answers");
    let status = response.status();
    let body = response.into_body().bytes().await.expect("the store answers to the end");
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn straight() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).tls_certs_only([]);
    client.build().expect("a client that trusts nobody has nothing to load")
}
