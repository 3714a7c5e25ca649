//! Service accounts of Kubernetes clusters.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::error::{Refused, shown};
use super::fetch::{self, Caller};
use super::settings::{Calls, TokenReview};
use super::token::{Claims, unfit};
use crate::{Identity, Kind};

const SUBJECT: &str = "system:serviceaccount:";

/// The service account a token of a cluster is about.
pub(super) fn identity(cluster: &str, claims: &Claims) -> Result<Identity, Refused> {
    let wrong = |claim: &str, reason: &str| Refused::Claim {
        issuer: cluster.to_owned(),
        claim: claim.to_owned(),
        reason: reason.to_owned(),
    };
    let subject = claims.text("sub").ok_or_else(|| wrong("sub", "it is not there"))?;
    let account = subject.strip_prefix(SUBJECT).and_then(|rest| rest.split_once(':'));
    let Some((namespace, name)) = account.filter(|(namespace, name)| is_label(namespace) && is_name(name))
    else {
        return Err(wrong("sub", "it is no service account, system:serviceaccount:NAMESPACE:NAME"));
    };
    // The claims of newer clusters say it again; a token that contradicts itself is no good.
    for (claim, said) in [("kubernetes.io.namespace", namespace), ("kubernetes.io.serviceaccount.name", name)]
    {
        if claims.at(claim).is_some_and(|value| value.as_str() != Some(said)) {
            return Err(wrong(claim, "it is another than in sub"));
        }
    }
    let mut identity = Identity::new(Kind::ServiceAccount, format!("{cluster}/{namespace}/{name}"))
        .with("cluster", cluster)
        .with("namespace", namespace)
        .with("serviceaccount", name);
    let bound = [
        ("pod", "kubernetes.io.pod.name"),
        ("pod_uid", "kubernetes.io.pod.uid"),
        ("node", "kubernetes.io.node.name"),
    ];
    for (attribute, claim) in bound {
        if let Some(value) = claims.text(claim) {
            if let Some(reason) = unfit(&value) {
                return Err(wrong(claim, reason));
            }
            identity = identity.with(attribute, value);
        }
    }
    Ok(identity)
}

/// A DNS label (RFC 1123), as namespaces are.
fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_name(text) && !text.contains('.')
}

/// A DNS subdomain (RFC 1123), as service accounts and nodes are.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(allowed) && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

/// How long an answer of the API server holds, in milliseconds.
const VERDICT: i64 = 5_000;
const VERDICTS: usize = 10_000;

/// Asks a cluster whether it still accepts a token: only it knows that a pod is gone.
pub(super) struct Reviewer {
    cluster: String,
    audiences: Vec<String>,
    settings: TokenReview,
    caller: Caller,
    verdicts: Mutex<HashMap<[u8; 32], Verdict>>,
}

/// What the cluster said, and when.
type Verdict = (i64, Result<(), Refused>);

impl Reviewer {
    pub fn new(cluster: String, audiences: Vec<String>, settings: TokenReview, calls: Calls) -> Self {
        let caller = Caller::new(calls, settings.ca_file.clone());
        Self { cluster, audiences, settings, caller, verdicts: Mutex::default() }
    }

    /// Whether the cluster accepts a token that was verified already, as that subject.
    pub async fn review(&self, token: &str, subject: &str, now: i64) -> Result<(), Refused> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(verdict) = self.known(&hash, now) {
            return verdict;
        }
        let verdict = self.ask(token, subject).await;
        if !matches!(verdict, Err(Refused::Trouble { .. })) {
            let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
            if verdicts.len() >= VERDICTS {
                verdicts.retain(|_, (at, _)| (now - *at).abs() < VERDICT);
            }
            if verdicts.len() < VERDICTS {
                verdicts.insert(hash, (now, verdict.clone()));
            }
        }
        verdict
    }

    fn known(&self, hash: &[u8; 32], now: i64) -> Option<Result<(), Refused>> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, verdict) = verdicts.get(hash)?;
        ((now - at).abs() < VERDICT).then(|| verdict.clone())
    }

    async fn ask(&self, token: &str, subject: &str) -> Result<(), Refused> {
        let trouble = |reason| Refused::Trouble { issuer: self.cluster.clone(), reason };
        let refused = |reason: String| Refused::Review { cluster: self.cluster.clone(), reason };
        let bearer = fetch::bearer(&self.settings.bearer_token_file).await.map_err(trouble)?;
        let answer = self.caller.post(&self.url(), &bearer, self.question(token)).await.map_err(trouble)?;
        let review: Review = serde_json::from_slice(&answer)
            .map_err(|_| trouble("its API server answers something else than a TokenReview".into()))?;
        let status = review.status;
        if !status.authenticated {
            let reason = status.error.unwrap_or_else(|| "it is not authenticated".into());
            return Err(refused(shown(&reason)));
        }
        // A server that does not know audiences says none, and then the token is not for us (TokenReview v1).
        if !status.audiences.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(refused("it does not say that the token is for this registry".into()));
        }
        if status.user.username != subject {
            return Err(refused(format!("it says the token is of {}", shown(&status.user.username))));
        }
        Ok(())
    }

    fn url(&self) -> Url {
        let mut url = self.settings.api.clone();
        let path = format!("{}/apis/authentication.k8s.io/v1/tokenreviews", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    fn question(&self, token: &str) -> String {
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": self.audiences },
        })
        .to_string()
    }
}

#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Status {
    authenticated: bool,
    error: Option<String>,
    audiences: Vec<String>,
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
}
