//! An OIDC issuer as a registry meets it: the npm package `oidc-provider`, which tests/oidc-issuer
//! sets up.
//!
//! It has clients that are CI jobs, each with claims of its own, and people who log in with a code. What
//! an administrator or a person in a browser does is asked of its control port.

use std::path::PathBuf;

use berth_test_stores::tools;
use reqwest::Response;
use serde_json::Value;

use super::{
    http,
    process::{PATIENCE, Process},
    run,
    tls::{Authority, Pair},
};

/// The same for all clients.
const SECRET: &str = "known to every test";

/// A running issuer. Its clients are in tests/oidc-issuer/server.mjs.
///
/// Tests that use it begin with `workbench!("oidc-issuer")`.
pub struct OidcIssuer {
    authority: Authority,
    /// The certificate it serves with; none where it speaks plain HTTP.
    serving: Option<Pair>,
    client: reqwest::Client,
    port: u16,
    url: String,
    control: String,
    process: Process,
}

impl OidcIssuer {
    /// Starts an issuer with a certificate of its own authority.
    pub async fn start() -> Self {
        let authority = Authority::new();
        let serving = authority.server();
        Self::launch(authority, Some(serving)).await
    }

    /// Starts an issuer that speaks plain HTTP, as `berth login --plain-http` wants it.
    pub async fn start_plain() -> Self {
        Self::launch(Authority::new(), None).await
    }

    /// Its address, which is the `iss` of its tokens: `https://127.0.0.1:PORT`.
    pub fn issuer(&self) -> &str {
        &self.url
    }

    /// The certificate of its authority, PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.authority.file()
    }

    /// The token of a CI job: an access token that is a JWT, good for ten minutes.
    pub async fn token(&self, client: &str) -> String {
        let form = [("grant_type", "client_credentials"), ("client_id", client), ("client_secret", SECRET)];
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let url = format!("{}/token", self.url);
        let request =
            self.client.post(&url).header("content-type", "application/x-www-form-urlencoded").body(form);
        let answer = said(&url, request.send().await).await;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        answer["access_token"].as_str().unwrap_or_else(|| panic!("no token in {answer}")).to_owned()
    }

    /// Signs with new keys from now on; the seven before them still verify.
    pub async fn rotate(&self) {
        self.ask("/rotate").await;
    }

    /// Has a person enter a code, log in and agree.
    pub async fn approve(&self, user_code: &str, account: &str) {
        self.ask(&format!("/approve?user_code={user_code}&account={account}")).await;
    }

    /// Has a person enter a code and refuse.
    pub async fn deny(&self, user_code: &str) {
        self.ask(&format!("/deny?user_code={user_code}")).await;
    }

    /// Ends the issuer at once.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    /// Starts the issuer again, at the same address and with new keys only.
    pub async fn start_again(&mut self) {
        self.stop();
        (self.process, self.control) = spawn(self.port, self.serving.as_ref()).await;
    }

    async fn launch(authority: Authority, serving: Option<Pair>) -> Self {
        let client = if serving.is_some() { client(&authority) } else { http() };
        let scheme = if serving.is_some() { "https" } else { "http" };
        let port = run::free_port();
        let (process, control) = spawn(port, serving.as_ref()).await;
        let url = format!("{scheme}://127.0.0.1:{port}");
        Self { authority, serving, client, port, url, control, process }
    }

    async fn ask(&self, path: &str) {
        let url = format!("{}{path}", self.control);
        said(&url, http().post(&url).send().await).await;
    }
}

/// Starts the program and waits until it listens; gives back where its control port is, too.
async fn spawn(port: u16, serving: Option<&Pair>) -> (Process, String) {
    let program = tools::tool("oidc-issuer");
    let mut command = run::command(program.expect("oidc-issuer is missing (scripts/install-test-tools)"));
    command.arg("--port").arg(port.to_string());
    if let Some(serving) = serving {
        command.arg("--certificate").arg(&serving.certificate_file).arg("--key").arg(&serving.key_file);
    }
    let process = Process::start(command);
    let control = process
        .until("it listens", |said| {
            let (before, _) = said.split_once("listening on ")?;
            let (_, control) = before.split_once("control on ")?;
            Some(control.split_whitespace().next()?.to_owned())
        })
        .await;
    (process, control)
}

fn client(authority: &Authority) -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).tls_certs_only([authority.root()]);
    client.build().expect("the certificate is good")
}

/// The body of an answer that must be good.
async fn said(url: &str, answer: reqwest::Result<Response>) -> String {
    let answer = answer.unwrap_or_else(|error| panic!("{url}: {error:?}"));
    let status = answer.status();
    let body = answer.text().await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
    assert!(status.is_success(), "{url}: {status} {body}");
    body
}
