//! Berth's token service.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::authority::Authority;
use crate::complaints::Complaints;
use crate::server::{Reply, Request, Server};

const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";
const REFRESH: &str = "urn:ietf:params:oauth:token-type:refresh_token";
/// What is asked at each pull is the policy, so this is given to whoever is known.
const EVERY: &str = "repository:*:pull";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// An exchange that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchanged {
    /// Who asked.
    pub identity: String,
    /// What was asked for.
    pub scope: Option<String>,
    /// Whether a refresh token was asked for.
    pub refresh: bool,
    /// Which program asked.
    pub client: String,
}

struct Issued {
    identity: String,
    scope: Option<String>,
    end: u64,
}

#[derive(Default)]
struct State {
    identities: BTreeMap<String, String>,
    nodes: BTreeSet<String>,
    rights: BTreeMap<String, BTreeSet<String>>,
    issued: BTreeMap<String, Issued>,
    exchanges: Vec<Exchanged>,
    revoked: Vec<String>,
    /// Seconds since the start, as far as tokens go.
    now: u64,
    expires_in: Option<u64>,
    realm: Option<String>,
    login: Option<Value>,
    /// Replies that come before the right ones.
    token_replies: VecDeque<Reply>,
    other_token_reply: Option<Reply>,
    challenge_reply: Option<Reply>,
    requests: usize,
}

/// Berth's token service on a loopback port, with TLS.
pub struct TokenService {
    server: Server,
    state: Arc<Mutex<State>>,
    complaints: Complaints,
    authority: Arc<Authority>,
    github: Arc<Mutex<Option<(String, String, String)>>>,
    tls: bool,
}

impl TokenService {
    /// The name that its tokens are for.
    pub const SERVICE: &'static str = "berth-test";
    /// For how many seconds its access tokens are good.
    pub const ACCESS_SECONDS: u64 = 300;

    /// Starts it with an authority of its own.
    pub fn start() -> Self {
        Self::with(Arc::new(Authority::new()))
    }

    /// Starts it under `authority`.
    pub fn with(authority: Arc<Authority>) -> Self {
        Self::on(authority, true)
    }

    /// Starts it without TLS; its authority is for others.
    pub fn start_plain() -> Self {
        Self::on(Arc::new(Authority::new()), false)
    }

    fn on(authority: Arc<Authority>, tls: bool) -> Self {
        let scheme = if tls { "https" } else { "http" };
        let state = Arc::new(Mutex::new(State { expires_in: Some(3600), ..State::default() }));
        let complaints = Complaints::default();
        let github = Arc::new(Mutex::new(None));
        let handler = {
            let (state, complaints, github) = (state.clone(), complaints.clone(), github.clone());
            move |request: &Request| {
                let mut state = state.lock().expect("no holder panics");
                state.requests += 1;
                let github = github.lock().expect("no holder panics");
                answer(&mut state, request, scheme, github.as_ref()).unwrap_or_else(|complaint| {
                    complaints.add(format!("{} {}: {complaint}", request.method, request.path));
                    Reply::json(400, &json!({"error": "invalid_request", "error_description": complaint}))
                })
            }
        };
        let server = Server::start(tls.then(|| authority.server()), handler);
        Self { server, state, complaints, authority, github, tls }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Whether it speaks HTTP without TLS.
    pub fn is_plain(&self) -> bool {
        !self.tls
    }

    /// The registry's name: host and port.
    pub fn host(&self) -> String {
        self.server.address.to_string()
    }

    /// The authority that signed its certificate.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.clone()
    }

    /// Writes the authority's certificate into `folder`.
    pub fn ca_file(&self, folder: &std::path::Path) -> PathBuf {
        let path = folder.join("ca.pem");
        std::fs::write(&path, self.authority.pem()).expect("the folder is ours");
        path
    }

    /// Takes `token` for `identity` from now on.
    pub fn know(&self, token: &str, identity: &str) {
        self.state().identities.insert(token.to_owned(), identity.to_owned());
    }

    /// Takes certificates with this common name for nodes.
    pub fn know_node(&self, common_name: &str) {
        self.state().nodes.insert(common_name.to_owned());
    }

    /// Lets `identity` pull `repository`.
    pub fn allow(&self, identity: &str, repository: &str) {
        self.state().rights.entry(identity.to_owned()).or_default().insert(repository.to_owned());
    }

    /// Says how long refresh tokens are good from now on; `None` leaves it out of the answer.
    pub fn expire_in(&self, seconds: Option<u64>) {
        self.state().expires_in = seconds;
    }

    /// Lets time pass for the tokens that were given.
    pub fn pass(&self, seconds: u64) {
        self.state().now += seconds;
    }

    /// Names another realm in the challenge.
    pub fn name_realm(&self, realm: &str) {
        self.state().realm = Some(realm.to_owned());
    }

    /// Tells how people log in.
    pub fn login_at(&self, login: Value) {
        self.state().login = Some(login);
    }

    /// Gives out GitHub's tokens too: who shows `bearer` gets, for `audience`, `token`.
    pub fn be_github(&self, bearer: &str, audience: &str, token: &str) -> String {
        *self.github.lock().expect("no holder panics") = Some((bearer.into(), audience.into(), token.into()));
        format!("https://{}/github/token?api-version=2.0", self.host())
    }

    /// Replies so to the next request for a token, one after the other if called again.
    pub fn reply_once(&self, reply: Reply) {
        self.state().token_replies.push_back(reply);
    }

    /// Replies so to every request for a token that no other reply is for.
    pub fn reply_always(&self, reply: Reply) {
        self.state().other_token_reply = Some(reply);
    }

    /// Replies so to every `GET /v2/`.
    pub fn challenge_with(&self, reply: Reply) {
        self.state().challenge_reply = Some(reply);
    }

    /// Every exchange that succeeded, in order.
    pub fn exchanges(&self) -> Vec<Exchanged> {
        self.state().exchanges.clone()
    }

    /// Every token that was given back, in order.
    pub fn revoked(&self) -> Vec<String> {
        self.state().revoked.clone()
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.state().requests
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.server.connections.load(Ordering::SeqCst)
    }

    /// Whether `password` opens `repository`, as a pull finds out whenever it asks for a token with it.
    pub fn opens(&self, password: &str, repository: &str) -> bool {
        let state = self.state();
        let Some(Issued { identity, scope, end }) = state.issued.get(password) else {
            // The token of an identity itself is a password too.
            return state.identities.get(password).is_some_and(|identity| state.may(identity, repository));
        };
        let scoped = scope
            .as_deref()
            .is_none_or(|scope| scope == EVERY || scope == format!("repository:{repository}:pull"));
        let ended = *end <= state.now || state.revoked.iter().any(|token| token == password);
        scoped && !ended && state.may(identity, repository)
    }

    /// What it was sent and should not have been; what is taken here does not fail the test.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.take()
    }
}

impl Drop for TokenService {
    fn drop(&mut self) {
        self.complaints.settle();
    }
}

impl State {
    fn may(&self, identity: &str, repository: &str) -> bool {
        self.rights.get(identity).is_some_and(|rights| rights.contains(repository))
    }
}

fn answer(
    state: &mut State,
    request: &Request,
    scheme: &str,
    github: Option<&(String, String, String)>,
) -> Result<Reply, String> {
    let host = request.headers.get("host").ok_or("no Host")?.clone();
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v2/") => {
            if let Some(reply) = &state.challenge_reply {
                return Ok(reply.clone());
            }
            if request.headers.contains_key("authorization") {
                return Err("a credential before the challenge".into());
            }
            let realm = state.realm.clone().unwrap_or_else(|| format!("{scheme}://{host}/token"));
            let challenge = format!("Bearer realm=\"{realm}\",service=\"{}\"", TokenService::SERVICE);
            Ok(Reply::oci_error(401, "UNAUTHORIZED", "authentication required")
                .with("WWW-Authenticate", &challenge))
        }
        ("POST", "/token") => {
            if let Some(reply) = state.token_replies.pop_front().or_else(|| state.other_token_reply.clone()) {
                request.form()?;
                return Ok(reply);
            }
            token(state, request)
        }
        ("POST", "/oauth2/revoke") => {
            let mut form = request.form()?;
            let token = form.remove("token").ok_or("no token")?;
            form.remove("token_type_hint");
            if !form.is_empty() {
                return Err(format!("fields that are none of RFC 7009's: {:?}", form.keys()));
            }
            state.revoked.push(token);
            Ok(Reply::text(200, ""))
        }
        ("GET", "/.well-known/berth-login") => {
            Ok(state.login.as_ref().map_or_else(|| Reply::text(404, ""), |login| Reply::json(200, login)))
        }
        ("GET", "/github/token") => {
            let (bearer, audience, token) = github.ok_or("nobody said GitHub is here")?;
            if request.headers.get("authorization") != Some(&format!("Bearer {bearer}")) {
                return Err("not the bearer token of the job".into());
            }
            if request.parameter("api-version") != Some("2.0")
                || request.parameter("audience") != Some(audience)
            {
                return Err(format!("not the right parameters: {:?}", request.query));
            }
            Ok(Reply::json(200, &json!({"count": 1, "value": token})))
        }
        _ => Err("nothing is there".into()),
    }
}

fn token(state: &mut State, request: &Request) -> Result<Reply, String> {
    let mut form = request.form()?;
    if request.headers.contains_key("authorization") {
        return Err("an Authorization header beside the form".into());
    }
    let mut take = |name: &str| form.remove(name);
    let service = take("service").ok_or("no service")?;
    if service != TokenService::SERVICE {
        return Err(format!("the service {service:?}"));
    }
    let client = take("client_id").ok_or("no client_id")?;
    let refresh = match take("requested_token_type").as_deref() {
        None | Some(ACCESS) => false,
        Some(REFRESH) => true,
        Some(other) => return Err(format!("the requested type {other}")),
    };
    let scope = take("scope");
    let identity = match take("grant_type").as_deref() {
        Some(EXCHANGE) => {
            if request.client_certificate.is_some() {
                return Err("a client certificate beside a token".into());
            }
            // Whatever a program here does with a token may take longer than an access token lives.
            if !refresh {
                return Err("an exchange that does not ask for a refresh token".into());
            }
            let token = take("subject_token").ok_or("no subject_token")?;
            match take("subject_token_type").as_deref() {
                Some(
                    "urn:ietf:params:oauth:token-type:jwt"
                    | "urn:ietf:params:oauth:token-type:id_token"
                    | ACCESS,
                ) => {}
                other => return Err(format!("the subject type {other:?}")),
            }
            state.identities.get(&token).cloned()
        }
        Some("client_credentials") => {
            if refresh {
                return Err("a certificate gets no refresh token".into());
            }
            let certificate =
                request.client_certificate.as_deref().ok_or("client_credentials without a certificate")?;
            let shown = |name: &String| certificate.windows(name.len()).any(|part| part == name.as_bytes());
            state.nodes.iter().find(|name| shown(name)).cloned()
        }
        other => return Err(format!("the grant type {other:?}")),
    };
    if !form.is_empty() {
        return Err(format!("fields that nobody asked for: {:?}", form.keys()));
    }
    let Some(identity) = identity else {
        return Ok(Reply::oci_error(401, "UNAUTHORIZED", "no issuer here signed this token"));
    };
    let granted = match &scope {
        None => None,
        Some(scope) => {
            let repository = scope
                .strip_prefix("repository:")
                .and_then(|rest| rest.strip_suffix(":pull"))
                .filter(|name| !name.contains(' '))
                .ok_or_else(|| format!("the scope {scope:?}"))?;
            Some(if scope == EVERY || state.may(&identity, repository) {
                scope.clone()
            } else {
                String::new()
            })
        }
    };
    let number = state.exchanges.len();
    let issued = format!("{}-{number}", if refresh { "refresh" } else { "access" });
    let expires_in = if refresh { state.expires_in } else { Some(TokenService::ACCESS_SECONDS) };
    // What does not say how long it is good is good for a minute, by the distribution spec.
    let end = state.now.saturating_add(expires_in.unwrap_or(60));
    let kept = Issued { identity: identity.clone(), scope: granted.clone(), end };
    state.issued.insert(issued.clone(), kept);
    state.exchanges.push(Exchanged { identity, scope, refresh, client });
    let mut body = json!({
        "access_token": issued,
        "issued_token_type": if refresh { REFRESH } else { ACCESS },
        "token_type": if refresh { "N_A" } else { "Bearer" },
        "issued_at": "2026-01-01T00:00:00Z",
    });
    if let Some(seconds) = expires_in {
        body["expires_in"] = seconds.into();
    }
    if let Some(scope) = granted {
        body["scope"] = scope.into();
    }
    Ok(Reply::json(200, &body))
}
