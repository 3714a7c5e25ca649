//! The audit log: who was given what, who was refused, who changed what. Lines of the log like all others,
//! with the target `audit`, at a level that stays on; never with a secret.

use std::fmt::Display;
use std::net::IpAddr;

/// Where something came from.
#[derive(Debug, Clone, Copy)]
pub struct From<'a> {
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The request.
    pub request_id: &'a str,
}

impl From<'_> {
    fn client(&self) -> String {
        self.client.map_or_else(|| "local".to_owned(), |client| client.to_string())
    }
}

/// A token was given.
pub fn granted(identity: &dyn Display, asked: &str, scope: &str, from: From<'_>) {
    let (client, request_id) = (from.client(), from.request_id);
    tracing::info!(target: "audit", event = "grant", %identity, asked, scope, client, request_id,
        "gave {identity} a token");
}

/// A token was given to nobody in particular, which every pull of a public image begins with. It opens what
/// is open to everyone, so it is shown only to whoever asks for it (`audit=debug`).
pub fn granted_to_anyone(asked: &str, scope: &str, from: From<'_>) {
    let (client, request_id) = (from.client(), from.request_id);
    tracing::debug!(target: "audit", event = "grant", identity = "anonymous", asked, scope, client, request_id,
        "gave anonymous a token");
}

/// A refresh token was given.
pub fn session_begun(identity: &dyn Display, session: &str, from: From<'_>) {
    let (client, request_id) = (from.client(), from.request_id);
    tracing::info!(target: "audit", event = "login", %identity, session, client, request_id,
        "gave {identity} a refresh token");
}

/// A credential was not taken.
pub fn refused(reason: &str, from: From<'_>) {
    let (client, request_id) = (from.client(), from.request_id);
    tracing::info!(target: "audit", event = "refusal", reason, client, request_id, "refused a credential");
}

/// A client's certificate was not taken, before there was any request.
pub fn refused_certificate(reason: &str, client: IpAddr) {
    tracing::info!(target: "audit", event = "refusal", reason, %client, "refused a client certificate");
}

/// Somebody may not do what they asked for.
pub fn denied(
    identity: &dyn Display,
    action: &str,
    repository: &str,
    reference: &str,
    reason: &str,
    from: From<'_>,
) {
    let (client, request_id) = (from.client(), from.request_id);
    tracing::info!(target: "audit", event = "refusal", %identity, action, repository, reference, reason, client,
        request_id,
        "refused {identity} to {action} {repository}");
}

/// Somebody changed a repository.
pub fn changed(
    event: &'static str,
    identity: &dyn Display,
    repository: &str,
    reference: &str,
    digest: &str,
    rule: &str,
    from: From<'_>,
) {
    let (client, request_id) = (from.client(), from.request_id);
    tracing::info!(target: "audit", event, %identity, repository, reference, digest, rule, client, request_id,
        "{event} of {reference} in {repository} by {identity}");
}

/// Tokens were ended.
pub fn revoked(identity: &str, session: Option<&str>, from: From<'_>) {
    let (client, request_id, session) = (from.client(), from.request_id, session.unwrap_or("all"));
    tracing::info!(target: "audit", event = "revocation", identity, session, client, request_id,
        "ended tokens of {identity}");
}

/// The rules are others now.
pub fn policy_changed(rules: usize, before: &str, after: &str) {
    tracing::info!(target: "audit", event = "policy", rules, before, after, "the policy is another one now");
}
