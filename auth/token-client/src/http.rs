//! One HTTPS client, blocking: time limits, retries, and answers of bounded size.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig};

use crate::proxy::Proxies;
use crate::{Clock, Error, Result};

/// No answer of a token service or an identity provider is near this size.
const ANSWER_LIMIT_BYTES: u64 = 1024 * 1024;
/// A server that says nothing for this long is asked anew, where there is time left.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Form fields whose values no error may show.
const SECRET_FIELDS: [&str; 4] = ["subject_token", "refresh_token", "token", "device_code"];

/// Whose certificates are good.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Those that the system trusts.
    System,
    /// Those in a file, and no others.
    Only(PathBuf),
    /// Those that the system trusts, and those in a file.
    SystemAnd(PathBuf),
}

/// How long to try.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// Until a moment, whatever is asked.
    Until(Instant),
    /// Each request, with its retries, for so long.
    Each(Duration),
}

/// How a client is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose certificates are good.
    pub trust: Trust,
    /// A file with a certificate chain and its key, to show to servers that ask.
    pub client_certificate: Option<PathBuf>,
    /// How long to try.
    pub limit: Limit,
    /// Whether plain HTTP is good enough.
    pub plain_http: bool,
    /// Whether `HTTPS_PROXY` and the like are followed.
    pub proxy: bool,
    /// What waits between two attempts.
    pub clock: Clock,
}

/// An HTTP client.
#[derive(Debug, Clone)]
pub struct Http {
    agent: Agent,
    proxies: Proxies,
    limit: Limit,
    plain: bool,
    clock: Clock,
}

/// An answer, whatever its status.
#[derive(Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Every `WWW-Authenticate` header.
    pub challenges: Vec<String>,
    url: String,
    retry_after: Option<Duration>,
    body: Vec<u8>,
    secrets: Vec<String>,
}

impl Http {
    /// Makes a client; the files that the settings name are read here.
    pub fn new(settings: &Settings) -> Result<Self> {
        let config = Agent::config_builder()
            // Chosen for each request.
            .proxy(None)
            .http_status_as_error(false)
            // A token goes where it was sent, and nowhere else.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .https_only(!settings.plain_http)
            .user_agent(concat!("berth-token-client/", env!("CARGO_PKG_VERSION")));
        let proxies = if settings.proxy {
            Proxies::of_environment(settings.plain_http, |name| std::env::var(name).ok())?
        } else {
            Proxies::default()
        };
        // Reading the system's certificates takes longer than all the rest: not where no TLS is spoken.
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .root_certs(RootCerts::Specific(Arc::new(if settings.plain_http {
                Vec::new()
            } else {
                roots(&settings.trust)?
            })))
            .client_cert(settings.client_certificate.as_deref().map(client_certificate).transpose()?)
            .build();
        Ok(Self {
            agent: config.tls_config(tls).build().new_agent(),
            proxies,
            limit: settings.limit,
            plain: settings.plain_http,
            clock: settings.clock.clone(),
        })
    }

    /// `http` or `https`, as registries are spoken to.
    pub fn scheme(&self) -> &'static str {
        if self.plain { "http" } else { "https" }
    }

    /// Asks for a resource.
    pub fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.send(url, headers, None)
    }

    /// Posts a form.
    pub fn post(&self, url: &str, form: &[(&str, &str)]) -> Result<Answer> {
        self.send(url, &[], Some(form))
    }

    fn send(&self, url: &str, headers: &[(&str, &str)], form: Option<&[(&str, &str)]>) -> Result<Answer> {
        if !self.plain && !url.starts_with("https://") {
            return Err(Error::Plain(shown(url, &[])));
        }
        let until = match self.limit {
            Limit::Until(moment) => moment,
            Limit::Each(span) => Instant::now() + span,
        };
        let mut pause = Duration::from_millis(100);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(unreachable(url, "out of time"));
            }
            let (error, asked) = match self.attempt(url, headers, form, left.min(ATTEMPT)) {
                Ok(answer) if !answer.is_for_later() => return Ok(answer),
                Ok(answer) => (answer.refusal(), answer.retry_after),
                Err(error) if permanent(&error) => return Err(unreachable(url, &plainly(&error))),
                Err(error) => (unreachable(url, &plainly(&error)), None),
            };
            // All nodes of a cluster pull at once: without chance in it they would come back at once too.
            let wait = asked.unwrap_or(pause).max(pause).mul_f64(1.0 + chance());
            if until.saturating_duration_since(Instant::now()) <= wait {
                return Err(error);
            }
            self.clock.sleep(wait);
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    fn attempt(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        form: Option<&[(&str, &str)]>,
        time: Duration,
    ) -> Result<Answer, ureq::Error> {
        let proxy = self.proxies.find(url);
        let mut response = if let Some(form) = form {
            let request = self.agent.post(url).content_type("application/x-www-form-urlencoded");
            request
                .header("accept", "application/json")
                .config()
                .proxy(proxy)
                .timeout_global(Some(time))
                .build()
                .send(query(form))?
        } else {
            let mut request = self.agent.get(url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request.config().proxy(proxy).timeout_global(Some(time)).build().call()?
        };
        let header = |name: &str| {
            let values = response.headers().get_all(name).iter();
            values.filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect::<Vec<_>>()
        };
        let secrets = form.unwrap_or_default().iter().filter(|(name, _)| SECRET_FIELDS.contains(name));
        Ok(Answer {
            status: response.status().as_u16(),
            challenges: header("www-authenticate"),
            url: url.to_owned(),
            retry_after: header("retry-after")
                .iter()
                .find_map(|value| value.parse().ok())
                .map(Duration::from_secs),
            secrets: secrets.map(|(_, value)| (*value).to_owned()).collect(),
            body: response.body_mut().with_config().limit(ANSWER_LIMIT_BYTES).read_to_vec()?,
        })
    }
}

impl Answer {
    fn is_for_later(&self) -> bool {
        matches!(self.status, 429 | 502..=504)
    }

    /// The body as it is.
    pub fn text(&self) -> Result<&str> {
        self.expect_success()?;
        std::str::from_utf8(&self.body).map_err(|_| self.garbage("it is no text"))
    }

    /// The body, read as JSON; an error where the status is one.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        self.expect_success()?;
        // serde_json's own message can quote what it found.
        serde_json::from_slice(&self.body).map_err(|error| {
            let problem = match error.classify() {
                serde_json::error::Category::Data => "it lacks what it should have",
                _ => "it is no JSON",
            };
            self.garbage(problem)
        })
    }

    /// An error that says what is wrong with this answer.
    pub fn garbage(&self, problem: &str) -> Error {
        Error::Garbage { url: shown(&self.url, &[]), problem: problem.to_owned() }
    }

    /// The error that this answer is.
    pub fn refusal(&self) -> Error {
        let (code, message) = reason(&self.body).unwrap_or_default();
        let said = match (code.as_str(), message.as_str()) {
            ("", "") => "no reason given".to_owned(),
            (code, "") => code.to_owned(),
            ("", message) => message.to_owned(),
            (code, message) => format!("{code}: {message}"),
        };
        Error::Refused {
            url: shown(&self.url, &[]),
            status: self.status,
            code,
            message: shown(&said, &self.secrets),
        }
    }

    fn expect_success(&self) -> Result<()> {
        if (200..300).contains(&self.status) { Ok(()) } else { Err(self.refusal()) }
    }
}

/// The parameters of a URL, encoded.
pub fn query(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// The code and the message of an OCI error body or an OAuth one.
fn reason(body: &[u8]) -> Option<(String, String)> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(error) = body.get("errors").and_then(|errors| errors.get(0)) {
        return Some((text(&error["code"]), text(&error["message"])));
    }
    Some((text(body.get("error")?), text(&body["error_description"])))
}

/// What is good for a log: short, of one line, without anything that may be a token.
fn shown(text: &str, secrets: &[String]) -> String {
    let hidden = |word: &str| {
        word.len() > 200
            || word.contains("eyJ")
            || secrets.iter().any(|secret| !secret.is_empty() && word.contains(secret.as_str()))
    };
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let words: Vec<_> = words.map(|word| if hidden(word) { "[hidden]" } else { word }).collect();
    words.join(" ").chars().take(400).collect()
}

fn unreachable(url: &str, cause: &str) -> Error {
    Error::Unreachable { url: shown(url, &[]), cause: cause.to_owned() }
}

/// An error without the layers it came through.
fn plainly(error: &ureq::Error) -> String {
    let text = match error {
        ureq::Error::Io(error) => match tls_error(error) {
            Some(error) => error.to_string(),
            None => error.to_string(),
        },
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::HostNotFound => "no such host".to_owned(),
        ureq::Error::BodyExceedsLimit(_) => "the answer is too large".to_owned(),
        other => other.to_string(),
    };
    shown(&text, &[])
}

fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What another attempt will not change. A certificate that is not good stays so.
fn permanent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => tls_error(error).is_some(),
        ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_) => false,
        _ => true,
    }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    // Without randomness the pause is just not spread.
    getrandom::u32().map_or(0.0, |random| f64::from(random) / f64::from(u32::MAX))
}

fn roots(trust: &Trust) -> Result<Vec<Certificate<'static>>> {
    let system = || -> Result<Vec<Certificate<'static>>> {
        let found = rustls_native_certs::load_native_certs().certs;
        if found.is_empty() {
            return Err(Error::NoRoots);
        }
        Ok(found.iter().map(|der| Certificate::from_der(der).to_owned()).collect())
    };
    match trust {
        Trust::System => system(),
        Trust::Only(path) => certificates(path),
        Trust::SystemAnd(path) => {
            let mut all = certificates(path)?;
            // A machine without any is no reason to fail: the file is what counts.
            all.extend(system().unwrap_or_default());
            Ok(all)
        }
    }
}

fn read_pem(path: &Path) -> Result<Vec<PemItem<'static>>> {
    let bytes = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    ureq::tls::parse_pem(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|_| Error::Pem { path: path.to_owned(), problem: "is no PEM file" })
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let found: Vec<_> = read_pem(path)?
        .into_iter()
        .filter_map(
            |item| if let PemItem::Certificate(certificate) = item { Some(certificate) } else { None },
        )
        .collect();
    if found.is_empty() {
        return Err(Error::Pem { path: path.to_owned(), problem: "holds no certificate" });
    }
    Ok(found)
}

fn client_certificate(path: &Path) -> Result<ClientCert> {
    let chain = certificates(path)?;
    let key = read_pem(path)?
        .into_iter()
        .find_map(|item| if let PemItem::PrivateKey(key) = item { Some(key) } else { None })
        .ok_or_else(|| Error::Pem { path: path.to_owned(), problem: "holds no private key" })?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            challenges: Vec::new(),
            url: "https://r.example/token".to_owned(),
            retry_after: None,
            body: body.as_bytes().to_vec(),
            secrets: vec!["s3cr3t".to_owned()],
        }
    }

    #[test]
    fn refusals_say_what_the_server_says() {
        let said = |status, body: &str| answer(status, body).refusal().to_string();
        let oci = r#"{"errors":[{"code":"UNAUTHORIZED","message":"key expired\non Monday"}]}"#;
        assert_eq!(
            said(401, oci),
            "https://r.example/token answered 401: UNAUTHORIZED: key expired on Monday"
        );
        assert!(
            said(400, r#"{"error":"invalid_grant","error_description":"no"}"#).ends_with("invalid_grant: no")
        );
        assert!(said(400, r#"{"error":"invalid_grant"}"#).ends_with("400: invalid_grant"));
        assert!(said(500, "<html>").ends_with("500: no reason given"));
    }

    #[test]
    fn a_server_that_echoes_a_token_does_not_get_it_into_a_log() {
        for echo in ["bad token s3cr3t", "token='s3cr3t'", "eyJhbGciOi", "x(eyJhbGciOi)", &"a".repeat(201)] {
            let body = serde_json::json!({"errors": [{"code": "UNAUTHORIZED", "message": echo}]});
            let said = answer(401, &body.to_string()).refusal().to_string();
            assert!(said.contains("[hidden]"), "{said}");
            assert!(!said.contains("s3cr3t") && !said.contains("eyJ") && !said.contains("aaa"), "{said}");
        }
    }
}
