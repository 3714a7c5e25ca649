//! What is said about the issuers: whom to believe, for what, and where their keys are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use url::{Host, Url};

/// Everything that is trusted to vouch for somebody with a JWT.
#[derive(Debug, Clone, Default)]
pub struct IssuersSettings {
    /// Kubernetes clusters.
    pub clusters: Vec<Cluster>,
    /// Any other OIDC issuer.
    pub issuers: Vec<Issuer>,
}

/// An OIDC issuer.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// What it is called here; the first part of the names of its identities.
    pub name: String,
    /// The `iss` of its tokens, to the letter.
    pub issuer: String,
    /// One of them must be in the `aud` of a token, to the letter.
    pub audiences: Vec<String>,
    /// The algorithms its tokens may be signed with.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are.
    pub keys: KeySource,
    /// Claims a token must have, and what they may be: exactly, or by their beginning where it ends in `*`.
    pub claims: BTreeMap<String, Vec<String>>,
    /// What becomes an attribute of the identity: the first of the claims that is there.
    pub attributes: BTreeMap<String, Vec<String>>,
    /// The claim with the groups: a text or a list of texts.
    pub groups_claim: Option<String>,
    /// The claim that names the identity.
    pub subject_claim: String,
    /// How long a session that began with one of its tokens may last; as long as the token itself unless set.
    pub session_ttl: Option<Duration>,
}

/// A Kubernetes cluster, whose service accounts are identities.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// What it is called here; the first part of the names of its identities.
    pub name: String,
    /// The `iss` of its tokens, to the letter. Clusters may have the same: their keys tell them apart.
    pub issuer: String,
    /// One of them must be in the `aud` of a token, to the letter.
    pub audiences: Vec<String>,
    /// The algorithms its tokens may be signed with.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are.
    pub keys: KeySource,
    /// Where each token is shown to the cluster, which knows whether its pod still lives.
    pub token_review: Option<TokenReview>,
    /// How long a session that began with one of its tokens may last; as long as the token itself unless set.
    pub session_ttl: Option<Duration>,
}

/// How to ask a cluster about a token.
#[derive(Debug, Clone)]
pub struct TokenReview {
    /// The address of its API server.
    pub api: Url,
    /// The CA of the API server; the system's unless set.
    pub ca_file: Option<PathBuf>,
    /// A file with a token that may create `tokenreviews` there.
    pub bearer_token_file: PathBuf,
}

/// Where keys are.
#[derive(Debug, Clone)]
pub struct KeySource {
    /// How they are found.
    pub from: KeysFrom,
    /// The only CAs that vouch for that server; the system's unless set. Read again when it changes.
    pub ca_file: Option<PathBuf>,
    /// A file with a token that opens the address. It is sent to the configured origin and to no other, and
    /// read again each time.
    pub bearer_token_file: Option<PathBuf>,
    /// Whether addresses may be `http` on other hosts than this.
    pub allow_http: bool,
}

/// How keys are found.
#[derive(Debug, Clone)]
pub enum KeysFrom {
    /// By the discovery document, `ISSUER/.well-known/openid-configuration` unless it is elsewhere.
    Discovery(Option<Url>),
    /// At this address.
    Url(Url),
    /// In a file, which is read again when it changes.
    File(PathBuf),
}

impl Default for KeySource {
    fn default() -> Self {
        Self { from: KeysFrom::Discovery(None), ca_file: None, bearer_token_file: None, allow_http: false }
    }
}

/// How Berth calls issuers.
#[derive(Debug, Clone)]
pub struct Calls {
    /// How long one call may take.
    pub timeout: Duration,
    /// Whether the proxy that `HTTPS_PROXY` and its like name is used.
    pub proxy: bool,
    /// Where calls that outlive a request are counted, so that shutdown can wait for them.
    pub tasks: TaskTracker,
}

impl Default for Calls {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), proxy: true, tasks: TaskTracker::new() }
    }
}

/// A way to sign a token with a key of which only the public half is known here. There is no HMAC among
/// them, and no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSA PKCS #1 with SHA-256.
    Rs256,
    /// RSA PKCS #1 with SHA-384.
    Rs384,
    /// RSA PKCS #1 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA over P-256.
    Es256,
    /// ECDSA over P-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];
    /// Those allowed unless others are named.
    pub const DEFAULT: [Self; 2] = [Self::Rs256, Self::Es256];

    /// Its name in the header of a token (RFC 7518, 3.1 and RFC 8037).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    pub(super) fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Rs384 => jsonwebtoken::Algorithm::RS384,
            Self::Rs512 => jsonwebtoken::Algorithm::RS512,
            Self::Ps256 => jsonwebtoken::Algorithm::PS256,
            Self::Ps384 => jsonwebtoken::Algorithm::PS384,
            Self::Ps512 => jsonwebtoken::Algorithm::PS512,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Es384 => jsonwebtoken::Algorithm::ES384,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An algorithm tokens of an issuer cannot be signed with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no algorithm for the tokens of an issuer; there are RS256, RS384, RS512, PS256, PS384, PS512, \
     ES256, ES384 and EdDSA"
)]
pub struct UnknownAlgorithm(pub String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name);
        found.ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}

/// Settings that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Names are words that can stand in a path.
    #[error("{0:?} is no name: take lower-case letters, digits, '.', '_' and '-', at most 63")]
    Name(String),
    /// Two have the same name.
    #[error("two issuers or clusters are called {0}")]
    SameName(String),
    /// Two have the same `iss` and are not both clusters.
    #[error("{0} and {1} have the same issuer; only clusters can, which their keys tell apart")]
    SameIssuer(String, String),
    /// Something that must be there is not.
    #[error("{name} needs {what}")]
    Missing {
        /// Whose setting.
        name: String,
        /// What is missing.
        what: &'static str,
    },
    /// An address that cannot be used.
    #[error("{name}: {url} cannot be used: {reason}")]
    Url {
        /// Whose setting.
        name: String,
        /// The address.
        url: String,
        /// Why not.
        reason: &'static str,
    },
}

const NAME_LIMIT: usize = 63;

/// Whether a text can be the name of an issuer, a cluster or a certificate authority.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    !text.is_empty()
        && text.len() <= NAME_LIMIT
        && text.bytes().all(allowed)
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// Whether an address may be called: nobody on the way may change the keys.
pub(super) fn callable(url: &Url, allow_http: bool) -> Result<(), &'static str> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not hold a user name or a password");
    }
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err("it has no host"),
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if loopback || allow_http => Ok(()),
        "http" => Err("it is http, so anyone on the way could change the keys; see allow_http"),
        _ => Err("it is neither https nor http"),
    }
}

pub(super) fn url(name: &str, text: &str, allow_http: bool) -> Result<Url, SettingsError> {
    let refuse = |reason| SettingsError::Url { name: name.to_owned(), url: text.to_owned(), reason };
    let url = Url::parse(text).map_err(|_| refuse("it is no URL"))?;
    callable(&url, allow_http).map_err(refuse)?;
    Ok(url)
}
