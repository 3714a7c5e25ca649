//! A place that gives out credentials of a short life, as Amazon's STS does for a web identity and as
//! EKS Pod Identity does for a pod.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use serde_json::json;

use crate::{
    server::Server,
    xml::{self, Body, Refusal},
};

/// What a pod shows to be given credentials.
const IDENTITY: &str = "the-token-of-a-pod";

/// An issuer of credentials.
pub struct Issuer {
    state: Arc<State>,
    endpoint: String,
    _server: Server,
}

/// What an issuer knows.
pub(crate) struct State {
    life: Duration,
    /// When each of those that were given out ends.
    ends: Mutex<Vec<Instant>>,
}

impl Issuer {
    /// Starts an issuer whose credentials live so long.
    pub fn start(life: Duration) -> Self {
        let state = Arc::new(State { life, ends: Mutex::default() });
        let serving = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&serving);
            async move { Ok::<_, Infallible>(state.answer(request).await) }
        });
        let server = Server::start(service, None);
        let endpoint = format!("http://{}", server.address);
        Self { state, endpoint, _server: server }
    }

    /// The address: `http://127.0.0.1:PORT`, of STS and, with any path, of EKS Pod Identity.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The token that credentials are given for.
    pub fn identity(&self) -> &'static str {
        IDENTITY
    }

    /// How many times it gave out credentials.
    pub fn issued(&self) -> usize {
        self.state.ends().len()
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }
}

impl State {
    fn ends(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request to a store is signed with credentials that live.
    pub(crate) fn honours(&self, headers: &HeaderMap) -> bool {
        let token = headers.get("x-amz-security-token").and_then(|token| token.to_str().ok());
        let number = token.and_then(|token| token.strip_prefix("session-")?.parse::<usize>().ok());
        let signed = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((number, signed)) = number.zip(signed) else { return false };
        let lives = self.ends().get(number).is_some_and(|end| Instant::now() < *end);
        lives && signed.contains(&format!("Credential=KEY{number}/"))
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let is_sts = parts.method == Method::POST;
        let shown = if is_sts {
            let mut form = form_urlencoded::parse(&body);
            form.find(|(name, _)| name == "WebIdentityToken").map(|(_, token)| token.into_owned())
        } else {
            let token = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            token.map(ToOwned::to_owned)
        };
        if shown.as_deref() != Some(IDENTITY) {
            return Refusal::new(StatusCode::FORBIDDEN, "AccessDenied", "Nobody knows this token.").answer();
        }
        let mut ends = self.ends();
        let number = ends.len();
        ends.push(Instant::now() + self.life);
        #[expect(clippy::disallowed_methods, reason = "the client compares it with its own clock")]
        let end = humantime::format_rfc3339_millis(SystemTime::now() + self.life);
        if is_sts {
            let text = format!(
                "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>KEY{number}</AccessKeyId>\
                 <SecretAccessKey>secret</SecretAccessKey><SessionToken>session-{number}</SessionToken>\
                 <Expiration>{end}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                 </AssumeRoleWithWebIdentityResponse>"
            );
            return xml::document(StatusCode::OK, &text);
        }
        let credentials = json!({
            "AccessKeyId": format!("KEY{number}"),
            "SecretAccessKey": "secret",
            "Token": format!("session-{number}"),
            "Expiration": end.to_string(),
        });
        let mut answer = xml::empty(StatusCode::OK);
        let text = bytes::Bytes::from(credentials.to_string());
        *answer.body_mut() = http_body_util::Full::new(text).map_err(|never| match never {}).boxed_unsync();
        answer
    }
}
