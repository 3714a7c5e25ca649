//! A set of public keys (RFC 7517).

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::Value;

use super::settings::Algorithm;
use super::token::Token;

/// A set with more keys is not taken: a token that names none of them is tried against all.
const KEYS_LIMIT: usize = 64;
/// 2048 bits.
const RSA_BYTES: usize = 256;

pub(super) struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    /// The one algorithm it is for, where it says so.
    algorithm: Option<String>,
    family: Family,
    public: DecodingKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// What a set says of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// One of its keys has signed it.
    Signed,
    /// The key it names is there, or it names none, and none has signed it.
    Forged,
    /// The key it names is not there.
    Unknown,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set, leaving out what verifies no signature (RFC 7517, 5: what is not understood is ignored).
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(bytes).map_err(|_| "it is no set of keys (JWKS)".to_owned())?;
        let jwks = set.keys.into_iter().filter_map(|value| serde_json::from_value::<Jwk>(value).ok());
        let keys: Vec<_> = jwks.filter_map(Key::of).take(KEYS_LIMIT + 1).collect();
        match keys.len() {
            0 => Err("there is no key in it that verifies a signature".into()),
            count if count > KEYS_LIMIT => Err(format!("there are more than {KEYS_LIMIT} keys in it")),
            _ => Ok(Self(keys)),
        }
    }

    /// Whether one of the keys has signed a token in this way.
    pub fn verify(&self, token: &Token<'_>, algorithm: Algorithm) -> Verdict {
        let named = |key: &&Key| match (&token.key_id, &key.id) {
            (Some(wanted), Some(id)) => wanted == id,
            _ => true,
        };
        let mut verdict = if token.key_id.is_some() { Verdict::Unknown } else { Verdict::Forged };
        for key in self.0.iter().filter(named).filter(|key| key.fits(algorithm)) {
            let message = token.message.as_bytes();
            let verified =
                jsonwebtoken::crypto::verify(token.signature, message, &key.public, algorithm.of_library());
            if verified.is_ok_and(|signed| signed) {
                return Verdict::Signed;
            }
            if key.id.is_some() {
                verdict = Verdict::Forged;
            }
        }
        verdict
    }
}

impl Key {
    fn of(jwk: Jwk) -> Option<Self> {
        let signs = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        let verifies = jwk.key_ops.is_none_or(|operations| operations.iter().any(|one| one == "verify"));
        if !signs || !verifies {
            return None;
        }
        let bytes = |text: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let (family, public) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let (modulus, exponent) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
                let significant = modulus.iter().skip_while(|byte| **byte == 0).count();
                let key = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
                (significant >= RSA_BYTES).then_some((Family::Rsa, key))?
            }
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let (family, size) = if curve == "P-256" { (Family::P256, 32) } else { (Family::P384, 48) };
                if bytes(&jwk.x)?.len() != size || bytes(&jwk.y)?.len() != size {
                    return None;
                }
                (family, DecodingKey::from_ec_components(jwk.x.as_deref()?, jwk.y.as_deref()?).ok()?)
            }
            ("OKP", Some("Ed25519")) => {
                let key = bytes(&jwk.x).filter(|key| key.len() == 32)?;
                (Family::Ed25519, DecodingKey::from_ed_der(&key))
            }
            _ => return None,
        };
        Some(Self { id: jwk.kid, algorithm: jwk.alg, family, public })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        let family = match algorithm {
            Algorithm::Es256 => Family::P256,
            Algorithm::Es384 => Family::P384,
            Algorithm::EdDsa => Family::Ed25519,
            _ => Family::Rsa,
        };
        let same =
            |name: &String| name == algorithm.as_str() || (name == "Ed25519" && family == Family::Ed25519);
        family == self.family && self.algorithm.as_ref().is_none_or(same)
    }
}
