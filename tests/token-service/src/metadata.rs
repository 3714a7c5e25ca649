//! The metadata servers of clouds, which speak plain HTTP and insist on a header.

use serde_json::json;

use crate::complaints::Complaints;
use crate::server::{Reply, Request, Server};

/// A metadata server on a loopback port: Azure's and Google's in one.
pub struct Metadata {
    server: Server,
    complaints: Complaints,
}

impl Metadata {
    /// Starts it: for this resource, client and audience it gives `token`.
    pub fn start(resource: &str, client: Option<&str>, audience: &str, token: &str) -> Self {
        let complaints = Complaints::default();
        let handler = {
            let complaints = complaints.clone();
            let (resource, audience, token) = (resource.to_owned(), audience.to_owned(), token.to_owned());
            let client = client.map(str::to_owned);
            move |request: &Request| {
                let header = |name: &str| request.headers.get(name).map(String::as_str);
                let good = match request.path.as_str() {
                    "/metadata/identity/oauth2/token" => {
                        header("metadata") == Some("true")
                            && request.parameter("api-version") == Some("2018-02-01")
                            && request.parameter("resource") == Some(&resource)
                            && request.parameter("client_id") == client.as_deref()
                    }
                    "/computeMetadata/v1/instance/service-accounts/default/identity" => {
                        header("metadata-flavor") == Some("Google")
                            && request.parameter("format") == Some("full")
                            && request.parameter("audience") == Some(&audience)
                    }
                    _ => false,
                };
                if !good || request.method != "GET" {
                    complaints.add(format!("{request:?}"));
                    return Reply::text(400, "");
                }
                if request.path.starts_with("/metadata") {
                    // Azure writes its numbers as strings.
                    return Reply::json(
                        200,
                        &json!({"access_token": token, "expires_in": "86399", "token_type": "Bearer"}),
                    );
                }
                Reply::text(200, &token)
            }
        };
        Self { server: Server::start(None, handler), complaints }
    }

    /// Host and port.
    pub fn host(&self) -> String {
        self.server.address.to_string()
    }

    /// What it was sent and should not have been.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.take()
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        self.complaints.settle();
    }
}
