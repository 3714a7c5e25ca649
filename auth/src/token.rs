//! Access tokens: who, what for, until when, signed by this registry.

use std::collections::BTreeMap;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::keys::KeyRing;
use crate::scope::Access;
use crate::{Identity, Scope};

/// What the issuer of our tokens is called in them.
pub const ISSUER: &str = "berth";
/// How far clocks may be apart.
pub const LEEWAY: Duration = Duration::from_mins(1);
/// Longer ones are nobody's, in bytes.
pub const TOKEN_BYTES: usize = 64 * 1024;

/// An access token, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// Who it was given to.
    pub identity: Identity,
    /// What it is good for.
    pub scope: Scope,
    /// The refresh token it was made from.
    pub session: Option<String>,
    /// When it was made, unix seconds.
    pub issued_at: i64,
    /// Until when it is good, unix seconds.
    pub expires_at: i64,
    /// Its own name.
    pub id: String,
}

/// Why a token of ours is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It is not one of ours, or was changed.
    #[error("the token was not issued by this registry")]
    Foreign,
    /// The key it names is none of ours.
    #[error("the token was signed with a key this registry does not have")]
    UnknownKey,
    /// It is for another registry.
    #[error("the token is for another service than {0}")]
    Audience(String),
    /// It is over.
    #[error("the token expired at {}, and it is {} here; get a new one", shown(*.expired), shown(*.now))]
    Expired {
        /// Its end, unix seconds.
        expired: i64,
        /// The time here, unix seconds.
        now: i64,
    },
    /// Its time has not come.
    #[error("the token is from {}, and it is {} here; check the clocks", shown(*.issued), shown(*.now))]
    Early {
        /// When it was made, unix seconds.
        issued: i64,
        /// The time here, unix seconds.
        now: i64,
    },
}

/// A moment as people read it.
fn shown(seconds: i64) -> impl std::fmt::Display {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since)
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    exp: i64,
    iat: i64,
    jti: String,
    access: Vec<Access>,
    #[serde(rename = "berth", default)]
    more: More,
}

/// What policies need to know besides the name.
#[derive(Debug, Default, Serialize, Deserialize)]
struct More {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
}

impl AccessToken {
    /// Signs it. `now` is unix milliseconds.
    pub fn sign(&self, service: &str, keys: &KeyRing, now: i64) -> Option<String> {
        let key = keys.signing(now)?;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: self.identity.subject(),
            aud: service.to_owned(),
            exp: self.expires_at,
            iat: self.issued_at,
            jti: self.id.clone(),
            access: self.scope.to_access(),
            more: More {
                groups: self.identity.groups.clone(),
                attributes: self.identity.attributes.clone(),
                session: self.session.clone(),
            },
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(key.kid().to_owned());
        jsonwebtoken::encode(&header, &claims, key.signs()).ok()
    }

    /// Reads a token and checks everything about it but its end, which [`AccessToken::check_time`] does:
    /// an upload that was begun with it may outlive it.
    pub fn read(token: &str, service: &str, keys: &KeyRing) -> Result<Self, InvalidToken> {
        if token.len() > TOKEN_BYTES {
            return Err(InvalidToken::Foreign);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| InvalidToken::Foreign)?;
        // What else the header says of keys is what an attacker would write there.
        let key = keys.find(header.kid.as_deref().unwrap_or_default()).ok_or(InvalidToken::UnknownKey)?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        let claims = jsonwebtoken::decode::<Claims>(token, key.verifies(), &validation);
        let claims = claims.map_err(|_| InvalidToken::Foreign)?.claims;
        if claims.aud != service {
            return Err(InvalidToken::Audience(service.to_owned()));
        }
        let mut identity = Identity::of_subject(&claims.sub).ok_or(InvalidToken::Foreign)?;
        let More { groups, attributes, session } = claims.more;
        (identity.groups, identity.attributes) = (groups, attributes);
        Ok(Self {
            identity,
            scope: Scope::from_access(&claims.access),
            session,
            issued_at: claims.iat,
            expires_at: claims.exp,
            id: claims.jti,
        })
    }

    /// Whether it is good now, or was until `grace` ago. `now` is unix milliseconds.
    pub fn check_time(&self, now: i64, grace: Duration) -> Result<(), InvalidToken> {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        let (now, leeway) = (now / 1000, seconds(LEEWAY));
        if now >= self.expires_at.saturating_add(leeway).saturating_add(seconds(grace)) {
            return Err(InvalidToken::Expired { expired: self.expires_at, now });
        }
        if self.issued_at.saturating_sub(leeway) > now {
            return Err(InvalidToken::Early { issued: self.issued_at, now });
        }
        Ok(())
    }
}

/// Whether a text looks like a token that an issuer signed.
pub fn looks_like_a_jwt(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// The issuer a token names, which nobody has checked yet.
pub fn unverified_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let claims = jsonwebtoken::dangerous::insecure_decode::<Issuer>(token).ok()?;
    Some(claims.claims.iss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{SigningKey, generate};
    use crate::{Kind, Permission};

    fn ring(number: i64) -> KeyRing {
        KeyRing::new(vec![SigningKey::read(number, format!("kid-{number}"), &generate(), 0).unwrap()])
    }

    fn token() -> AccessToken {
        let mut identity = Identity::new(Kind::ServiceAccount, "prod/team/app").with("namespace", "team");
        identity.groups = vec!["builders".to_owned()];
        AccessToken {
            identity,
            scope: Scope::of("team/app", Permission::Pull.into()),
            session: Some("s1".to_owned()),
            issued_at: 1_000,
            expires_at: 1_300,
            id: "t1".to_owned(),
        }
    }

    #[test]
    fn what_is_signed_is_read() {
        let keys = ring(1);
        let text = token().sign("registry", &keys, 1_000_000).unwrap();
        assert_eq!(AccessToken::read(&text, "registry", &keys).unwrap(), token());
    }

    #[test]
    fn another_service_another_key_and_another_text_are_refused() {
        let keys = ring(1);
        let text = token().sign("registry", &keys, 1_000_000).unwrap();
        assert!(matches!(AccessToken::read(&text, "other", &keys), Err(InvalidToken::Audience(_))));
        assert_eq!(AccessToken::read(&text, "registry", &ring(2)), Err(InvalidToken::UnknownKey));
        // The right name, another key.
        assert_eq!(AccessToken::read(&text, "registry", &ring(1)), Err(InvalidToken::Foreign));
        for at in (0..text.len()).filter(|at| text.as_bytes()[*at] != b'.') {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last characters of a part may hold bits that stand for nothing.
            if let Ok(read) = AccessToken::read(&changed, "registry", &keys) {
                assert_eq!(read, token());
            }
        }
    }

    #[test]
    fn its_time_is_kept_with_a_minute_for_clocks() {
        let token = token();
        let check = |seconds: i64| token.check_time(seconds * 1000, Duration::ZERO);
        assert!(check(939).is_err() && check(940).is_ok());
        assert!(check(1_359).is_ok() && check(1_360).is_err());
        assert!(token.check_time(4_000_000, Duration::from_hours(1)).is_ok());
    }
}
