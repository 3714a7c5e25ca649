//! Requests in, responses out.
//!
//! One way for all of them: the path becomes a [`path::Resource`], the policy gives a permit, the
//! registry does the work, and whatever goes wrong becomes an OCI error body in one place
//! ([`error`]). No rule of what a registry does is here.

mod access;
mod blobs;
mod body;
mod catalog;
mod challenge;
mod client;
pub mod error;
mod files;
mod health;
mod manifests;
mod memory;
mod metrics;
pub mod path;
mod query;
mod referrers;
mod tags;
mod token;
mod uploads;
mod whole;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use ipnet::IpNet;
use tokio_util::task::TaskTracker;

use berth_auth::{Denied, Permissions, Scope};

use self::access::Access;
use self::body::RequestBody;
pub use self::client::Peer;
use self::error::HttpError;
pub use self::files::Files;
use self::memory::Memory;
use self::path::Resource;
use self::query::Query;
use self::whole::Whole;
use crate::oci::RepositoryName;
use crate::registry::Registry;
use crate::telemetry::{Metrics, audit};
use crate::tokens::Tokens;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// What the HTTP side needs to know of its configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a request body may be silent.
    pub idle_timeout: Duration,
    /// The largest manifest taken, in bytes.
    pub manifest_bytes: usize,
    /// What manifests on their way in and pages of referrers on their way out may hold together, in bytes.
    pub manifest_memory_bytes: usize,
    /// The most names on a page.
    pub page: usize,
    /// The chunk size asked of clients, in bytes.
    pub chunk_min_bytes: u64,
    /// The longest request line and headers, in bytes.
    pub header_bytes: usize,
    /// The proxies whose word on a client's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Which clients fetch blobs from the store themselves.
    pub redirect: Redirect,
    /// Texts to show with every answer about the repositories that match.
    pub warnings: Vec<(globset::GlobMatcher, HeaderValue)>,
    /// The address clients know, if it is another than the one they ask for.
    pub public_url: Option<String>,
    /// What `berth login` is told.
    pub login: Option<serde_json::Value>,
    /// How long after its end a token still serves the upload it began.
    pub upload_grace: Duration,
}

/// Which clients fetch blobs from the store themselves.
#[derive(Debug, Clone)]
pub enum Redirect {
    /// None.
    Nobody,
    /// All.
    Everybody,
    /// Those in a network.
    Networks(Vec<IpNet>),
}

/// What every request sees.
#[derive(Debug, Clone)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    metrics: Metrics,
    /// Where everybody may do everything, nobody needs a token.
    tokens: Option<Tokens>,
    settings: Settings,
    manifest_memory: Memory,
    draining: AtomicBool,
    tasks: TaskTracker,
}

impl App {
    /// Puts the HTTP side together. What changes something runs on `tasks`, so that a client that
    /// hangs up half way does not stop it half way.
    pub fn new(
        registry: Registry,
        metrics: Metrics,
        tokens: Option<Tokens>,
        settings: Settings,
        tasks: TaskTracker,
    ) -> Self {
        let manifest_memory = Memory::new(settings.manifest_memory_bytes);
        Self(Arc::new(Inner {
            registry,
            metrics,
            tokens,
            settings,
            manifest_memory,
            draining: AtomicBool::new(false),
            tasks,
        }))
    }

    /// Says from now on that this replica is not ready.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/healthz", any(health::live))
            .route("/readyz", any(health::ready))
            .route("/token", any(token::token))
            .route("/oauth2/token", any(token::token))
            .route("/oauth2/exchange", any(token::exchange))
            .route("/oauth2/revoke", any(token::revoke))
            .route("/.well-known/jwks.json", any(token::keys))
            .route("/.well-known/berth-login", any(token::login))
            .fallback(serve)
            .with_state(self)
    }

    /// The routes for those who watch, which nobody else should reach.
    pub fn watch_router(self) -> Router {
        Router::new()
            .route("/healthz", any(health::live))
            .route("/readyz", any(health::ready))
            .route("/metrics", any(metrics::show))
            .with_state(self)
    }

    fn registry(&self) -> &Registry {
        &self.0.registry
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }
}

/// A request, taken apart.
struct Call<'a> {
    app: &'a App,
    head: &'a Parts,
    access: Access,
    from: audit::From<'a>,
    query: Query,
    body: &'a RequestBody,
}

impl Call<'_> {
    /// Where the connection can send files.
    fn files(&self) -> Option<Files> {
        self.head.extensions.get::<Files>().cloned()
    }

    /// Writes down that somebody has changed a repository.
    fn changed(
        &self,
        event: &'static str,
        repository: &RepositoryName,
        reference: &str,
        digest: &str,
        by: Permissions,
    ) {
        // Where everybody may do everything there is nobody to name.
        if let Some(rule) = self.access.rule(repository, by) {
            let identity = self.access.identity();
            audit::changed(event, identity, repository.as_str(), reference, digest, &rule, self.from);
        }
    }

    fn is_redirected(&self) -> bool {
        match &self.app.settings().redirect {
            Redirect::Nobody => false,
            Redirect::Everybody => true,
            Redirect::Networks(networks) => self
                .from
                .client
                .is_some_and(|client| networks.iter().any(|network| network.contains(&client))),
        }
    }
}

async fn serve(State(app): State<App>, mut request: Request) -> Response {
    let id = request_id();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let begun = std::time::Instant::now();
    let mut response = if matches!(method, Method::GET | Method::HEAD) {
        // Boxed as the others are: they would have the room for it.
        Box::pin(answer(app, request, &id)).await
    } else {
        let_go_of_buffer(&mut request);
        // The client may hang up: what was begun ends in a known state all the same.
        let (tasks, id) = (app.0.tasks.clone(), id.clone());
        let work = {
            let id = id.clone();
            async move { answer(app, request, &id).await }
        };
        Whole::new(work, id, tasks).await
    };
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    named(&mut response, &id);
    let status = response.status().as_u16();
    tracing::debug!(request_id = %id, %method, path, status, duration_ms, "{method} {path} {status}");
    response
}

/// Copies what the head of a request shares with the buffer it was read into, so that a body that takes its time
/// does not keep that too.
fn let_go_of_buffer(request: &mut Request) {
    if http_body::Body::is_end_stream(request.body()) {
        return;
    }
    if let Ok(uri) = request.uri().to_string().parse() {
        *request.uri_mut() = uri;
    }
    for value in request.headers_mut().values_mut() {
        if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
            copy.set_sensitive(value.is_sensitive());
            *value = copy;
        }
    }
}

fn named(response: &mut Response, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}

/// Answers what is asked of the token service, which there is only where identities are known.
async fn plain(
    app: &App,
    request: Request,
    answer: impl AsyncFnOnce(&Tokens, Parts, Body, &str) -> Result<Response, HttpError>,
) -> Response {
    let id = request_id();
    let (head, body) = request.into_parts();
    let outcome = match &app.0.tokens {
        Some(tokens) => answer(tokens, head, body, &id).await,
        None => Err(HttpError::NoSuchPath),
    };
    let mut response = outcome.unwrap_or_else(|error| error.into_response(&id));
    if response.status() == StatusCode::UNAUTHORIZED {
        // RFC 9110 wants one; whoever asks here has a password.
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"berth\""));
    }
    named(&mut response, &id);
    response
}

async fn answer(app: App, request: Request, id: &str) -> Response {
    let (head, body) = request.into_parts();
    let body = RequestBody::new(body, app.settings().idle_timeout);
    let expects = head.headers.contains_key(header::EXPECT);
    let from = audit::From { client: client::of(&head, &app.settings().trusted_proxies), request_id: id };
    let mut warnings = Vec::new();
    let outcome = async {
        let (resource, query) = checked(&app, &head)?;
        let access = access(&app, &head, &resource, from.client).await?;
        warnings = warnings_for(&app, &resource, &access);
        dispatch(&Call { app: &app, head: &head, access, from, query, body: &body }, resource).await
    }
    .await;
    let mut response = match outcome {
        Ok(response) => response,
        Err(error) => {
            // A proxy, or a client that writes before it reads, takes a connection that closes under
            // its body for a failure of the network. One that asked first will not send it.
            if !expects {
                body.drain().await;
            }
            note(&error, from);
            let challenge = challenge(&app, &head, &error);
            let mut response = error.into_response(id);
            response.headers_mut().extend(challenge.map(|value| (header::WWW_AUTHENTICATE, value)));
            response
        }
    };
    for text in warnings {
        response.headers_mut().append(header::WARNING, text);
    }
    response
}

/// Who asks. Whether they may is for whoever knows what they ask for.
async fn access(
    app: &App,
    head: &Parts,
    resource: &Resource,
    client: Option<IpAddr>,
) -> Result<Access, HttpError> {
    let Some(tokens) = &app.0.tokens else { return Ok(Access::open()) };
    let credential = challenge::credential(&head.headers);
    // The headers of an upload's first request said who sends it. Its last may come hours later (A1).
    let is_upload = matches!(resource, Resource::Upload { .. });
    let grace = if is_upload { app.settings().upload_grace } else { Duration::ZERO };
    let origin = challenge::origin(head, client);
    let login = tokens.authenticate(&credential, &origin, grace).await?;
    let access = Access::of(login, tokens.book(), client, tokens.now());
    if matches!(resource, Resource::Base) && access.identity().is_anonymous() {
        // Clients look here for whom to ask for a token; told that they need none, they never ask.
        return Err(HttpError::Unauthorized {
            scope: Scope::nothing(),
            error: None,
            reason: "log in to this registry (docker login), or ask for a token".to_owned(),
        });
    }
    Ok(access)
}

/// Writes down who was refused. Whoever has not said who they are is asked to, which is no refusal.
fn note(error: &HttpError, from: audit::From<'_>) {
    match error {
        HttpError::Refused(refused) => audit::refused(&refused.to_string(), from),
        HttpError::Denied(denied) | HttpError::Hidden(denied) => {
            let Denied { identity, action, resource, by } = denied;
            audit::denied(identity, action, resource, "", &by.to_string(), from);
        }
        HttpError::TagDenied { identity, action, repository, tag, reason } => {
            audit::denied(identity, action.as_str(), repository.as_str(), tag, reason, from);
        }
        HttpError::Unauthorized { error: Some(_), reason, .. } => audit::refused(reason, from),
        _ => {}
    }
}

/// How to get what is missing.
fn challenge(app: &App, head: &Parts, error: &HttpError) -> Option<HeaderValue> {
    let tokens = app.0.tokens.as_ref()?;
    let (scope, error) = match error {
        HttpError::Unauthorized { scope, error, .. } => (scope.clone(), *error),
        HttpError::Refused(refused) if refused.is_final() => (Scope::nothing(), Some("invalid_token")),
        _ => return None,
    };
    let settings = app.settings();
    let realm = challenge::token_address(head, settings.public_url.as_deref(), &settings.trusted_proxies);
    challenge::bearer(&realm, tokens.service(), &scope, error)
}

fn checked(app: &App, head: &Parts) -> Result<(Resource, Query), HttpError> {
    let limit = app.settings().header_bytes;
    let uri_bytes = head.uri.path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri_bytes > limit / 2 {
        return Err(HttpError::UriTooLong { limit: limit / 2 });
    }
    let header_bytes: usize =
        head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header_bytes > limit {
        return Err(HttpError::HeadersTooLong { limit });
    }
    let path = head.uri.path();
    let below = path.strip_prefix("/v2").filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let below = below.ok_or(HttpError::NoSuchPath)?;
    let resource = Resource::parse(below.strip_prefix('/').unwrap_or_default())?;
    Ok((resource, Query::parse(head.uri.query())))
}

async fn dispatch(call: &Call<'_>, resource: Resource) -> Result<Response, HttpError> {
    let read = matches!(call.head.method, Method::GET | Method::HEAD);
    match (resource, call.head.method.as_str()) {
        // What is boxed is large: the others, of which there are many more, would have the room for it.
        (Resource::Base, _) if read => Ok(base()),
        (Resource::Catalog, _) if read => catalog::list(call).await,
        (Resource::Tags { repository }, _) if read => tags::list(call, repository).await,
        (Resource::Referrers { repository, digest }, _) if read => {
            Box::pin(referrers::list(call, repository, digest)).await
        }
        (Resource::Blob { repository, digest }, "HEAD") => blobs::head(call, repository, &digest).await,
        (Resource::Blob { repository, digest }, "GET") => {
            Box::pin(blobs::get(call, repository, &digest)).await
        }
        (Resource::Blob { repository, digest }, "DELETE") => blobs::delete(call, repository, &digest).await,
        (Resource::Uploads { repository }, "POST") => Box::pin(uploads::begin(call, repository)).await,
        (Resource::Upload { repository, id }, _) if read => uploads::status(call, repository, &id).await,
        (Resource::Upload { repository, id }, "PATCH") => {
            Box::pin(uploads::append(call, repository, &id)).await
        }
        (Resource::Upload { repository, id }, "PUT") => {
            Box::pin(uploads::finish(call, repository, &id)).await
        }
        (Resource::Upload { repository, id }, "DELETE") => uploads::cancel(call, repository, &id).await,
        (Resource::Manifest { repository, reference }, "HEAD") => {
            manifests::head(call, repository, &reference).await
        }
        (Resource::Manifest { repository, reference }, "GET") => {
            manifests::get(call, repository, &reference).await
        }
        (Resource::Manifest { repository, reference }, "PUT") => {
            Box::pin(manifests::put(call, repository, reference)).await
        }
        (Resource::Manifest { repository, reference }, "DELETE") => {
            manifests::delete(call, repository, reference).await
        }
        (resource, _) => Err(HttpError::Method { allowed: resource.methods() }),
    }
}

/// end-1: the registry speaks this protocol.
fn base() -> Response {
    json("application/json", "{}".to_owned())
}

fn json(content_type: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// What whoever asks should know: of the repository, and of their credential.
fn warnings_for(app: &App, resource: &Resource, access: &Access) -> Vec<HeaderValue> {
    let of_credential = access.warning().and_then(warning);
    of_repository(app, resource).into_iter().chain(of_credential).collect()
}

/// A warning as the spec has it: code 299, no agent, no date. Nothing if it is not one line of text.
pub fn warning(text: &str) -> Option<HeaderValue> {
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    HeaderValue::try_from(format!("299 - \"{quoted}\"")).ok()
}

fn of_repository(app: &App, resource: &Resource) -> Option<HeaderValue> {
    let repository: &RepositoryName = match resource {
        Resource::Base | Resource::Catalog => return None,
        Resource::Blob { repository, .. }
        | Resource::Uploads { repository }
        | Resource::Upload { repository, .. }
        | Resource::Manifest { repository, .. }
        | Resource::Tags { repository }
        | Resource::Referrers { repository, .. } => repository,
    };
    let rules = &app.settings().warnings;
    rules.iter().find(|(pattern, _)| pattern.is_match(repository.as_str())).map(|(_, text)| text.clone())
}

/// Names one request in the answer and in the log. The client's own word is not taken for it.
fn request_id() -> String {
    /// Counts from somewhere no other process does.
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| {
        let mut bytes = [0; 8];
        // Without randomness it counts from zero; requests are served all the same.
        let _ = getrandom::fill(&mut bytes);
        AtomicU64::new(u64::from_le_bytes(bytes))
    });
    format!("{:016x}", NEXT.fetch_add(1, Ordering::Relaxed))
}
