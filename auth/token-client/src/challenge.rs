//! Where a registry has its tokens from.

use ureq::http::Uri;

use crate::{Error, Http, RegistryHost, Result};

/// A token service, as a registry names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Where tokens are asked for.
    pub realm: String,
    /// The name that tokens are for.
    pub name: String,
}

/// Finds token services.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    /// Another host that tokens may be sent to, beside the registry itself.
    pub realm_host: Option<RegistryHost>,
}

impl Discovery {
    /// Asks the registry for its token service.
    ///
    /// Whoever can answer for the registry can name any realm, and what is sent there is the identity
    /// of a workload: so the realm is the registry's own host and port, or the one that was allowed.
    pub fn find(&self, http: &Http, registry: &RegistryHost) -> Result<Service> {
        let scheme = http.scheme();
        let base = format!("{scheme}://{registry}");
        let answer = http.get(&format!("{base}/v2/"), &[])?;
        let (realm, name) = match answer.status {
            401 => answer
                .challenges
                .iter()
                .find_map(|header| bearer(header))
                .ok_or_else(|| answer.garbage("401 without a Bearer challenge"))?,
            // Berth answers so to a node that has shown its certificate already.
            200 => (format!("{base}/token"), None),
            _ => return Err(answer.refusal()),
        };
        let name = name.unwrap_or_else(|| registry.without_port().to_owned());
        let uri: Uri = realm.parse().map_err(|_| answer.garbage("its realm is no URL"))?;
        let foreign =
            || Error::ForeignRealm { registry: registry.clone(), realm: realm.chars().take(300).collect() };
        let authority = uri.authority().ok_or_else(foreign)?;
        if uri.scheme_str() != Some(scheme) {
            return Err(Error::Plain(realm.chars().take(300).collect()));
        }
        let host: RegistryHost = authority.as_str().parse().map_err(|_| foreign())?;
        let allowed = [Some(registry), self.realm_host.as_ref()];
        if !allowed.into_iter().flatten().any(|allowed| allowed.endpoint(scheme) == host.endpoint(scheme)) {
            return Err(foreign());
        }
        Ok(Service { realm, name })
    }
}

/// The realm and the service of a `WWW-Authenticate` header, which may hold other challenges too.
fn bearer(header: &str) -> Option<(String, Option<String>)> {
    let (mut realm, mut service, mut here) = (None, None, false);
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let end = rest.find(['=', ' ', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after = after.trim_start_matches(' ');
        if let Some(value) = after.strip_prefix('=') {
            let (value, next) = parameter(value.trim_start_matches(' '))?;
            if here && word.eq_ignore_ascii_case("realm") {
                realm.get_or_insert(value);
            } else if here && word.eq_ignore_ascii_case("service") {
                service.get_or_insert(value);
            }
            rest = next;
        } else {
            if here && realm.is_some() && !word.is_empty() {
                break;
            }
            if !word.is_empty() {
                here = word.eq_ignore_ascii_case("bearer");
            }
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    Some((realm?, service))
}

/// A token or a quoted string, and what follows.
fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([' ', ',']).unwrap_or(text.len()));
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let found = |header| bearer(header).map(|(realm, service)| (realm, service.unwrap_or_default()));
        let both = Some(("https://r/token".to_owned(), "berth".to_owned()));
        for header in [
            r#"Bearer realm="https://r/token",service="berth""#,
            r#"bearer service=berth, realm="https://r/token", scope="a:b:c,d""#,
            r#"Basic realm="x, Bearer realm=y", Bearer realm="https://r/token",service="berth""#,
            r#"Bearer realm="https://r/token",service="berth", Basic realm="other""#,
        ] {
            assert_eq!(found(header), both, "{header}");
        }
        assert_eq!(found(r#"Bearer realm="a\"b""#), Some(("a\"b".to_owned(), String::new())));
        for header in
            ["", "Bearer", r#"Basic realm="x""#, r#"Bearer realm="x"#, "Negotiate", r#"Bearer service="x""#]
        {
            assert_eq!(found(header), None, "{header}");
        }
    }
}
