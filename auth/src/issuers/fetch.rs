//! Calls to issuers and API servers.
//!
//! Their addresses are configured, or come from a document that a configured address gave, so they may be
//! anywhere; but an answer is never longer than a limit, a redirect never leads to another origin, and a
//! token is sent to the configured origin alone.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, Response};
use url::Url;

use super::settings::Calls;

/// Longer documents are not read.
const DOCUMENT_LIMIT: usize = 1024 * 1024;
const REDIRECTS: usize = 3;

/// A client that trusts what its CA file says at the moment.
pub(super) struct Caller {
    calls: Calls,
    ca_file: Option<PathBuf>,
    built: Mutex<Option<(Vec<u8>, Client)>>,
}

impl Caller {
    pub fn new(calls: Calls, ca_file: Option<PathBuf>) -> Self {
        Self { calls, ca_file, built: Mutex::new(None) }
    }

    /// The document at an address.
    pub async fn get(&self, url: &Url, bearer: Option<&str>) -> Result<Vec<u8>, String> {
        let request = self.client().await?.get(url.clone());
        let request = request.header("accept", "application/json, application/jwk-set+json");
        self.send(url, request, bearer).await
    }

    /// The answer to a JSON document.
    pub async fn post(&self, url: &Url, bearer: &str, body: String) -> Result<Vec<u8>, String> {
        let request = self.client().await?.post(url.clone());
        let request = request.header("content-type", "application/json").header("accept", "application/json");
        self.send(url, request.body(body), Some(bearer)).await
    }

    async fn send(
        &self,
        url: &Url,
        request: RequestBuilder,
        bearer: Option<&str>,
    ) -> Result<Vec<u8>, String> {
        let request = match bearer {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await.map_err(|error| said(url, error))?;
        let status = answer.status();
        if status.is_redirection() {
            return Err(format!("{url} redirects elsewhere, which is not followed"));
        }
        if !status.is_success() {
            return Err(format!("{url} answers {status}"));
        }
        body(url, answer).await
    }

    async fn client(&self) -> Result<Client, String> {
        let ca = match &self.ca_file {
            Some(path) => read(path).await?,
            None => Vec::new(),
        };
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = &*built
            && *of == ca
        {
            return Ok(client.clone());
        }
        let mut builder = Client::builder()
            .timeout(self.calls.timeout)
            .connect_timeout(self.calls.timeout / 2)
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::custom(|attempt| {
                let same =
                    attempt.previous().last().is_some_and(|from| from.origin() == attempt.url().origin());
                if same && attempt.previous().len() <= REDIRECTS { attempt.follow() } else { attempt.stop() }
            }));
        if !self.calls.proxy {
            builder = builder.no_proxy();
        }
        if let Some(path) = &self.ca_file {
            let certificates = Certificate::from_pem_bundle(&ca).unwrap_or_default();
            if certificates.is_empty() {
                return Err(format!("{} holds no certificate", path.display()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|error| format!("TLS cannot be set up: {}", causes(&error)))?;
        *built = Some((ca, client.clone()));
        Ok(client)
    }
}

async fn body(url: &Url, mut answer: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| said(url, error))? {
        if body.len() + piece.len() > DOCUMENT_LIMIT {
            return Err(format!("what {url} answers is longer than 1 MiB"));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// The text of a small file.
pub(super) async fn read(path: &Path) -> Result<Vec<u8>, String> {
    use tokio::io::AsyncReadExt as _;
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut text = Vec::new();
    let limit = DOCUMENT_LIMIT as u64 + 1;
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.take(limit).read_to_end(&mut text).await.map_err(failed)?;
    if text.len() > DOCUMENT_LIMIT {
        return Err(format!("{} is longer than 1 MiB", path.display()));
    }
    Ok(text)
}

/// The token in a file.
pub(super) async fn bearer(path: &Path) -> Result<String, String> {
    let text = String::from_utf8(read(path).await?).unwrap_or_default();
    let token = text.trim();
    let visible = |byte: u8| byte.is_ascii_graphic();
    if token.is_empty() || !token.bytes().all(visible) {
        return Err(format!("{} holds no token", path.display()));
    }
    Ok(token.to_owned())
}

fn said(url: &Url, error: reqwest::Error) -> String {
    let what = if error.is_timeout() { "does not answer in time" } else { "cannot be reached" };
    format!("{url} {what}: {}", causes(&error.without_url()))
}

/// An error and what it came from: the first alone often says nothing.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
