//! From a credential to who it is.
//!
//! A secret says itself what it is by how it begins, so any user name does, and every kind of credential
//! works wherever a password is asked for: at the token endpoint, and as Basic on every route.

use std::sync::Arc;
use std::time::Duration;

use berth_auth::robots::Moment;
use berth_auth::token::{ISSUER, InvalidToken, looks_like_a_jwt, unverified_issuer};
use berth_auth::users::{self, User};
use berth_auth::{AccessToken, Caller, Identity, Kind, Scope, robots};

use super::issue::{REFRESH_PREFIX, hash};
use super::{Credential, Login, Origin, Proof, Refused, Tokens};
use crate::clock::millis;
use crate::db::refresh_tokens;

/// How coarsely the use of a refresh token is noted: a pull does not write.
const NOTED: Duration = Duration::from_mins(5);
/// From when on a key's end is announced.
const WARNED: Duration = Duration::from_hours(14 * 24);

impl Tokens {
    /// Who a credential is. `grace` is how long a token of ours may be over.
    pub async fn authenticate(
        &self,
        credential: &Credential<'_>,
        origin: &Origin,
        grace: Duration,
    ) -> Result<Login, Refused> {
        match credential {
            Credential::None => self.by_certificate(origin),
            Credential::Bearer(token) => self.by_secret("", token, origin, grace).await,
            Credential::Basic { user, secret } => self.by_secret(user, secret, origin, grace).await,
        }
    }

    async fn by_secret(
        &self,
        user: &str,
        secret: &str,
        origin: &Origin,
        grace: Duration,
    ) -> Result<Login, Refused> {
        if secret.starts_with(REFRESH_PREFIX) {
            return self.by_refresh_token(secret, origin).await;
        }
        if robots::is_key(secret) {
            return self.by_key(secret, origin);
        }
        // One that was verified before need not be taken apart to see whose it is.
        if let Some(token) = self.0.verified.get(secret) {
            return self.by_token(&token, grace);
        }
        if looks_like_a_jwt(secret) {
            if unverified_issuer(secret).as_deref() != Some(ISSUER) {
                return self.by_issuer(secret).await;
            }
            return self.by_token(&*self.verify(secret).await?, grace);
        }
        if user.is_empty() {
            return Err(Refused::Credential("the token is of no kind that is known here".to_owned()));
        }
        self.by_password(user, secret, origin).await
    }

    /// A token of ours, checked in full; its signature only once.
    pub async fn access(&self, text: &str, grace: Duration) -> Result<Arc<AccessToken>, Refused> {
        let token = match self.0.verified.get(text) {
            Some(token) => token,
            None => self.verify(text).await?,
        };
        self.in_force(&token, grace)?;
        Ok(token)
    }

    fn by_token(&self, token: &AccessToken, grace: Duration) -> Result<Login, Refused> {
        self.in_force(token, grace)?;
        Ok(Login::of_token(token, self.as_of_now(&token.identity)?))
    }

    /// Whether a token with a good signature is still, or not yet, or no longer good.
    fn in_force(&self, token: &AccessToken, grace: Duration) -> Result<(), Refused> {
        token.check_time(self.0.clock.now(), grace)?;
        if self.0.revoked.load().has(token) {
            return Err(Refused::Credential(format!(
                "the token of {} was revoked; log in again",
                token.identity
            )));
        }
        Ok(())
    }

    async fn verify(&self, text: &str) -> Result<Arc<AccessToken>, Refused> {
        let service = &self.0.settings.service;
        let token = match AccessToken::read(text, service, &self.0.keys.load_full()) {
            // Made by another replica a moment ago, perhaps.
            Err(InvalidToken::UnknownKey) => {
                self.look_again().await?;
                AccessToken::read(text, service, &self.0.keys.load_full())?
            }
            read => read?,
        };
        Ok(self.0.verified.keep(text, token))
    }

    fn by_certificate(&self, origin: &Origin) -> Result<Login, Refused> {
        let chain = origin.certificates.as_ref().filter(|_| !self.0.trust.certificates.is_empty());
        let Some(chain) = chain else { return Ok(Login::new(Identity::anonymous(), Proof::Nobody)) };
        let found = self.0.trust.certificates.identify(chain, self.0.clock.now());
        let proven = found.map_err(|error| Refused::Credential(error.to_string()))?;
        let expires_at = Some(proven.expires_at);
        Ok(Login { expires_at, ..Login::new(proven.identity, Proof::Certificate) })
    }

    async fn by_issuer(&self, token: &str) -> Result<Login, Refused> {
        let proven = self.0.trust.issuers.verify(token, self.0.clock.now()).await.map_err(|error| {
            if error.is_trouble() {
                Refused::Unreachable(error.to_string())
            } else {
                Refused::Credential(error.to_string())
            }
        })?;
        let proof = if proven.reviewed { Proof::Review } else { Proof::Issuer(proven.issuer) };
        let login = Login::new(proven.identity, proof);
        Ok(Login { expires_at: Some(proven.expires_at), session_ttl: proven.session_ttl, ..login })
    }

    async fn by_password(&self, user: &str, password: &str, origin: &Origin) -> Result<Login, Refused> {
        let (book, clock) = (self.book(), &self.0.clock);
        let checked = self.0.passwords.check(&book.users, user, password, origin.client, || clock.now());
        let identity = checked.await.map_err(|error| match error {
            users::Refused::Busy => Refused::Unreachable(error.to_string()),
            users::Refused::Wrong | users::Refused::TooMany { .. } => Refused::Credential(error.to_string()),
        })?;
        let fingerprint = book.users.find(user).map(User::fingerprint).unwrap_or_default();
        Ok(Login::new(identity, Proof::Password(fingerprint)))
    }

    fn by_key(&self, key: &str, origin: &Origin) -> Result<Login, Refused> {
        let now = self.0.clock.now();
        let found = self.book().robots.check(None, key, origin.client, now);
        let used = found.map_err(|error| Refused::Credential(error.to_string()))?;
        let expires_at = used.expires.map(Moment::unix_millis);
        let warning = expires_at.filter(|at| *at - now < millis(WARNED)).map(|at| {
            let days = (at - now) / 86_400_000;
            format!(
                "the key of {} expires in {days} days; give it a second one and change over",
                used.identity
            )
        });
        let login = Login::new(used.identity, Proof::Key(hex::encode(hash(key))));
        Ok(Login { expires_at, warning, ..login })
    }

    async fn by_refresh_token(&self, token: &str, origin: &Origin) -> Result<Login, Refused> {
        let now = self.0.clock.now();
        let gone = || {
            Refused::Credential(
                "the refresh token has expired or was revoked; log in again (docker login)".to_owned(),
            )
        };
        let row = refresh_tokens::find(&self.0.db, &hash(token), now).await?.ok_or_else(gone)?;
        let proof = Proof::parse(&row.proof).ok_or_else(gone)?;
        let identity: Identity = serde_json::from_str(&row.identity).map_err(|_| gone())?;
        let identity = self.still(identity, &proof, origin)?;
        if now - row.used_at > millis(NOTED) {
            let mut tx = self.0.db.begin_one().await?;
            refresh_tokens::touch(&mut tx, &row.id, now).await?;
            tx.commit_lightly().await?;
        }
        let within = match &row.scope {
            Some(scope) => Some(Scope::parse([scope.as_str()])?),
            None => None,
        };
        let (session, expires_at) = (Some(row.id), Some(row.expires_at));
        Ok(Login { within, session, expires_at, ..Login::new(identity, proof) })
    }

    /// Who somebody of our own is now: with the groups of today, if they are still there. Of others, the token
    /// is all that is known.
    fn as_of_now(&self, identity: &Identity) -> Result<Identity, Refused> {
        let book = self.0.trust.shelf.read();
        let found = match identity.kind() {
            Kind::User => book.users.identity(identity.name()),
            Kind::Robot => book.robots.find(identity.name()),
            _ => Some(identity.clone()),
        };
        found.ok_or_else(|| Refused::Credential(format!("there is no {identity} any more")))
    }

    /// Whether what a refresh token rests on still stands, and who that is now.
    fn still(&self, identity: Identity, proof: &Proof, origin: &Origin) -> Result<Identity, Refused> {
        let book = self.book();
        let over = |why: &str| Err(Refused::Credential(format!("{why}; log in again (docker login)")));
        match proof {
            Proof::Password(fingerprint) => match book.users.find(identity.name()) {
                // Groups are as they are now, not as they were.
                Some(user) if user.fingerprint() == *fingerprint => Ok(user.identity()),
                Some(_) => over(&format!("the password of {identity} has changed")),
                None => over(&format!("there is no {identity} any more")),
            },
            Proof::Key(hash) => {
                let found = book.robots.check_hash(hash, origin.client, self.0.clock.now());
                found.map(|used| used.identity).map_err(|error| Refused::Credential(error.to_string()))
            }
            Proof::Issuer(name) if self.0.trust.issuers.vouches_for_sessions(name) => Ok(identity),
            Proof::Issuer(name) => over(&format!("{name} vouches for no session any more")),
            Proof::Nobody | Proof::Certificate | Proof::Review | Proof::Token => {
                over("the refresh token is of no use")
            }
        }
    }
}

impl Login {
    fn new(identity: Identity, proof: Proof) -> Self {
        Self {
            identity,
            within: None,
            session: None,
            expires_at: None,
            session_ttl: None,
            proof,
            warning: None,
        }
    }

    fn of_token(token: &AccessToken, identity: Identity) -> Self {
        Self {
            within: Some(token.scope.clone()),
            session: token.session.clone(),
            expires_at: Some(token.expires_at.saturating_mul(1000)),
            ..Self::new(identity, Proof::Token)
        }
    }

    /// As the policy asks about it.
    pub(super) fn caller<'a>(&'a self, origin: &Origin, now: i64) -> Caller<'a> {
        Caller { identity: &self.identity, client: origin.client, now }
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Password(fingerprint) => write!(f, "password:{fingerprint}"),
            Self::Key(hash) => write!(f, "key:{hash}"),
            Self::Issuer(name) => write!(f, "issuer:{name}"),
            Self::Certificate => f.write_str("certificate"),
            Self::Review => f.write_str("review"),
            Self::Token => f.write_str("token"),
        }
    }
}

impl Proof {
    /// Reads what a refresh token can rest on.
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "password" => Some(Self::Password(rest.to_owned())),
            "key" => Some(Self::Key(rest.to_owned())),
            "issuer" => Some(Self::Issuer(rest.to_owned())),
            _ => None,
        }
    }
}
