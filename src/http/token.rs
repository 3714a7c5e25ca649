//! Tokens over HTTP: `/token` by the Docker token specification, OAuth 2.0 and its token exchange (RFC 8693),
//! and the paths by which tools for Azure Container Registry ask for the same.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use berth_auth::Scope;
use http::request::Parts;
use http::{HeaderValue, Method, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::json;

use super::error::HttpError;
use super::query::Query;
use super::{App, challenge, client, json as json_response};
use crate::telemetry::audit;
use crate::tokens::{Credential, Issued, IssuedSession, Login, Origin, Refused, Tokens};

/// The largest form taken: a token and a hundred scopes are less.
const FORM_BYTES: usize = 128 * 1024;
/// RFC 8693.
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const REFRESH_TOKEN: &str = "urn:ietf:params:oauth:token-type:refresh_token";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

type Result<T> = std::result::Result<T, HttpError>;

/// A request for a token, taken apart.
struct Asked<'a> {
    tokens: &'a Tokens,
    origin: Origin,
    header: Credential<'a>,
    parameters: Query,
    request_id: &'a str,
}

/// `GET` and `POST /token`, which is `/oauth2/token` too.
pub(super) async fn token(State(app): State<App>, request: Request) -> Response {
    super::plain(&app, request, async |tokens, head, body, id| {
        let posted = head.method == Method::POST;
        if !posted && head.method != Method::GET {
            return Err(HttpError::Method { allowed: "GET, POST" });
        }
        let asked = Asked::read(&app, tokens, &head, body, id).await?;
        if posted { asked.post().await } else { asked.get().await }
    })
    .await
}

/// `POST /oauth2/exchange`: a token of Entra ID for a refresh token.
pub(super) async fn exchange(State(app): State<App>, request: Request) -> Response {
    super::plain(&app, request, async |tokens, head, body, id| {
        if head.method != Method::POST {
            return Err(HttpError::Method { allowed: "POST" });
        }
        let asked = Asked::read(&app, tokens, &head, body, id).await?;
        let token = asked.required("access_token")?;
        let login = asked.login(&Credential::Bearer(token)).await?;
        let session = asked.session(&login, None).await?;
        let session = session.ok_or_else(|| HttpError::NoSession(login.identity.to_string()))?;
        Ok(answer(&json!({ "refresh_token": session.token })))
    })
    .await
}

/// `POST /oauth2/revoke` (RFC 7009): whoever has a refresh token may end it.
pub(super) async fn revoke(State(app): State<App>, request: Request) -> Response {
    super::plain(&app, request, async |tokens, head, body, id| {
        if head.method != Method::POST {
            return Err(HttpError::Method { allowed: "POST" });
        }
        let asked = Asked::read(&app, tokens, &head, body, id).await?;
        if let Some(session) = tokens.revoke_token(asked.required("token")?).await? {
            audit::revoked(&session.identity, Some(&session.id), asked.from());
        }
        Ok(answer(&json!({})))
    })
    .await
}

/// `GET /.well-known/jwks.json`: the public keys of our tokens.
pub(super) async fn keys(State(app): State<App>, request: Request) -> Response {
    super::plain(&app, request, async |tokens, _, _, _| {
        let mut response = answer(&json!({ "keys": tokens.jwks() }));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
        Ok(response)
    })
    .await
}

/// `GET /.well-known/berth-login`: where people log in.
pub(super) async fn login(State(app): State<App>, request: Request) -> Response {
    super::plain(&app, request, async |_, _, _, _| {
        app.settings().login.as_ref().map(answer).ok_or(HttpError::NoSuchPath)
    })
    .await
}

impl<'a> Asked<'a> {
    async fn read(
        app: &App,
        tokens: &'a Tokens,
        head: &'a Parts,
        body: Body,
        request_id: &'a str,
    ) -> Result<Self> {
        let parameters = if head.method == Method::POST {
            let bytes = Limited::new(body, FORM_BYTES).collect();
            let limit = app.settings().idle_timeout.max(Duration::from_secs(1));
            let bytes = tokio::time::timeout(limit, bytes).await;
            let bytes =
                bytes.ok().and_then(std::result::Result::ok).ok_or(HttpError::Form { limit: FORM_BYTES })?;
            Query::of_form(&bytes.to_bytes())
        } else {
            Query::parse(head.uri.query())
        };
        let origin = challenge::origin(head, client::of(head, &app.settings().trusted_proxies));
        let header = challenge::credential(&head.headers);
        Ok(Self { tokens, origin, header, parameters, request_id })
    }

    /// The Docker way: Basic, or nothing for what is public.
    async fn get(&self) -> Result<Response> {
        let login = self.login(&self.header).await?;
        let issued = self.issue(&login)?;
        let mut body = json!({
            "token": issued.token,
            "access_token": issued.token,
            "expires_in": issued.expires_in,
            "issued_at": rfc3339(issued.issued_at),
        });
        if self.parameters.get("offline_token") == Some("true") {
            self.add_session(&login, &mut body).await?;
        }
        Ok(warned(answer(&body), &login))
    }

    /// The OAuth way.
    async fn post(&self) -> Result<Response> {
        let secret =
            |user: &str, secret: &str| Credential::Basic { user: user.to_owned(), secret: secret.to_owned() };
        let login = match self.required("grant_type")? {
            "password" => {
                let user = self.parameters.get("username").unwrap_or_default();
                self.login(&secret(user, self.required("password")?)).await?
            }
            // containerd sends any secret so that comes without a user name.
            "refresh_token" => self.login(&secret("", self.required("refresh_token")?)).await?,
            "client_credentials" => self.login(&self.header).await?,
            EXCHANGE => return self.exchange().await,
            other => return Err(HttpError::GrantType(other.chars().take(80).collect())),
        };
        let issued = self.issue(&login)?;
        let mut body = json!({
            "access_token": issued.token,
            "token": issued.token,
            "token_type": "Bearer",
            "scope": issued.scope.to_string(),
            "expires_in": issued.expires_in,
            "issued_at": rfc3339(issued.issued_at),
        });
        if self.parameters.get("access_type") == Some("offline") {
            self.add_session(&login, &mut body).await?;
        }
        Ok(warned(answer(&body), &login))
    }

    /// RFC 8693: whatever proves an identity, for a token of ours.
    async fn exchange(&self) -> Result<Response> {
        let subject = match self.parameters.get("subject_token") {
            Some(token) => Credential::Bearer(token),
            None if self.header != Credential::None => self.header.clone(),
            None => return Err(HttpError::Missing("subject_token")),
        };
        let login = self.login(&subject).await?;
        if login.identity.is_anonymous() {
            return Err(HttpError::Missing("subject_token"));
        }
        let session = if self.parameters.get("requested_token_type") == Some(REFRESH_TOKEN) {
            // One that is for a repository can be handed on: to a kubelet, say.
            let asked = self.parameters.get("scope").map(|_| self.asked()).transpose()?;
            self.session(&login, asked).await?
        } else {
            None
        };
        // Where there is none an access token is given, and the answer says so (RFC 8693, 2.2.1).
        let body = if let Some(session) = session {
            let mut body = json!({
                "access_token": session.token,
                "issued_token_type": REFRESH_TOKEN,
                "token_type": "N_A",
                "expires_in": session.expires_in,
            });
            if let Some(scope) = session.scope {
                body["scope"] = scope.to_string().into();
            }
            body
        } else {
            let issued = self.issue(&login)?;
            json!({
                "access_token": issued.token,
                "issued_token_type": ACCESS_TOKEN,
                "token_type": "Bearer",
                "scope": issued.scope.to_string(),
                "expires_in": issued.expires_in,
                "issued_at": rfc3339(issued.issued_at),
            })
        };
        Ok(warned(answer(&body), &login))
    }

    fn from(&self) -> audit::From<'a> {
        audit::From { client: self.origin.client, request_id: self.request_id }
    }

    fn required(&self, name: &'static str) -> Result<&str> {
        self.parameters.get(name).filter(|value| !value.is_empty()).ok_or(HttpError::Missing(name))
    }

    async fn login(&self, credential: &Credential<'_>) -> Result<Login> {
        let found = self.tokens.authenticate(credential, &self.origin, Duration::ZERO).await;
        found.map_err(|refused| {
            audit::refused(&refused.to_string(), self.from());
            HttpError::Refused(refused)
        })
    }

    fn asked(&self) -> Result<Scope> {
        Ok(Scope::parse(self.parameters.all("scope")).map_err(Refused::from)?)
    }

    fn issue(&self, login: &Login) -> Result<Issued> {
        let asked = self.asked()?;
        let wanted = asked.to_string();
        let issued = self.tokens.access_token(login, asked, &self.origin)?;
        let granted = issued.scope.to_string();
        if login.identity.is_anonymous() {
            audit::granted_to_anyone(&wanted, &granted, self.from());
        } else {
            audit::granted(&login.identity, &wanted, &granted, self.from());
        }
        Ok(issued)
    }

    /// A refresh token, if there is one for what has logged in.
    async fn session(&self, login: &Login, asked: Option<Scope>) -> Result<Option<IssuedSession>> {
        let client = self.parameters.get("client_id").unwrap_or_default();
        let session = self.tokens.refresh_token(login, client, asked, &self.origin).await?;
        if let Some(session) = &session {
            audit::session_begun(&login.identity, &session.id, self.from());
        }
        Ok(session)
    }

    /// Where a refresh token was asked for and there is one.
    async fn add_session(&self, login: &Login, body: &mut serde_json::Value) -> Result<()> {
        if let Some(session) = self.session(login, None).await? {
            body["refresh_token"] = session.token.into();
        }
        Ok(())
    }
}

fn answer(body: &serde_json::Value) -> Response {
    let mut response = json_response("application/json", body.to_string());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn warned(mut response: Response, login: &Login) -> Response {
    response
        .headers_mut()
        .extend(login.warning.as_deref().and_then(super::warning).map(|text| (header::WARNING, text)));
    response
}

fn rfc3339(seconds: i64) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    humantime::format_rfc3339_seconds(at).to_string()
}
