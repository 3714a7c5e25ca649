//! An issuer of the tests, whose keys and answers they choose, and tokens signed as they please.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as PublicHalf, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use berth_auth::{Algorithm, Calls, Issuer, Issuers, IssuersSettings, KeySource, KeysFrom, Proven, Refused};
use serde_json::{Value, json};

/// 2026-11-26T22:40:00Z, in seconds.
pub const NOW: i64 = 1_795_732_800;
pub const AUDIENCE: &str = "registry.test";

pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A key to sign with.
pub enum Key {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    pub fn rsa() -> Self {
        Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn p384() -> Self {
        Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    /// The public half, as a JWKS has it.
    pub fn jwk(&self, id: &str) -> Value {
        let half = |key: &EcdsaKeyPair, part: usize| {
            let point = &key.public_key().as_ref()[1..];
            let size = point.len() / 2;
            base64(&point[part * size..(part + 1) * size])
        };
        match self {
            Self::Rsa(key) => {
                let public = key.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                json!({"kty": "RSA", "kid": id, "use": "sig", "alg": "RS256",
                    "n": base64(n.big_endian_without_leading_zero()),
                    "e": base64(e.big_endian_without_leading_zero())})
            }
            Self::P256(key) => {
                json!({"kty": "EC", "crv": "P-256", "kid": id, "x": half(key, 0), "y": half(key, 1)})
            }
            Self::P384(key) => {
                json!({"kty": "EC", "crv": "P-384", "kid": id, "x": half(key, 0), "y": half(key, 1)})
            }
            Self::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": base64(key.public_key().as_ref())})
            }
        }
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::P384(_) => "ES384",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    pub fn signature(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let how = if algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                key.sign(how, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(key) | Self::P384(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with a header of one's own.
    pub fn sign_as(&self, header: &Value, claims: &str) -> String {
        let algorithm = header["alg"].as_str().unwrap_or_default();
        let message = format!("{}.{}", base64(header.to_string()), base64(claims));
        format!("{message}.{}", base64(self.signature(algorithm, message.as_bytes())))
    }

    pub fn sign(&self, id: &str, claims: &Value) -> String {
        self.sign_as(&json!({"alg": self.algorithm(), "kid": id, "typ": "JWT"}), &claims.to_string())
    }
}

/// What an issuer answers, and what it was asked.
#[derive(Default)]
pub struct Inside {
    pub keys: BTreeMap<String, Value>,
    /// Answers for paths, instead of the honest ones: status, location, body.
    pub answers: BTreeMap<String, (u16, String, String)>,
    /// Path and `Authorization` of each request.
    pub asked: Vec<(String, Option<String>)>,
    pub bodies: Vec<String>,
    /// The bearer without which nothing is answered.
    pub bearer: Option<String>,
    pub down: bool,
    pub delay: Duration,
    /// The `issuer` and `jwks_uri` of the discovery document, where they are not the honest ones.
    pub issuer: Option<String>,
    pub jwks_uri: Option<String>,
}

pub struct TestIssuer {
    pub url: String,
    pub inside: Arc<Mutex<Inside>>,
}

impl TestIssuer {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inside: Arc<Mutex<Inside>> = Arc::default();
        let state = (url.clone(), inside.clone());
        let router = Router::new().fallback(answer).with_state(state);
        std::thread::spawn(move || {
            // A runtime of its own: it answers while a test holds its own.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener.into_std().unwrap()).unwrap();
                axum::serve(listener, router).await.unwrap();
            });
        });
        Self { url, inside }
    }

    /// An issuer with one key, `k1`.
    pub async fn with(key: &Key) -> Self {
        let issuer = Self::start().await;
        issuer.publish("k1", key);
        issuer
    }

    pub fn change(&self, change: impl FnOnce(&mut Inside)) {
        change(&mut self.inside.lock().unwrap());
    }

    pub fn publish(&self, id: &str, key: &Key) {
        self.change(|inside| {
            inside.keys.insert(id.into(), key.jwk(id));
        });
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.inside.lock().unwrap().asked.iter().filter(|(asked, _)| asked == path).count()
    }

    pub fn settings(&self) -> Issuer {
        issuer_settings("ci", &self.url)
    }

    pub fn issuers(&self) -> Issuers {
        issuers(vec![self.settings()])
    }

    /// Claims of a good token, which a test spoils.
    pub fn claims(&self) -> Value {
        json!({"iss": self.url, "aud": AUDIENCE, "sub": "repo:acme/app:ref:refs/heads/main",
            "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 300})
    }

    pub fn with_claim(&self, name: &str, value: impl Into<Value>) -> Value {
        let mut claims = self.claims();
        claims[name] = value.into();
        claims
    }
}

async fn answer(State((url, inside)): State<(String, Arc<Mutex<Inside>>)>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let header = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let delay = inside.lock().unwrap().delay;
    tokio::time::sleep(delay).await;
    let mut inside = inside.lock().unwrap();
    inside.asked.push((path.clone(), header.clone()));
    inside.bodies.push(String::from_utf8_lossy(&body).into_owned());
    if inside.down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if let Some(bearer) = &inside.bearer
        && header.as_deref() != Some(&format!("Bearer {bearer}"))
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if let Some((status, location, body)) = inside.answers.get(&path) {
        let status = StatusCode::from_u16(*status).unwrap();
        let location = (!location.is_empty()).then(|| ("location", location.clone()));
        return match location {
            Some(location) => (status, [location], body.clone()).into_response(),
            None => (status, body.clone()).into_response(),
        };
    }
    let document = match path.as_str() {
        "/.well-known/openid-configuration" => json!({
            "issuer": inside.issuer.clone().unwrap_or_else(|| url.clone()),
            "jwks_uri": inside.jwks_uri.clone().unwrap_or_else(|| format!("{url}/keys")),
        }),
        "/keys" | "/openid/v1/jwks" => json!({"keys": inside.keys.values().collect::<Vec<_>>()}),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    document.to_string().into_response()
}

pub fn issuer_settings(name: &str, url: &str) -> Issuer {
    Issuer {
        name: name.into(),
        issuer: url.into(),
        audiences: vec![AUDIENCE.into()],
        algorithms: Algorithm::DEFAULT.into(),
        keys: KeySource::default(),
        claims: BTreeMap::new(),
        attributes: BTreeMap::new(),
        groups_claim: None,
        subject_claim: "sub".into(),
        session_ttl: None,
    }
}

pub fn calls() -> Calls {
    Calls { timeout: Duration::from_secs(20), proxy: false, ..Calls::default() }
}

pub fn issuers(issuers: Vec<Issuer>) -> Issuers {
    Issuers::new(IssuersSettings { issuers, ..IssuersSettings::default() }, &calls()).unwrap()
}

pub fn from_url(url: &str) -> KeySource {
    KeySource { from: KeysFrom::Url(url.parse().unwrap()), ..KeySource::default() }
}

pub async fn verify(issuers: &Issuers, token: &str) -> Result<Proven, Refused> {
    issuers.verify(token, NOW * 1000).await
}

pub async fn refused(issuers: &Issuers, token: &str) -> Refused {
    verify(issuers, token).await.expect_err("it must be refused")
}
