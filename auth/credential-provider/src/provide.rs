//! From a request to an answer.

use std::time::Instant;

use berth_token_client::{
    Claims, Clock, Discovery, Exchange, Http, Issued, Limit, RegistryHost, Secret, Settings, Subject, Trust,
    Wanted, azure_identity, google_identity,
};

use crate::flags::{Flags, NodeIdentity};
use crate::image::{Image, Malformed};
use crate::kubelet::{Credential, Request, Response};

/// The longest that the kubelet may keep a credential: who loses a right loses it within this time.
const LONGEST_SECONDS: u64 = 3600;
/// A credential that ends sooner is not kept at all: a pull that starts with it has to finish.
const SHORTEST_SECONDS: u64 = 60;
/// Every image of the registry, so that one answer serves all pods of a service account, which the kubelet
/// keeps answers by. It opens nothing more: the registry asks its policy anew at each request.
const SCOPE: &str = "repository:*:pull";
const CLIENT: &str = "berth-credential-provider";

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Image(#[from] Malformed),
    #[error(transparent)]
    Token(#[from] berth_token_client::Error),
    #[error(
        "the kubelet sent no service account token for {0}, and no node identity is configured: set \
        tokenAttributes.serviceAccountTokenAudience in the CredentialProviderConfig, or --node-identity"
    )]
    NoIdentity(String),
}

/// Answers the kubelet, before `until`.
pub fn provide(flags: &Flags, request: &Request, until: Instant, clock: &Clock) -> Result<Response, Error> {
    let Some(image) = Image::parse(&request.image)?.filter(|image| serves(flags, &image.registry)) else {
        // What registries are served does not change while the kubelet runs.
        return Ok(Response::new(LONGEST_SECONDS));
    };
    let annotated = flags.node_annotation.as_ref().is_some_and(|key| {
        let annotations = request.service_account_annotations.as_ref();
        annotations.and_then(|annotations| annotations.get(key)).is_some_and(|value| value == "node")
    });
    let as_node = flags.node || annotated || request.service_account_token.is_empty();
    if as_node && flags.node_identity == NodeIdentity::None {
        return Err(Error::NoIdentity(image.registry.to_string()));
    }
    if flags.passthrough && !as_node {
        let token = Secret::new(&*request.service_account_token, "the service account's token")?;
        let end = Claims::unverified(&token).and_then(|claims| claims.exp).unwrap_or(0);
        let seconds = cache_seconds(end.saturating_sub(clock.now()));
        return Ok(answer(flags, seconds, &image.registry, &token));
    }

    let limit = Limit::Until(until);
    let http = Http::new(&Settings {
        trust: flags.ca_file.clone().map_or(Trust::System, Trust::Only),
        // The node's certificate is shown only where the node is who asks.
        client_certificate: flags
            .node_certificate
            .clone()
            .filter(|_| as_node && flags.node_identity == NodeIdentity::Certificate),
        limit,
        plain_http: flags.plain_http,
        proxy: true,
        clock: clock.clone(),
    })?;
    let service = Discovery { realm_host: flags.token_realm.clone() }.find(&http, &image.registry)?;
    let token = if as_node {
        node_token(flags, &image.registry, limit, clock)?
    } else {
        Some(Secret::new(&*request.service_account_token, "the service account's token")?)
    };
    let subject = token.as_ref().map_or(Subject::ClientCertificate, Subject::Jwt);
    // A pull may begin late in the time that the kubelet keeps the answer, and take longer than an access
    // token lives: what gets new ones outlives that. There is none for a certificate, nor for the pods of a
    // cluster that the registry asks about each token; what they get ends with the access token.
    let wanted = match subject {
        Subject::Jwt(_) => Wanted::Lasting,
        Subject::ClientCertificate => Wanted::Access,
    };
    let issued =
        Exchange { service: &service, subject, scope: Some(SCOPE), wanted, client: CLIENT }.run(&http)?;
    let seconds = if granted(&issued) {
        cache_seconds(issued.expires_in)
    } else {
        // The token is given all the same: with it the registry says, in the pod's events, who may not
        // pull what. It is not kept, so that a right given now counts at the next attempt.
        eprintln!("{CLIENT}: {} grants nothing, on {} or elsewhere", image.registry, image.repository);
        0
    };
    Ok(answer(flags, seconds, &image.registry, &issued.token))
}

fn serves(flags: &Flags, registry: &RegistryHost) -> bool {
    flags.registries.is_empty() || flags.registries.contains(registry)
}

/// The machine's token of its cloud; `None` where its certificate says it all.
fn node_token(
    flags: &Flags,
    registry: &RegistryHost,
    limit: Limit,
    clock: &Clock,
) -> Result<Option<Secret>, Error> {
    // Metadata servers are on the machine's own network: no proxy reaches them, and no TLS is there.
    let metadata = || {
        let trust = Trust::System;
        let settings = Settings {
            trust,
            client_certificate: None,
            limit,
            plain_http: true,
            proxy: false,
            clock: clock.clone(),
        };
        Http::new(&settings)
    };
    Ok(match flags.node_identity {
        NodeIdentity::Certificate | NodeIdentity::None => None,
        NodeIdentity::Azure => {
            let resource = flags.azure_resource.as_deref().unwrap_or_default();
            Some(azure_identity(
                &metadata()?,
                &flags.azure_metadata,
                resource,
                flags.azure_client_id.as_deref(),
            )?)
        }
        NodeIdentity::Google => {
            // Not the name that the registry gives itself: it could be another service's, and whoever
            // answers here would hold a token for that one.
            let audience = flags.gcp_audience.as_deref().unwrap_or(registry.as_str());
            Some(google_identity(&metadata()?, &flags.gcp_metadata, audience)?)
        }
    })
}

fn granted(issued: &Issued) -> bool {
    issued.scope.as_deref().is_none_or(|scope| !scope.trim().is_empty())
}

fn answer(flags: &Flags, seconds: u64, registry: &RegistryHost, token: &Secret) -> Response {
    let mut response = Response::new(seconds);
    let credential = Credential { username: flags.username.clone(), password: token.reveal().to_owned() };
    response.auth.insert(registry.to_string(), credential);
    response
}

/// For how long the kubelet may keep a credential that is good for `remaining` seconds.
fn cache_seconds(remaining: u64) -> u64 {
    if remaining < SHORTEST_SECONDS { 0 } else { (remaining / 5).saturating_mul(4).min(LONGEST_SECONDS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_kept_for_less_than_it_is_good_for() {
        for (remaining, kept) in
            [(0, 0), (59, 0), (60, 48), (300, 240), (4500, 3600), (86_400, 3600), (u64::MAX, 3600)]
        {
            assert_eq!(cache_seconds(remaining), kept, "{remaining}");
        }
    }
}
