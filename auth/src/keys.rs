//! Keys that Berth signs its own tokens with: ES256, made by itself, published before they are used.
//!
//! They live in the index, so replicas agree without a shared secret. This is the pure part: what a key is,
//! and when the next one is due.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::Serialize;

/// A key is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("signing key {0} is damaged")]
pub struct DamagedKey(i64);

/// A signing key.
#[derive(Clone)]
pub struct SigningKey {
    /// Which one; the next has the next number.
    pub number: i64,
    /// From when it signs, unix milliseconds.
    pub signs_from: i64,
    kid: String,
    x: String,
    y: String,
    signs: EncodingKey,
    verifies: DecodingKey,
}

/// A public key as JWKS shows it (RFC 7517).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwk {
    kty: &'static str,
    crv: &'static str,
    alg: &'static str,
    #[serde(rename = "use")]
    purpose: &'static str,
    /// The name a token calls it by.
    pub kid: String,
    x: String,
    y: String,
}

/// Makes a private key, PKCS#8.
pub fn generate() -> Vec<u8> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    document.expect("the system gives randomness").as_ref().to_vec()
}

impl SigningKey {
    /// Reads a key from its row.
    pub fn read(number: i64, kid: String, pkcs8: &[u8], signs_from: i64) -> Result<Self, DamagedKey> {
        let damaged = || DamagedKey(number);
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| damaged())?;
        // An uncompressed point: 4, x, y.
        let point = pair.public_key().as_ref();
        let (x, y) = point.get(1..33).zip(point.get(33..65)).ok_or_else(damaged)?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let verifies = DecodingKey::from_ec_components(&x, &y).map_err(|_| damaged())?;
        Ok(Self { number, signs_from, kid, x, y, signs: EncodingKey::from_ec_der(pkcs8), verifies })
    }

    /// What tokens call it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its public half.
    pub fn jwk(&self) -> Jwk {
        let (kid, x, y) = (self.kid.clone(), self.x.clone(), self.y.clone());
        Jwk { kty: "EC", crv: "P-256", alg: "ES256", purpose: "sig", kid, x, y }
    }

    pub(crate) fn signs(&self) -> &EncodingKey {
        &self.signs
    }

    pub(crate) fn verifies(&self) -> &DecodingKey {
        &self.verifies
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, {})", self.number, self.kid)
    }
}

/// When keys are made, used and thrown away.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// How long one signs.
    pub period: Duration,
    /// How long it is published before.
    pub ahead: Duration,
    /// How long it is kept after.
    pub kept: Duration,
}

/// All keys there are, the newest last.
#[derive(Debug, Clone, Default)]
pub struct KeyRing(Vec<SigningKey>);

impl KeyRing {
    /// A ring of these.
    pub fn new(mut keys: Vec<SigningKey>) -> Self {
        keys.sort_by_key(|key| key.number);
        Self(keys)
    }

    /// The key that signs now. A first key whose time has not come by this clock signs all the same: it was
    /// made a moment ago by one that is ahead.
    pub fn signing(&self, now: i64) -> Option<&SigningKey> {
        self.0.iter().rev().find(|key| key.signs_from <= now).or(self.0.first())
    }

    /// The key of that name.
    pub fn find(&self, kid: &str) -> Option<&SigningKey> {
        self.0.iter().find(|key| key.kid == kid)
    }

    /// What others need to check signatures.
    pub fn jwks(&self) -> Vec<Jwk> {
        self.0.iter().map(SigningKey::jwk).collect()
    }

    /// The number of the key that must be made now, and from when it signs.
    pub fn due(&self, now: i64, rotation: &Rotation) -> Option<(i64, i64)> {
        let Some(newest) = self.0.last() else { return Some((1, now)) };
        let next = newest.signs_from.saturating_add(millis(rotation.period));
        let soon = now.saturating_add(millis(rotation.ahead));
        // After a long sleep the next one is published first too.
        (next <= soon).then_some((newest.number + 1, next.max(soon)))
    }

    /// Of each key that nothing can be signed with any more, and no token needs: its number.
    pub fn over(&self, now: i64, rotation: &Rotation) -> Vec<i64> {
        let ends = |pair: &[SigningKey]| pair[1].signs_from.saturating_add(millis(rotation.kept));
        self.0.windows(2).filter(|pair| ends(pair) < now).map(|pair| pair[0].number).collect()
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROTATION: Rotation = Rotation {
        period: Duration::from_secs(100),
        ahead: Duration::from_secs(10),
        kept: Duration::from_secs(10),
    };

    fn key(number: i64, signs_from: i64) -> SigningKey {
        SigningKey::read(number, format!("key-{number}"), &generate(), signs_from).unwrap()
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_kept_after() {
        let mut ring = KeyRing::default();
        let mut published_at = std::collections::HashMap::new();
        let mut signed = Vec::new();
        for now in (0..1_000_000).step_by(1000) {
            if let Some((number, signs_from)) = ring.due(now, &ROTATION) {
                ring.0.push(key(number, signs_from));
                published_at.insert(number, now);
            }
            let number = ring.signing(now).unwrap().number;
            if signed.last().is_none_or(|(last, _)| *last != number) {
                assert!(number == 1 || now - published_at[&number] >= 10_000, "used too early");
                signed.push((number, now));
            }
            for gone in ring.over(now, &ROTATION) {
                let next_signed = signed.iter().find(|(number, _)| *number == gone + 1).unwrap().1;
                assert!(now - next_signed >= 10_000, "thrown away too early");
                ring.0.retain(|key| key.number != gone);
            }
            assert!(ring.0.len() <= 2);
        }
        assert_eq!(signed.len(), 10);
    }

    #[test]
    fn after_a_long_sleep_the_next_key_is_published_first_too() {
        let ring = KeyRing::new(vec![key(1, 0)]);
        assert_eq!(ring.due(5_000_000, &ROTATION), Some((2, 5_010_000)));
        assert_eq!(ring.signing(5_000_000).unwrap().number, 1);
    }

    #[test]
    fn a_damaged_row_is_an_error() {
        assert!(SigningKey::read(1, "a".into(), b"no key", 0).is_err());
    }
}
