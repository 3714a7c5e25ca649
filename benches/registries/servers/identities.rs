//! Who may ask a Berth that is not open to everybody: a robot that fills it, a person with a password, and
//! the service accounts of a cluster whose keys are in a file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What the registry is called in tokens.
pub const AUDIENCE: &str = "registry.test";
/// The robot that may do everything.
const ADMIN: &str = "filler";
const CLUSTER: &str = "https://cluster.test";
const KEY_ID: &str = "bench";
const PERSON: &str = "alice";
const PASSWORD: &str = "correct horse battery staple";
const TOKEN_SECONDS: u64 = 6 * 3600;

/// The identities that a configuration file names, and what proves them.
pub struct Identities {
    /// The configuration file.
    pub config: PathBuf,
    key: EcdsaKeyPair,
}

impl Identities {
    /// Makes them, and writes the configuration into a folder.
    pub fn write(folder: &Path) -> Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok().context("no key")?;
        let point = &key.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let keys = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": KEY_ID, "x": x, "y": y }] });
        let keys_file = folder.join("keys.json");
        fs::write(&keys_file, keys.to_string())?;

        let password_hash = berth_auth::users::hash(PASSWORD)?;
        let robot_hash = hex::encode(Sha256::digest(robot_key().as_bytes()));
        let rule = |name: &str, actions: &str| {
            format!(
                "[[auth.rule]]\nname = \"{name}\"\nidentities = [\"{name}\"]\nrepositories = [\"**\"]\n\
                 actions = [\"{actions}\"]\n"
            )
        };
        let config = format!(
            "[auth]\nservice = \"{AUDIENCE}\"\ntoken_ttl = \"1h\"\n\
             [[auth.user]]\nname = \"{PERSON}\"\npassword_hash = \"{password_hash}\"\n\
             [[auth.robot]]\nname = \"{ADMIN}\"\nsecrets = [{{ hash = \"sha256:{robot_hash}\" }}]\n\
             [[auth.cluster]]\nname = \"prod\"\nissuer = \"{CLUSTER}\"\naudience = \"{AUDIENCE}\"\n\
             jwks_file = \"{}\"\n{}{}{}",
            keys_file.canonicalize()?.display(),
            rule(&format!("robot:{ADMIN}"), "*"),
            rule(&format!("user:{PERSON}"), "pull"),
            rule("serviceaccount:prod/*/*", "pull"),
        );
        let file = folder.join("berth.toml");
        fs::write(&file, config)?;
        Ok(Self { config: file.canonicalize()?, key })
    }

    /// The `Authorization` of the robot that may do everything.
    pub fn robot() -> String {
        basic(ADMIN, &robot_key())
    }

    /// The `Authorization` of the person who may pull.
    pub fn person() -> String {
        basic(PERSON, PASSWORD)
    }

    /// A token of a service account, as a kubelet has it.
    pub fn service_account(&self, number: usize) -> Result<String> {
        let now = jsonwebtoken::get_current_timestamp();
        let (namespace, account) = (format!("team-{}", number % 16), format!("app-{number}"));
        let claims = json!({
            "iss": CLUSTER,
            "aud": [AUDIENCE],
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "iat": now, "nbf": now, "exp": now + TOKEN_SECONDS,
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": { "name": account, "uid": format!("00000000-0000-0000-0000-{number:012}") },
            },
        });
        self.sign(&claims)
    }

    fn sign(&self, claims: &Value) -> Result<String> {
        let header = json!({ "alg": "ES256", "kid": KEY_ID, "typ": "JWT" });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature =
            self.key.sign(&SystemRandom::new(), message.as_bytes()).ok().context("no signature")?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn robot_key() -> String {
    format!("berth_robot_{}", URL_SAFE_NO_PAD.encode(Sha256::digest(ADMIN.as_bytes())))
}

fn basic(user: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{secret}")))
}
