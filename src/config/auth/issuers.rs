//! `[[auth.cluster]]`, `[[auth.issuer]]` and `[[auth.certificate]]`: whom others vouch for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_auth::{
    Algorithm, Authority, Calls, CertificatesSettings, Cluster, Issuer, Issuers, IssuersSettings, KeySource,
    KeysFrom, NameFrom, NodeAuthority, Preset, TokenReview,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Auth;
use crate::config::{ConfigError, Span};

/// A text, or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Any number.
    Many(Vec<String>),
}

impl OneOrMany {
    fn to_vec(&self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text.clone()],
            Self::Many(list) => list.clone(),
        }
    }
}

/// A Kubernetes cluster. Its service accounts are the identities `serviceaccount:CLUSTER/NAMESPACE/NAME`, its
/// nodes `node:CLUSTER/NAME`. Keys are read from `jwks_file`, `jwks_url`, `discovery_url` or `api`, the first that
/// is set, or by the discovery document of the issuer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthCluster {
    /// What the cluster is called here: lower-case letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The issuer of its service account tokens (`iss`), to the letter: what the API server's
    /// `--service-account-issuer` says. Clusters may have the same; they are told apart by their keys.
    pub issuer: String,
    /// The audience its tokens must be for, or several of which one is enough. Take the name of this registry, and
    /// never the cluster's own audience.
    #[schemars(with = "String")]
    pub audience: OneOrMany,
    /// The algorithms its tokens may be signed with; RS256 and ES256 unless set. There are also RS384, RS512,
    /// PS256, PS384, PS512, ES384 and `EdDSA`.
    #[serde(default)]
    pub algorithms: Option<Vec<String>>,
    /// The address of its API server, as `https://10.0.0.1:6443`. The keys are then read from `/openid/v1/jwks`
    /// there.
    #[serde(default)]
    pub api: Option<String>,
    /// The address of the discovery document, where it is not `ISSUER/.well-known/openid-configuration`.
    #[serde(default)]
    pub discovery_url: Option<String>,
    /// The address of the keys.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// A file with the keys (a JWKS), which is read again when it changes. Nobody is called then.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// The CA of the API server, PEM, which is then the only one trusted for it. Read again when it changes.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// A file with a token for an API server that shows its keys to nobody else. It is sent to the configured
    /// address and no other, and read again each time.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// Whether addresses may be `http` on other hosts than this one.
    #[serde(default)]
    pub allow_http: bool,
    /// Whether each token is also shown to the API server (`TokenReview`), so that the token of a pod that was deleted
    /// stops working within seconds. Needs `api` (or an issuer that is the API server), and a bearer token that may
    /// create `tokenreviews`. There are no refresh tokens then, only access tokens, which end by `auth.token_ttl`.
    #[serde(default)]
    pub token_review: bool,
    /// A file with that bearer token; `bearer_token_file` unless set.
    #[serde(default)]
    pub token_review_bearer_token_file: Option<PathBuf>,
    /// The CA that signs the client certificates of its kubelets, PEM. Nodes are no identities without it. Needs
    /// `http.tls`: certificates are shown where Berth itself speaks TLS. Read again when it changes.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// How long a session that began with one of its tokens may last, as long as the token itself unless set. With
    /// `token_review` there is none.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub session_ttl: Option<Span>,
}

/// An `OIDC` issuer. Whoever its tokens are about is the identity `oidc:NAME/SUBJECT`. A public issuer vouches for
/// everybody: what its identities may do is for the rules to say, or for `claims`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthIssuer {
    /// What the issuer is called here: lower-case letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// A well-known issuer, whose address, subject and attributes are then set: `github`, `gitlab`, `azure-devops`,
    /// `buildkite` or `entra`. What is said beside it is stronger.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub preset: Option<AuthPreset>,
    /// The issuer of the tokens (`iss`), to the letter.
    #[serde(default)]
    pub issuer: Option<String>,
    /// The audience its tokens must be for, or several of which one is enough. Take the name of this registry.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub audience: Option<OneOrMany>,
    /// The algorithms its tokens may be signed with; RS256 and ES256 unless set. There are also RS384, RS512,
    /// PS256, PS384, PS512, ES384 and `EdDSA`.
    #[serde(default)]
    pub algorithms: Option<Vec<String>>,
    /// The address of the discovery document, where it is not `ISSUER/.well-known/openid-configuration`.
    #[serde(default)]
    pub discovery_url: Option<String>,
    /// The address of the keys, instead of discovery.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// A file with the keys (a JWKS), instead of discovery; it is read again when it changes.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// The CA of the issuer's server, PEM, which is then the only one trusted for it. Read again when it changes.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// A file with a token for a server that shows its keys to nobody else. It is sent to the configured address and
    /// no other, and read again each time.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// Whether addresses may be `http` on other hosts than this one.
    #[serde(default)]
    pub allow_http: bool,
    /// Claims a token must have, as `{ repository_owner = "acme", ref = ["refs/heads/main", "refs/tags/*"] }`: a value
    /// or a list of which one must be it, to the letter or, where it ends in `*`, by its beginning.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub claims: BTreeMap<String, OneOrMany>,
    /// What becomes an attribute of the identity, for rules to use, as `{ project = "project_path" }`: the attribute and
    /// the claim it comes from, or a list of claims of which the first that is there counts. A `.` leads into a claim.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub attributes: BTreeMap<String, OneOrMany>,
    /// The claim that holds the groups, a text or a list.
    #[serde(default)]
    pub groups_claim: Option<String>,
    /// The claim that names the identity; `sub` unless set.
    #[serde(default)]
    pub subject_claim: Option<String>,
    /// How long a session that began with one of its tokens may last, as long as the token itself unless set.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub session_ttl: Option<Span>,
}

/// A well-known issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthPreset {
    /// `GitHub` Actions.
    Github,
    /// `GitLab` CI/CD.
    Gitlab,
    /// Azure Pipelines.
    AzureDevops,
    /// Buildkite.
    Buildkite,
    /// Microsoft Entra ID.
    Entra,
}

/// A CA that vouches for the holders of its client certificates. The holder of one is the identity
/// `certificate:SPIFFE-ID`, or `certificate:NAME/DNS-NAME`. Needs `http.tls`: certificates are shown where Berth
/// itself speaks TLS.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthCertificate {
    /// What the CA is called here: lower-case letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The CA, PEM. Read again when it changes.
    pub ca_file: PathBuf,
    /// Which name in a certificate is the holder's: the `spiffe` id, the `dns` name or the `email` address. There must
    /// be exactly one of the kind.
    #[serde(default)]
    #[schemars(with = "String")]
    pub name_from: AuthNameFrom,
    /// The SPIFFE trust domains this CA speaks for, as `["prod.example.com"]`. Needed where several CAs speak for SPIFFE
    /// ids.
    #[serde(default)]
    pub trust_domains: Vec<String>,
}

/// Which name in a certificate is the holder's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthNameFrom {
    /// The SPIFFE id.
    #[default]
    Spiffe,
    /// The only DNS name.
    Dns,
    /// The only mail address.
    Email,
}

/// Everything that can be seen without asking anybody.
pub(super) fn check(auth: &Auth) -> Result<(), ConfigError> {
    let settings = issuers(auth)?;
    Issuers::new(settings, &Calls::default()).map_err(|error| invalid("auth", &error))?;
    for authority in &auth.certificate {
        if authority.name_from != AuthNameFrom::Spiffe && !authority.trust_domains.is_empty() {
            return Err(invalid(
                &format!("auth.certificate {:?}", authority.name),
                &"trust_domains are for SPIFFE ids (name_from = \"spiffe\")",
            ));
        }
    }
    Ok(())
}

/// What the clusters and issuers come to.
pub fn issuers(auth: &Auth) -> Result<IssuersSettings, ConfigError> {
    let clusters = auth.cluster.iter().map(AuthCluster::settings).collect::<Result<_, _>>()?;
    let issuers = auth.issuer.iter().map(AuthIssuer::settings).collect::<Result<_, _>>()?;
    Ok(IssuersSettings { clusters, issuers })
}

/// What the CAs come to.
pub fn certificates(auth: &Auth) -> CertificatesSettings {
    let nodes = auth.cluster.iter().filter_map(|cluster| {
        let ca_file = cluster.client_ca_file.clone()?;
        Some(NodeAuthority { cluster: cluster.name.clone(), ca_file })
    });
    let authorities = auth.certificate.iter().map(|authority| Authority {
        name: authority.name.clone(),
        ca_file: authority.ca_file.clone(),
        name_from: match authority.name_from {
            AuthNameFrom::Spiffe => NameFrom::Spiffe,
            AuthNameFrom::Dns => NameFrom::Dns,
            AuthNameFrom::Email => NameFrom::Email,
        },
        trust_domains: authority.trust_domains.clone(),
    });
    CertificatesSettings { nodes: nodes.collect(), authorities: authorities.collect() }
}

fn invalid(place: &str, reason: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::Invalid(format!("{place}: {reason}"))
}

fn url(place: &str, name: &str, text: &str) -> Result<Url, ConfigError> {
    text.parse().map_err(|error| invalid(place, &format!("{name} {text:?} is no URL: {error}")))
}

fn algorithms(place: &str, names: Option<&[String]>) -> Result<Vec<Algorithm>, ConfigError> {
    let Some(names) = names else { return Ok(Algorithm::DEFAULT.to_vec()) };
    let parsed = names.iter().map(|name| name.parse::<Algorithm>().map_err(|error| invalid(place, &error)));
    parsed.collect()
}

/// Where keys are, of which only one may be said.
fn keys_from(
    place: &str,
    file: Option<&PathBuf>,
    jwks_url: Option<&String>,
    discovery_url: Option<&String>,
) -> Result<Option<KeysFrom>, ConfigError> {
    match (file, jwks_url, discovery_url) {
        (None, None, None) => Ok(None),
        (Some(file), None, None) => Ok(Some(KeysFrom::File(file.clone()))),
        (None, Some(text), None) => Ok(Some(KeysFrom::Url(url(place, "jwks_url", text)?))),
        (None, None, Some(text)) => Ok(Some(KeysFrom::Discovery(Some(url(place, "discovery_url", text)?)))),
        _ => Err(invalid(place, &"jwks_file, jwks_url and discovery_url exclude each other")),
    }
}

impl AuthCluster {
    fn settings(&self) -> Result<Cluster, ConfigError> {
        let place = format!("auth.cluster {:?}", self.name);
        let api = self.api.as_deref().map(|text| url(&place, "api", text)).transpose()?;
        let said =
            keys_from(&place, self.jwks_file.as_ref(), self.jwks_url.as_ref(), self.discovery_url.as_ref())?;
        let from = match (said, &api) {
            (Some(from), _) => from,
            (None, Some(api)) => {
                let mut keys = api.clone();
                keys.set_path(&format!("{}/openid/v1/jwks", api.path().trim_end_matches('/')));
                KeysFrom::Url(keys)
            }
            (None, None) => KeysFrom::Discovery(None),
        };
        if self.token_review && self.session_ttl.is_some() {
            return Err(invalid(&place, &"with token_review nobody gets a session: leave session_ttl out"));
        }
        let token_review = match (self.token_review, &self.token_review_bearer_token_file) {
            (false, None) => None,
            (false, Some(_)) => {
                return Err(invalid(&place, &"token_review_bearer_token_file needs token_review = true"));
            }
            (true, file) => {
                let file = file.as_ref().or(self.bearer_token_file.as_ref());
                let Some(file) = file else {
                    return Err(invalid(&place, &"token_review needs bearer_token_file"));
                };
                let api = match &api {
                    Some(api) => api.clone(),
                    None => url(&place, "issuer", &self.issuer)?,
                };
                Some(TokenReview { api, ca_file: self.ca_file.clone(), bearer_token_file: file.clone() })
            }
        };
        Ok(Cluster {
            name: self.name.clone(),
            issuer: self.issuer.clone(),
            audiences: self.audience.to_vec(),
            algorithms: algorithms(&place, self.algorithms.as_deref())?,
            keys: KeySource {
                from,
                ca_file: self.ca_file.clone(),
                bearer_token_file: self.bearer_token_file.clone(),
                allow_http: self.allow_http,
            },
            token_review,
            session_ttl: self.session_ttl.map(Span::get),
        })
    }
}

impl AuthIssuer {
    fn settings(&self) -> Result<Issuer, ConfigError> {
        let place = format!("auth.issuer {:?}", self.name);
        let preset = self.preset.map(AuthPreset::known);
        let issuer = self.issuer.clone().or_else(|| preset?.issuer().map(str::to_owned));
        let Some(issuer) = issuer else {
            return Err(invalid(&place, &"issuer must be set: the iss of its tokens"));
        };
        let audiences = match (&self.audience, preset.and_then(Preset::audience)) {
            (Some(audience), _) => audience.to_vec(),
            (None, Some(audience)) => vec![audience.to_owned()],
            (None, None) => {
                return Err(invalid(&place, &"audience must be set: whom its tokens must be made for"));
            }
        };
        let from =
            keys_from(&place, self.jwks_file.as_ref(), self.jwks_url.as_ref(), self.discovery_url.as_ref())?;
        let many = |map: &BTreeMap<String, OneOrMany>| {
            map.iter().map(|(name, values)| (name.clone(), values.to_vec())).collect::<BTreeMap<_, _>>()
        };
        let mut attributes = preset.map(Preset::attributes).unwrap_or_default();
        attributes.extend(many(&self.attributes));
        let groups = preset.and_then(Preset::groups_claim).map(str::to_owned);
        let subject = preset.map_or("sub", Preset::subject_claim);
        Ok(Issuer {
            name: self.name.clone(),
            issuer,
            audiences,
            algorithms: algorithms(&place, self.algorithms.as_deref())?,
            keys: KeySource {
                from: from.unwrap_or(KeysFrom::Discovery(None)),
                ca_file: self.ca_file.clone(),
                bearer_token_file: self.bearer_token_file.clone(),
                allow_http: self.allow_http,
            },
            claims: many(&self.claims),
            attributes,
            groups_claim: self.groups_claim.clone().or(groups),
            subject_claim: self.subject_claim.clone().unwrap_or_else(|| subject.to_owned()),
            session_ttl: self.session_ttl.map(Span::get),
        })
    }
}

impl AuthPreset {
    fn known(self) -> Preset {
        match self {
            Self::Github => Preset::Github,
            Self::Gitlab => Preset::Gitlab,
            Self::AzureDevops => Preset::AzureDevops,
            Self::Buildkite => Preset::Buildkite,
            Self::Entra => Preset::Entra,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Auth, String> {
        let auth: Auth = toml::from_str(text).map_err(|error| error.to_string())?;
        auth.check().map_err(|error| error.to_string())?;
        Ok(auth)
    }

    #[test]
    fn a_preset_needs_little_beside_it() {
        let auth = read(
            "[[issuer]]\nname = \"github\"\npreset = \"github\"\naudience = \"registry.test\"\n\
             claims = { repository_owner = \"acme\" }\nattributes = { ref = \"head_ref\" }\n",
        )
        .unwrap();
        let settings = issuers(&auth).unwrap().issuers.remove(0);
        assert_eq!(settings.issuer, "https://token.actions.githubusercontent.com");
        assert_eq!(settings.attributes["repository_owner"], ["repository_owner"]);
        assert_eq!(settings.attributes["ref"], ["head_ref"]);
        assert_eq!(settings.claims["repository_owner"], ["acme"]);
        let auth = read(
            "[[issuer]]\nname = \"entra\"\npreset = \"entra\"\naudience = [\"api://registry\"]\n\
             issuer = \"https://login.microsoftonline.com/00000000-0000-0000-0000-00000000000f/v2.0\"\n",
        )
        .unwrap();
        assert_eq!(issuers(&auth).unwrap().issuers[0].subject_claim, "oid");
    }

    #[test]
    fn a_cluster_is_found_by_its_api_server() {
        let auth = read(
            "[[cluster]]\nname = \"east\"\nissuer = \"https://kubernetes.default.svc\"\naudience = \"registry.test\"\n\
             api = \"https://10.0.0.1:6443/\"\nbearer_token_file = \"/run/token\"\ntoken_review = true\n\
             client_ca_file = \"/run/ca.crt\"\n",
        )
        .unwrap();
        let cluster = issuers(&auth).unwrap().clusters.remove(0);
        let KeysFrom::Url(keys) = cluster.keys.from else { panic!("{:?}", cluster.keys.from) };
        assert_eq!(keys.as_str(), "https://10.0.0.1:6443/openid/v1/jwks");
        let review = cluster.token_review.unwrap();
        assert_eq!(review.api.as_str(), "https://10.0.0.1:6443/");
        assert_eq!(review.bearer_token_file, PathBuf::from("/run/token"));
        assert_eq!(certificates(&auth).nodes[0].cluster, "east");
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let cluster =
            "[[cluster]]\nname = \"east\"\nissuer = \"https://kubernetes.default.svc\"\naudience = \"a\"\n";
        let issuer = "[[issuer]]\nname = \"ci\"\nissuer = \"https://ci.test\"\naudience = \"a\"\n";
        for (text, words) in [
            (format!("{cluster}token_review = true\n"), "bearer_token_file"),
            (format!("{cluster}token_review = true\nsession_ttl = \"1h\"\n"), "leave session_ttl out"),
            (format!("{cluster}api = \"10.0.0.1\"\n"), "no URL"),
            (format!("{cluster}api = \"http://10.0.0.1\"\n"), "allow_http"),
            (format!("{cluster}jwks_file = \"a\"\njwks_url = \"https://b\"\n"), "exclude"),
            (format!("{cluster}algorithms = [\"HS256\"]\n"), "HS256"),
            (format!("{cluster}algorithms = []\n"), "algorithm"),
            (format!("{cluster}{}", cluster.replace("east", "EAST")), "EAST"),
            (format!("{cluster}{cluster}"), "two issuers or clusters are called east"),
            (issuer.replace("audience = \"a\"\n", ""), "audience must be set"),
            (issuer.replace("issuer = \"https://ci.test\"\n", ""), "issuer must be set"),
            (issuer.replace("\"a\"", "[]"), "audience"),
            (format!("{issuer}preset = \"circleci\"\n"), "circleci"),
            (format!("{issuer}sub = \"x\"\n"), "sub"),
            (
                "[[certificate]]\nname = \"a\"\nca_file = \"b\"\nname_from = \"dns\"\ntrust_domains = [\"c\"]\n".into(),
                "trust_domains",
            ),
        ] {
            let error = read(&text).expect_err(&text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
