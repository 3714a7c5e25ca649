//! Those whom others vouch for: CI jobs, people and service accounts that come with a JWT of an issuer trusted
//! here.
//!
//! A token says who made it (`iss`); the entries for that issuer say where its keys are and for what it is
//! trusted. Nothing a token says is believed before one of those keys has signed it, and no key comes from
//! the token itself.

mod error;
mod fetch;
mod json;
mod jwks;
mod keys;
pub(crate) mod kubernetes;
mod presets;
pub(crate) mod settings;
mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;

pub use self::error::Refused;
use self::error::shown;
use self::jwks::Verdict;
use self::keys::Keys;
use self::kubernetes::Reviewer;
pub use self::presets::Preset;
pub use self::settings::{
    Algorithm, Calls, Cluster, Issuer, IssuersSettings, KeySource, KeysFrom, SettingsError, TokenReview,
    UnknownAlgorithm,
};
use self::settings::{callable, is_name, url};
use self::token::{Claims, Token, listed, text, unfit};
use crate::{Identity, Kind};

/// How what comes from outside is written, and what cannot be a name, for certificates too.
pub(crate) mod words {
    pub(crate) use super::error::{moment, shown};
    pub(crate) use super::token::unfit;
}

/// Everyone who is trusted to vouch for somebody.
pub struct Issuers {
    by_issuer: HashMap<String, Vec<Arc<Entry>>>,
}

/// Who a token is about, and how long that may be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Who it is.
    pub identity: Identity,
    /// When the token ends, in unix milliseconds. Since clocks differ a token is taken for a minute longer, so
    /// this may have passed.
    pub expires_at: i64,
    /// How long a session that begins with it may last; until the token ends if nothing is said.
    pub session_ttl: Option<Duration>,
    /// The name here of the issuer or cluster that vouches for it.
    pub issuer: String,
    /// Whether a cluster was asked about the token. What would outlive its answer must not be made of it.
    pub reviewed: bool,
}

/// One issuer or cluster.
struct Entry {
    name: String,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    session_ttl: Option<Duration>,
    keys: Arc<Keys>,
    identities: Identities,
}

/// What the claims of a token become.
enum Identities {
    ServiceAccounts(Option<Box<Reviewer>>),
    Oidc(Box<Issuer>),
}

impl Issuers {
    /// Those of the settings. Nobody is asked yet: Berth starts while an issuer is down.
    pub fn new(settings: IssuersSettings, calls: &Calls) -> Result<Self, SettingsError> {
        let mut names = std::collections::BTreeSet::new();
        let mut by_issuer: HashMap<String, Vec<Arc<Entry>>> = HashMap::new();
        let clusters = settings.clusters.into_iter().map(|cluster| {
            let issuer = cluster.issuer.clone();
            Entry::of_cluster(cluster, calls).map(|entry| (issuer, entry))
        });
        let issuers = settings.issuers.into_iter().map(|issuer| {
            let iss = issuer.issuer.clone();
            Entry::of_issuer(issuer, calls).map(|entry| (iss, entry))
        });
        for entry in clusters.chain(issuers) {
            let (issuer, entry) = entry?;
            if !names.insert(entry.name.clone()) {
                return Err(SettingsError::SameName(entry.name));
            }
            let others = by_issuer.entry(issuer).or_default();
            if let Some(other) = others.iter().find(|other| !(other.is_cluster() && entry.is_cluster())) {
                return Err(SettingsError::SameIssuer(other.name.clone(), entry.name));
            }
            others.push(Arc::new(entry));
        }
        Ok(Self { by_issuer })
    }

    /// Whether there is nobody to believe.
    pub fn is_empty(&self) -> bool {
        self.by_issuer.is_empty()
    }

    /// Whether a session that began with the word of who is called so in the configuration is still good: not
    /// where each token is asked about.
    pub fn vouches_for_sessions(&self, name: &str) -> bool {
        self.by_issuer.values().flatten().any(|entry| entry.name == name && !entry.is_reviewed())
    }

    /// Who a token is about. `now` is in unix milliseconds.
    pub async fn verify(&self, token: &str, now: i64) -> Result<Proven, Refused> {
        let parsed = Token::parse(token)?;
        let issuer = parsed.claims.issuer()?;
        let Some(entries) = self.by_issuer.get(issuer) else {
            return Err(Refused::UnknownIssuer(shown(issuer)));
        };
        // What is over or for others is so whoever signed it, and costs nobody a call.
        let expires_at = parsed.claims.expiry(now)?;
        let mut candidates = Vec::new();
        let mut refused = None;
        for entry in entries {
            match entry.expects(&parsed) {
                Ok(algorithm) => candidates.push((entry, algorithm)),
                Err(reason) => refused = refused.or(Some(reason)),
            }
        }
        if let (true, Some(reason)) = (candidates.is_empty(), refused) {
            return Err(reason);
        }
        let signer = signer(&candidates, &parsed, now).await?;
        let identity = signer.identity(token, &parsed.claims, now).await?;
        let (issuer, reviewed) = (signer.name.clone(), signer.is_reviewed());
        Ok(Proven { identity, expires_at, session_ttl: signer.session_ttl, issuer, reviewed })
    }
}

/// How long the keys of one cluster are waited for before others with the same `iss` are asked for new ones.
const PATIENCE: Duration = Duration::from_secs(2);

/// The one of several with the same `iss` whose key signed a token.
async fn signer<'a>(
    candidates: &[(&'a Arc<Entry>, Algorithm)],
    token: &Token<'_>,
    now: i64,
) -> Result<&'a Entry, Refused> {
    let mut known: FuturesUnordered<_> = candidates
        .iter()
        .map(async |(entry, algorithm)| (*entry, *algorithm, entry.keys.current(now).await))
        .collect();
    let known = async {
        while let Some((entry, algorithm, keys)) = known.next().await {
            if keys.is_ok_and(|keys| keys.verify(token, algorithm) == Verdict::Signed) {
                return Some(entry);
            }
        }
        None
    };
    // Nobody is asked for new keys before all known ones were tried, but one that hangs is not waited for.
    let known = match candidates {
        [_] => known.await,
        _ => tokio::time::timeout(PATIENCE, known).await.ok().flatten(),
    };
    if let Some(entry) = known {
        return Ok(entry);
    }
    let mut looks: FuturesUnordered<_> = candidates
        .iter()
        .map(async |(entry, algorithm)| (*entry, entry.keys.look_again(token, *algorithm, now).await))
        .collect();
    let (mut trouble, mut forged, mut unknown) = (None, None, None);
    while let Some((entry, verdict)) = looks.next().await {
        let issuer = entry.name.clone();
        match verdict {
            Ok(Verdict::Signed) => return Ok(entry),
            Ok(Verdict::Forged) => forged = Some(Refused::Signature(issuer)),
            Ok(Verdict::Unknown) => {
                let key = token.key_id.as_deref().map(shown).unwrap_or_default();
                unknown = Some(Refused::UnknownKey { issuer, key });
            }
            Err(reason) => trouble = Some(Refused::Trouble { issuer, reason: reason.to_string() }),
        }
    }
    let nobody = || Refused::Signature("any issuer".into());
    Err(trouble.or(forged).or(unknown).unwrap_or_else(nobody))
}

impl Entry {
    fn of_cluster(cluster: Cluster, calls: &Calls) -> Result<Self, SettingsError> {
        let name = cluster.name;
        let reviewer = match cluster.token_review {
            Some(review) => {
                callable(&review.api, cluster.keys.allow_http).map_err(|reason| SettingsError::Url {
                    name: name.clone(),
                    url: review.api.to_string(),
                    reason,
                })?;
                Some(Box::new(Reviewer::new(name.clone(), cluster.audiences.clone(), review, calls.clone())))
            }
            None => None,
        };
        let keys = keys(&name, &cluster.issuer, cluster.keys, calls)?;
        Self {
            name,
            audiences: cluster.audiences,
            algorithms: cluster.algorithms,
            session_ttl: cluster.session_ttl,
            keys,
            identities: Identities::ServiceAccounts(reviewer),
        }
        .checked()
    }

    fn of_issuer(issuer: Issuer, calls: &Calls) -> Result<Self, SettingsError> {
        let keys = keys(&issuer.name, &issuer.issuer, issuer.keys.clone(), calls)?;
        Self {
            name: issuer.name.clone(),
            audiences: issuer.audiences.clone(),
            algorithms: issuer.algorithms.clone(),
            session_ttl: issuer.session_ttl,
            keys,
            identities: Identities::Oidc(Box::new(issuer)),
        }
        .checked()
    }

    fn checked(self) -> Result<Self, SettingsError> {
        if !is_name(&self.name) {
            return Err(SettingsError::Name(self.name));
        }
        let missing = |what| Err(SettingsError::Missing { name: self.name.clone(), what });
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            return missing("an audience its tokens must be for");
        }
        if self.algorithms.is_empty() {
            return missing("an algorithm its tokens may be signed with");
        }
        Ok(self)
    }

    fn is_cluster(&self) -> bool {
        matches!(self.identities, Identities::ServiceAccounts(_))
    }

    fn is_reviewed(&self) -> bool {
        matches!(self.identities, Identities::ServiceAccounts(Some(_)))
    }

    /// Whether a token is of the kind this entry takes: the algorithm, and for whom it was made.
    fn expects(&self, token: &Token<'_>) -> Result<Algorithm, Refused> {
        let found = self.algorithms.iter().find(|algorithm| algorithm.as_str() == token.algorithm);
        let Some(algorithm) = found else {
            let allowed: Vec<_> = self.algorithms.iter().map(|algorithm| algorithm.as_str()).collect();
            return Err(Refused::Algorithm {
                issuer: self.name.clone(),
                allowed: allowed.join(" or "),
                found: shown(&token.algorithm),
            });
        };
        let audiences = token.claims.audiences()?;
        if !self.audiences.iter().any(|audience| audiences.contains(&audience.as_str())) {
            return Err(Refused::Audience {
                issuer: self.name.clone(),
                expected: listed(self.audiences.iter().map(String::as_str)),
                found: listed(audiences),
            });
        }
        Ok(*algorithm)
    }

    async fn identity(&self, token: &str, claims: &Claims, now: i64) -> Result<Identity, Refused> {
        match &self.identities {
            Identities::Oidc(issuer) => issuer.identity(claims),
            Identities::ServiceAccounts(reviewer) => {
                let identity = kubernetes::identity(&self.name, claims)?;
                if let Some(reviewer) = reviewer {
                    let subject = claims.text("sub").unwrap_or_default();
                    reviewer.review(token, &subject, now).await?;
                }
                Ok(identity)
            }
        }
    }
}

fn keys(name: &str, issuer: &str, source: KeySource, calls: &Calls) -> Result<Arc<Keys>, SettingsError> {
    if issuer.is_empty() {
        return Err(SettingsError::Missing { name: name.to_owned(), what: "the issuer of its tokens" });
    }
    let refuse = |url: String, reason| SettingsError::Url { name: name.to_owned(), url, reason };
    match &source.from {
        KeysFrom::File(_) => {}
        KeysFrom::Discovery(None) => {
            url(name, issuer, source.allow_http)?;
        }
        KeysFrom::Discovery(Some(url)) | KeysFrom::Url(url) => {
            callable(url, source.allow_http).map_err(|reason| refuse(url.to_string(), reason))?;
        }
    }
    Ok(Keys::new(name.to_owned(), issuer.to_owned(), source, calls.clone()))
}

impl Issuer {
    fn identity(&self, claims: &Claims) -> Result<Identity, Refused> {
        let wrong = |claim: &str, reason: &str| Refused::Claim {
            issuer: self.name.clone(),
            claim: claim.to_owned(),
            reason: reason.to_owned(),
        };
        for (claim, allowed) in &self.claims {
            self.wanted(claim, allowed, claims.at(claim))?;
        }
        let claim = &self.subject_claim;
        let subject = match claims.at(claim) {
            Some(Value::String(subject)) => subject,
            Some(_) => return Err(wrong(claim, "it is no text")),
            None => return Err(wrong(claim, "it is not there")),
        };
        if let Some(reason) = unfit(subject) {
            return Err(wrong(claim, reason));
        }
        let mut identity = Identity::new(Kind::Oidc, format!("{}/{subject}", self.name));
        for (attribute, from) in &self.attributes {
            // Issuers send an empty text where they have nothing to say: no attribute at all.
            let found = from.iter().find_map(|claim| Some((claim, claims.text(claim)?)));
            if let Some((claim, value)) = found.filter(|(_, value)| !value.is_empty()) {
                if let Some(reason) = unfit(&value) {
                    return Err(wrong(claim, reason));
                }
                identity = identity.with(attribute, value);
            }
        }
        identity = identity.with("issuer", &self.name);
        if let Some(claim) = &self.groups_claim {
            identity.groups = groups(claims.at(claim)).map_err(|reason| wrong(claim, reason))?;
        }
        Ok(identity)
    }

    /// Compares a claim with what it may be; of a list one element is enough.
    fn wanted(&self, claim: &str, allowed: &[String], value: Option<&Value>) -> Result<(), Refused> {
        let found: Vec<String> = match value {
            Some(Value::Array(list)) => list.iter().filter_map(text).collect(),
            Some(value) => text(value).into_iter().collect(),
            None => Vec::new(),
        };
        let allows = |pattern: &String, value: &String| match pattern.strip_suffix('*') {
            Some(beginning) => value.starts_with(beginning),
            None => value == pattern,
        };
        if found.iter().any(|value| allowed.iter().any(|pattern| allows(pattern, value))) {
            return Ok(());
        }
        Err(Refused::ClaimValue {
            issuer: self.name.clone(),
            claim: claim.to_owned(),
            expected: listed(allowed.iter().map(String::as_str)),
            found: listed(found.iter().map(String::as_str)),
        })
    }
}

fn groups(value: Option<&Value>) -> Result<Vec<String>, &'static str> {
    let texts = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(group)) => vec![Some(group.clone())],
        Some(Value::Array(list)) => list.iter().map(|group| group.as_str().map(str::to_owned)).collect(),
        Some(_) => return Err("it is no list of texts"),
    };
    let groups: Option<Vec<_>> = texts.into_iter().collect();
    let groups = groups.ok_or("it is no list of texts")?;
    match groups.iter().find_map(|group| unfit(group)) {
        Some(reason) => Err(reason),
        None => Ok(groups),
    }
}
