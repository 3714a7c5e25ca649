//! One token for another (RFC 8693).

use serde::Deserialize;

use crate::{Http, Result, Secret, Service};

const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";
const REFRESH: &str = "urn:ietf:params:oauth:token-type:refresh_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// The bearer of a JWT that another issuer signed.
    Jwt(&'a Secret),
    /// The owner of the certificate that the connection shows.
    ClientCertificate,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A token that opens a repository for some minutes.
    Access,
    /// A token that gets others, which docker calls an identity token; with a scope, others of that scope
    /// alone.
    Refresh,
    /// The same, or a token that opens a repository for some minutes where there is no other.
    Lasting,
}

/// A question to a token service.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The service.
    pub service: &'a Service,
    /// Who asks.
    pub subject: Subject<'a>,
    /// What for: scopes, separated by blanks.
    pub scope: Option<&'a str>,
    /// What is asked for.
    pub wanted: Wanted,
    /// Which program asks.
    pub client: &'a str,
}

/// What a token service gave.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The token.
    pub token: Secret,
    /// Whether it is one that gets others.
    pub refreshes: bool,
    /// For how many seconds it is good, from now.
    pub expires_in: u64,
    /// What was granted, which may be less than what was asked for; `None` where the answer does not say.
    pub scope: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    access_token: Option<String>,
    // What registries before OAuth call it; some servers send both.
    token: Option<String>,
    issued_token_type: Option<String>,
    expires_in: Option<u64>,
    scope: Option<String>,
}

impl Exchange<'_> {
    /// Asks.
    pub fn run(&self, http: &Http) -> Result<Issued> {
        let mut form = Vec::with_capacity(7);
        match self.subject {
            Subject::Jwt(token) => form.extend([
                ("grant_type", EXCHANGE),
                ("subject_token", token.reveal()),
                ("subject_token_type", JWT),
            ]),
            Subject::ClientCertificate => form.push(("grant_type", "client_credentials")),
        }
        form.extend([("service", self.service.name.as_str()), ("client_id", self.client)]);
        form.extend(self.scope.map(|scope| ("scope", scope)));
        if self.wanted != Wanted::Access {
            form.push(("requested_token_type", REFRESH));
        }
        let answer = http.post(&self.service.realm, &form)?;
        let body: Body = answer.json()?;
        let (refreshes, opens) = match body.issued_token_type.as_deref() {
            Some(issued) => (issued == REFRESH, issued == ACCESS || issued == JWT),
            None => (false, self.wanted == Wanted::Access),
        };
        let right = match self.wanted {
            Wanted::Access => opens,
            // An access token in its place would work for minutes and then fail where nobody looks.
            Wanted::Refresh => refreshes,
            Wanted::Lasting => refreshes || opens,
        };
        if !right {
            return Err(answer.garbage("the token is of another kind than was asked for"));
        }
        // Without a word on it, this may be a server that gives such tokens for everything.
        if refreshes && self.scope.is_some() && body.scope.is_none() {
            return Err(answer.garbage("it does not say what the token is good for"));
        }
        let token = body.access_token.or(body.token).ok_or_else(|| answer.garbage("it has no token"))?;
        let token = Secret::new(token, "the token in the answer")
            .map_err(|error| answer.garbage(&error.to_string()))?;
        // The distribution spec's default for an answer that does not say.
        Ok(Issued { token, refreshes, expires_in: body.expires_in.unwrap_or(60), scope: body.scope })
    }
}

/// Tells the registry that a token is not needed any more (RFC 7009).
pub fn revoke(http: &Http, registry: &crate::RegistryHost, token: &Secret) -> Result<()> {
    let url = format!("{}://{registry}/oauth2/revoke", http.scheme());
    let answer = http.post(&url, &[("token", token.reveal())])?;
    if answer.status == 200 { Ok(()) } else { Err(answer.refusal()) }
}
