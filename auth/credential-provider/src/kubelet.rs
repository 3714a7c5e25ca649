//! What the kubelet and a provider say to each other: `credentialprovider.kubelet.k8s.io/v1`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version that is spoken here, which the answer has to repeat.
pub const API_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// A `CredentialProviderRequest`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    pub image: String,
    #[serde(default)]
    pub service_account_token: String,
    // The kubelet writes null where there are none.
    #[serde(default)]
    pub service_account_annotations: Option<BTreeMap<String, String>>,
}

/// A `CredentialProviderResponse`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    kind: &'static str,
    api_version: &'static str,
    cache_key_type: &'static str,
    pub cache_duration: String,
    pub auth: BTreeMap<String, Credential>,
}

/// A user name and a password.
#[derive(Serialize)]
pub struct Credential {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential")
    }
}

/// A request that cannot be answered. What it says never quotes the request, which holds a token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no request on standard input; it is the kubelet that starts this program, see --help")]
    Empty,
    #[error("the request is no CredentialProviderRequest: it is no JSON, or a field has the wrong type")]
    Shape,
    #[error("the request is of kind {0:?}, and CredentialProviderRequest is what can be answered")]
    Kind(String),
    #[error("the request is of version {0:?}, and {version} is what can be answered: set apiVersion in the CredentialProviderConfig", version = API_VERSION)]
    Version(String),
    #[error("the request names no image")]
    NoImage,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
}

impl Request {
    /// Reads a request.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.trim_ascii().is_empty() {
            return Err(Error::Empty);
        }
        // The version first: what the fields of another one mean is not known.
        let meta: Meta = serde_json::from_slice(bytes).map_err(|_| Error::Shape)?;
        if meta.api_version != API_VERSION {
            return Err(Error::Version(meta.api_version.chars().take(100).collect()));
        }
        if meta.kind != "CredentialProviderRequest" {
            return Err(Error::Kind(meta.kind.chars().take(100).collect()));
        }
        let request: Self = serde_json::from_slice(bytes).map_err(|_| Error::Shape)?;
        if request.image.is_empty() { Err(Error::NoImage) } else { Ok(request) }
    }
}

impl Response {
    /// An answer for every image of the registry that is good for `seconds`; 0 keeps the kubelet from keeping
    /// it.
    pub fn new(seconds: u64) -> Self {
        Self {
            kind: "CredentialProviderResponse",
            api_version: API_VERSION,
            cache_key_type: "Registry",
            cache_duration: format!("{seconds}s"),
            auth: BTreeMap::new(),
        }
    }
}
