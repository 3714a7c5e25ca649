//! What is given: access tokens for some repositories, and refresh tokens to get more of them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_auth::{AccessToken, Permissions, Scope};
use sha2::{Digest as _, Sha256};

use super::{Login, Origin, Proof, Refused, Tokens};
use crate::clock::millis;
use crate::db::refresh_tokens;

/// What a refresh token begins with.
pub(super) const REFRESH_PREFIX: &str = "berth_refresh_";
/// Answers never say less: clients take it for at least that, and clocks are given as much.
const SHORTEST: Duration = Duration::from_mins(1);

/// An access token that was given.
#[derive(Clone)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// What it is good for, which may be less than was asked for.
    pub scope: Scope,
    /// For how long, in seconds.
    pub expires_in: i64,
    /// When it was made, unix seconds.
    pub issued_at: i64,
}

/// A refresh token that was given.
#[derive(Clone)]
pub struct IssuedSession {
    /// The token.
    pub token: String,
    /// What it is called in lists, which is no secret.
    pub id: String,
    /// What it is good for, if not for everything its holder may.
    pub scope: Option<Scope>,
    /// For how long, in seconds.
    pub expires_in: i64,
}

impl Tokens {
    /// An access token for as much of what is asked for as there is a right to.
    pub fn access_token(&self, login: &Login, asked: Scope, origin: &Origin) -> Result<Issued, Refused> {
        let inner = &self.0;
        let now = inner.clock.now();
        self.not_just_revoked(login, now)?;
        let scope = self.grantable(login, asked, origin, now);
        let end = now.saturating_add(millis(inner.settings.access_ttl));
        let end = login.expires_at.map_or(end, |expires_at| end.min(expires_at));
        let token = AccessToken {
            identity: login.identity.clone(),
            scope,
            session: login.session.clone(),
            issued_at: now / 1000,
            expires_at: end / 1000,
            id: random_id(),
        };
        let text = token.sign(&inner.settings.service, &inner.keys.load(), now).ok_or(Refused::NoKey)?;
        let shortest = i64::try_from(SHORTEST.as_secs()).unwrap_or_default();
        let expires_in = (token.expires_at - token.issued_at).max(shortest);
        Ok(Issued { token: text, scope: token.scope, expires_in, issued_at: token.issued_at })
    }

    /// A refresh token, for what is asked for alone if anything is. There is none for nobody, and none that
    /// would outlive what it is made from: a pod that is deleted ends its token where the cluster is asked.
    pub async fn refresh_token(
        &self,
        login: &Login,
        client: &str,
        asked: Option<Scope>,
        origin: &Origin,
    ) -> Result<Option<IssuedSession>, Refused> {
        let inner = &self.0;
        let now = inner.clock.now();
        let short = matches!(login.proof, Proof::Nobody | Proof::Token | Proof::Certificate | Proof::Review);
        if login.session.is_some() || short {
            return Ok(None);
        }
        self.not_just_revoked(login, now)?;
        let end = match (login.session_ttl.filter(|_| asked.is_none()), login.expires_at) {
            // What is handed on does not outlive what it was made from, whatever a session may.
            (Some(ttl), _) => now.saturating_add(millis(ttl)),
            (None, Some(expires_at)) => expires_at,
            (None, None) => now.saturating_add(millis(inner.settings.refresh_ttl)),
        };
        let scope = match asked {
            Some(asked) => Some(self.grantable(login, asked, origin, now)),
            None => login.within.clone(),
        };
        let (token, id) =
            (format!("{REFRESH_PREFIX}{}", URL_SAFE_NO_PAD.encode(random_bytes::<32>())), random_id());
        let row = refresh_tokens::RefreshToken {
            id: id.clone(),
            hash: hash(&token).to_vec(),
            subject: login.identity.subject(),
            identity: serde_json::to_string(&login.identity).unwrap_or_default(),
            scope: scope.as_ref().map(ToString::to_string),
            proof: login.proof.to_string(),
            client: client.chars().filter(|c| !c.is_control()).take(100).collect(),
            created_at: now,
            expires_at: end,
            used_at: now,
        };
        let mut tx = inner.db.begin().await?;
        refresh_tokens::insert(&mut tx, &row).await?;
        tx.commit().await?;
        Ok(Some(IssuedSession { token, id, scope, expires_in: (end - now) / 1000 }))
    }

    /// As much of what is asked for as there is a right to.
    fn grantable(&self, login: &Login, asked: Scope, origin: &Origin, now: i64) -> Scope {
        let (book, within) = (self.book(), login.within.as_ref());
        let caller = login.caller(origin, now);
        let known = !login.identity.is_anonymous();
        let catalog = known && within.is_none_or(Scope::has_catalog);
        // Of all repositories at once no rule speaks: the policy is asked about each when it is pulled from.
        let every = if known { within.map_or(Permissions::ALL, Scope::every) } else { Permissions::NONE };
        asked.restrict(catalog, every, |name| {
            let within = within.map_or(Permissions::ALL, |within| within.permissions(name));
            book.policy.allowed(&caller.about(name)).intersection(within)
        })
    }

    fn not_just_revoked(&self, login: &Login, now: i64) -> Result<(), Refused> {
        let subject = login.identity.subject();
        match self.0.revoked.load().until(&subject, now) {
            None => Ok(()),
            Some(until) => Err(Refused::Credential(format!(
                "everything {subject} had was revoked a moment ago; log in again in {} s",
                (until - now) / 1000 + 1
            ))),
        }
    }
}

/// A name nobody guesses.
pub(super) fn random_id() -> String {
    hex::encode(random_bytes::<16>())
}

pub(super) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut random = [0; N];
    getrandom::fill(&mut random).expect("the system gives randomness");
    random
}

pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
