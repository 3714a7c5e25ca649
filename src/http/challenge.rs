//! Who asks: the credential of a request, and the challenge where it is missing or not enough.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_auth::Scope;
use http::header;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use super::client::{Peer, is_trusted};
use crate::tokens::{Credential, Origin};

const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_HOST: &str = "x-forwarded-host";

/// What a request says of who makes it. What cannot be read is nothing: whoever must be known is asked.
pub(super) fn credential(headers: &HeaderMap) -> Credential<'_> {
    // What is no ASCII is no credential. `to_str` says so too, a byte at a time.
    let value =
        headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).filter(|value| value.is_ascii());
    let value = value.and_then(|value| str::from_utf8(value).ok());
    let Some((scheme, rest)) = value.and_then(|value| value.trim().split_once(' ')) else {
        return Credential::None;
    };
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
        return Credential::Bearer(rest);
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Credential::None;
    }
    let decoded = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|text| text.split_once(':')) {
        // docker sends an empty pair where it was told nothing.
        Some((user, secret)) if !user.is_empty() || !secret.is_empty() => {
            Credential::Basic { user: user.to_owned(), secret: secret.to_owned() }
        }
        _ => Credential::None,
    }
}

/// Where a request comes from.
pub(super) fn origin(head: &Parts, client: Option<std::net::IpAddr>) -> Origin {
    let certificates = head.extensions.get::<Peer>().and_then(|peer| peer.certificates.clone());
    Origin { client, certificates }
}

/// Where tokens are to be had: on the address by which the client came here, as far as that is known. Some
/// clients follow a challenge to no other.
pub(super) fn token_address(head: &Parts, public_url: Option<&str>, trusted: &[IpNet]) -> String {
    if let Some(url) = public_url {
        return format!("{}/token", url.trim_end_matches('/'));
    }
    let peer = head.extensions.get::<Peer>();
    let by_proxy = peer.is_some_and(|peer| is_trusted(&peer.address, trusted));
    let forwarded = |name| {
        let value = head.headers.get(name).filter(|_| by_proxy)?.to_str().ok()?;
        value.split(',').next().map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned)
    };
    let asked = || head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let authority = || head.uri.authority().map(ToString::to_string);
    let host = forwarded(FORWARDED_HOST).or_else(authority).or_else(asked).unwrap_or_default();
    let tls = peer.is_some_and(|peer| peer.tls);
    let scheme = forwarded(FORWARDED_PROTO).filter(|scheme| scheme == "http" || scheme == "https");
    let scheme = scheme.unwrap_or_else(|| if tls { "https" } else { "http" }.to_owned());
    format!("{scheme}://{host}/token")
}

/// Asks for a token.
pub(super) fn bearer(realm: &str, service: &str, scope: &Scope, error: Option<&str>) -> Option<HeaderValue> {
    let mut text = format!("Bearer realm=\"{}\",service=\"{}\"", quoted(realm), quoted(service));
    if !scope.is_empty() {
        let _ = write!(text, ",scope=\"{scope}\"");
    }
    if let Some(error) = error {
        let _ = write!(text, ",error=\"{error}\"");
    }
    HeaderValue::try_from(text).ok()
}

/// Without what would end the quotes: whoever sends a `Host` of their own gets only themselves.
fn quoted(text: &str) -> String {
    text.chars().filter(|c| *c != '"' && *c != '\\' && !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        [(header::AUTHORIZATION, value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn credentials_are_read_as_clients_write_them() {
        let basic = |user: &str, secret: &str| Credential::Basic { user: user.into(), secret: secret.into() };
        for (text, read) in [
            ("Basic YWxpY2U6c2VjOnJldA==", basic("alice", "sec:ret")),
            ("basic OnNlY3JldA==", basic("", "secret")),
            ("BEARER abc", Credential::Bearer("abc")),
        ] {
            assert!(credential(&headers(text)) == read, "{text}");
        }
        for nothing in ["Basic Og==", "Basic", "Basic !", "Bearer ", "Digest a=b", "", "Basic YWxpY2U="] {
            assert!(credential(&headers(nothing)) == Credential::None, "{nothing}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes("Bearer é".as_bytes()).unwrap());
        assert!(credential(&headers) == Credential::None);
    }
}
