//! What a token says of itself, unverified: good for deciding what to do with it, never for trust.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::Secret;

/// The claims that matter to whoever carries a token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// When it ends, in unix seconds.
    #[serde(default, deserialize_with = "seconds")]
    pub exp: Option<u64>,
    /// For whom it is.
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
}

impl Claims {
    /// Reads the claims of a JWT, without looking at its signature; `None` where it is no JWT.
    pub fn unverified(token: &Secret) -> Option<Self> {
        let mut parts = token.reveal().split('.');
        let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(u64),
    // A NumericDate may have a fraction (RFC 7519 section 2).
    Real(f64),
}

fn seconds<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    Ok(match Number::deserialize(from)? {
        Number::Whole(seconds) => Some(seconds),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
        Number::Real(seconds) => Some(seconds as u64),
    })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match Audience::deserialize(from)? {
        Audience::One(audience) => vec![audience],
        Audience::Many(audiences) => audiences,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(payload: &str) -> Option<Claims> {
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
        Claims::unverified(&Secret::new(token, "the token").unwrap())
    }

    #[test]
    fn the_end_and_the_audience_are_read() {
        let found = claims(r#"{"exp":1700000000,"aud":["a","b"],"sub":"x"}"#).unwrap();
        assert_eq!(found, Claims { exp: Some(1_700_000_000), aud: vec!["a".into(), "b".into()] });
        assert_eq!(
            claims(r#"{"exp":1.5,"aud":"a"}"#).unwrap(),
            Claims { exp: Some(1), aud: vec!["a".into()] }
        );
        assert_eq!(claims(r#"{"exp":-1.5}"#).unwrap().exp, Some(0));
        assert_eq!(claims("{}").unwrap(), Claims::default());
    }

    #[test]
    fn what_is_no_jwt_has_no_claims() {
        assert_eq!(claims("nonsense"), None);
        assert_eq!(claims(r#"{"exp":"soon"}"#), None);
        for token in ["opaque", "a.b", "a.b.c.d", "a.!.c"] {
            assert_eq!(Claims::unverified(&Secret::new(token, "the token").unwrap()), None);
        }
    }
}
