//! `[auth]`: who is who, and who may do what.

mod issuers;

use std::path::{Path, PathBuf};

use berth_auth::Rule;
use berth_auth::book::{Book, Chapter, Entries};
use berth_auth::robots::Robot;
use berth_auth::users::User;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::issuers::{
    AuthCertificate, AuthCluster, AuthIssuer, AuthNameFrom, AuthPreset, OneOrMany, certificates, issuers,
};
use super::{ConfigError, Span};

/// Who is who, and who may do what. As long as there is no rule, user, robot, cluster, issuer, certificate or
/// policy folder, everybody may do everything, and Berth listens on loopback only.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// What this registry is called in tokens, as its host name. Tokens for another name are refused, so two
    /// registries that trust the same clusters need two.
    pub service: String,
    /// The address by which clients know this registry, as `https://registry.example.com`. It is where they
    /// are sent for tokens; if not set, the address by which they came, where `http.trusted_proxies` are
    /// believed on it.
    pub public_url: Option<String>,
    /// How long an access token is good, from 1m to 1h. Clients get a new one by themselves.
    pub token_ttl: Span,
    /// How long a refresh token is good (what `docker login` keeps), where the credential it was made from
    /// sets no end of its own.
    pub refresh_ttl: Span,
    /// How long after its end an access token still serves the upload that was begun with it, so that a large
    /// layer on a slow line arrives.
    pub upload_grace: Span,
    /// How long a signing key is used before the next one, at least 1m. Nobody needs to do anything.
    pub key_period: Span,
    /// Where people log in with `berth login`, if they do so with an `OpenID` provider.
    pub login: Option<Login>,
    /// A folder with more of `[[rule]]`, `[[user]]` and `[[robot]]`, in files called `*.toml`, such as a
    /// mounted `ConfigMap`. What changes there is in force within seconds; what is bad there is not taken.
    pub policy_folder: Option<PathBuf>,
    /// What each identity may do. What no rule allows is refused. A change of rules, users and robots in the
    /// configuration's file is in force within seconds; if the file is bad, what was in force stays.
    pub rule: Vec<Rule>,
    /// People with a password here.
    pub user: Vec<User>,
    /// Programs with a key of Berth's own.
    pub robot: Vec<Robot>,
    /// Kubernetes clusters, whose service accounts and nodes are identities.
    pub cluster: Vec<AuthCluster>,
    /// OIDC issuers, whose tokens prove an identity: CI jobs, people.
    pub issuer: Vec<AuthIssuer>,
    /// CAs whose client certificates prove an identity.
    pub certificate: Vec<AuthCertificate>,
    /// Rules, users and robots with their places in the file.
    #[serde(skip)]
    chapter: Chapter,
}

/// An `OpenID` provider for people. It is one of the `auth.issuer` too, which says what its tokens mean.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Its address, as it stands in `iss`.
    pub issuer: String,
    /// The client id of a public client that may use the device flow.
    pub client_id: String,
    /// The scopes to ask for.
    #[serde(default = "default_scopes")]
    pub scopes: String,
    /// The audience to ask for, where the provider wants one.
    #[serde(default)]
    pub audience: Option<String>,
}

fn default_scopes() -> String {
    "openid profile".to_owned()
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            service: "berth".to_owned(),
            public_url: None,
            token_ttl: Span::seconds(5 * 60),
            refresh_ttl: Span::seconds(30 * 24 * 3600),
            upload_grace: Span::seconds(6 * 3600),
            key_period: Span::seconds(30 * 24 * 3600),
            login: None,
            policy_folder: None,
            rule: Vec::new(),
            user: Vec::new(),
            robot: Vec::new(),
            cluster: Vec::new(),
            issuer: Vec::new(),
            certificate: Vec::new(),
            chapter: Chapter::default(),
        }
    }
}

impl Auth {
    /// Notes where in the configuration file the entries stand, and checks them.
    pub(super) fn bind(&mut self, file: Option<&Path>, text: &str) -> Result<(), ConfigError> {
        let entries =
            Entries { rules: self.rule.clone(), users: self.user.clone(), robots: self.robot.clone() };
        self.chapter = Chapter::of_configuration(file.map(Path::to_owned), text, entries);
        Book::of(std::slice::from_ref(&self.chapter))?;
        Ok(())
    }

    /// The entries of the configuration itself.
    pub fn chapter(&self) -> &Chapter {
        &self.chapter
    }

    /// Whether nothing says who may do what: such a registry is open to all who reach it.
    pub fn is_empty(&self) -> bool {
        let book = self.rule.is_empty() && self.user.is_empty() && self.robot.is_empty();
        let trust = self.cluster.is_empty() && self.issuer.is_empty() && self.certificate.is_empty();
        self.policy_folder.is_none() && book && trust
    }

    /// The setting of a CA whose client certificates are taken, if there is one.
    pub(super) fn takes_certificates(&self) -> Option<&'static str> {
        if self.cluster.iter().any(|cluster| cluster.client_ca_file.is_some()) {
            return Some("auth.cluster.client_ca_file");
        }
        (!self.certificate.is_empty()).then_some("auth.certificate")
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let service_ok = !self.service.is_empty()
            && self.service.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        let url_ok = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        let (token, refresh) = (self.token_ttl.get().as_secs(), self.refresh_ttl.get().as_secs());
        let rules = [
            (service_ok, "auth.service is a name without spaces and quotes, as registry.example.com"),
            (self.public_url.as_ref().is_none_or(url_ok), "auth.public_url begins with http:// or https://"),
            ((60..=3600).contains(&token), "auth.token_ttl must be between 1m and 1h"),
            (refresh >= token, "auth.refresh_ttl must not be shorter than auth.token_ttl"),
            (self.key_period.get().as_secs() >= 60, "auth.key_period must be at least 1m"),
            (
                self.login.as_ref().is_none_or(|login| url_ok(&login.issuer)),
                "auth.login.issuer begins with http:// or https://",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, text)) => Err(ConfigError::Invalid(text.into())),
            None => issuers::check(self),
        }
    }
}
