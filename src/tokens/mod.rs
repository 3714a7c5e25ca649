//! Tokens: who a credential is, and what they are given for it.
//!
//! An identity that exists already (a service account, a CI job, a person) becomes a short token of this
//! registry, good for some repositories. What replicas must agree on is in the index: the keys that sign,
//! the hashes of refresh tokens, and what was revoked; each reads it again every few seconds.

mod authenticate;
mod issue;
mod keep;
mod sessions;
mod verified;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use berth_auth::book::{Book, Shelf};
use berth_auth::keys::{Jwk, KeyRing, Rotation};
use berth_auth::token::{InvalidToken, LEEWAY};
use berth_auth::users::Passwords;
use berth_auth::{Certificates, Identity, Issuers, Scope};
use rustls_pki_types::CertificateDer;

pub use self::issue::{Issued, IssuedSession};
pub use self::keep::run;
pub use self::sessions::Session;
use self::verified::Verified;
use crate::clock::Clock;
use crate::db::{self, Db};

/// What the token service needs to know of its configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What this registry is called in tokens.
    pub service: String,
    /// How long an access token is good.
    pub access_ttl: Duration,
    /// How long a refresh token is good, where what it was made from sets no end.
    pub refresh_ttl: Duration,
    /// How long after its end a token still serves the upload it began.
    pub upload_grace: Duration,
    /// How long one key signs.
    pub key_period: Duration,
}

impl Settings {
    /// When keys are made and thrown away: published for two lives of a token before they are used, and for
    /// as long as a token of theirs can be of use.
    fn rotation(&self) -> Rotation {
        let ahead = 2 * self.access_ttl.max(LEEWAY);
        Rotation { period: self.key_period, ahead, kept: ahead + self.upload_grace }
    }

    /// How long a revocation has somebody to be about.
    fn revocation_life(&self) -> Duration {
        self.access_ttl + self.upload_grace + 2 * LEEWAY
    }
}

/// Whose word on who somebody is counts here.
pub struct Trust {
    /// Rules, users and robots.
    pub shelf: Arc<Shelf>,
    /// Clusters and `OpenID` issuers.
    pub issuers: Issuers,
    /// Authorities of client certificates.
    pub certificates: Arc<Certificates>,
}

/// The token service.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

struct Inner {
    db: Db,
    clock: Clock,
    settings: Settings,
    trust: Trust,
    passwords: Passwords,
    keys: ArcSwap<KeyRing>,
    revoked: ArcSwap<keep::Revoked>,
    reload: tokio::sync::Mutex<i64>,
    verified: Verified,
}

/// Where a request comes from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The certificates it has shown on this connection, its own first.
    pub certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
}

/// What a client says of who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential<'a> {
    /// Nothing.
    None,
    /// A name and a secret. Where the secret says itself whose it is, the name says nothing.
    Basic {
        /// The name.
        user: String,
        /// The secret.
        secret: String,
    },
    /// A token.
    Bearer(&'a str),
}

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "Credential::None",
            Self::Basic { .. } => "Credential::Basic",
            Self::Bearer(_) => "Credential::Bearer",
        })
    }
}

/// Who a credential is, and how far it goes.
#[derive(Debug, Clone)]
pub struct Login {
    /// Who.
    pub identity: Identity,
    /// What it is good for at most; everything the policy allows if it says nothing.
    pub within: Option<Scope>,
    /// The refresh token it is, or was made from.
    pub session: Option<String>,
    /// Its end, unix milliseconds: nothing made from it lasts longer.
    pub expires_at: Option<i64>,
    /// How long a refresh token made from it may last, if not until its own end.
    pub session_ttl: Option<Duration>,
    /// What it rests on, which a refresh token made from it rests on too.
    proof: Proof,
    /// Something its holder should know.
    pub warning: Option<String>,
}

/// What a login rests on. It is written into the row of a refresh token, and looked at each time.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Proof {
    /// Nothing.
    Nobody,
    /// The password of a user, by what its hash hashes to.
    Password(String),
    /// A key of a robot, by its hash.
    Key(String),
    /// An issuer or a cluster that is trusted, by name.
    Issuer(String),
    /// A client certificate.
    Certificate,
    /// A cluster's answer about a token, which holds for seconds.
    Review,
    /// An access token of ours: nothing lasting is made of it.
    Token,
}

/// Why nobody is let in by a credential.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not good; in words that name it and the way out.
    #[error("{0}")]
    Credential(String),
    /// A token of ours is not good.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// More scopes than one token holds.
    #[error(transparent)]
    Scopes(#[from] berth_auth::scope::TooManyScopes),
    /// Whoever could say is not to be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The index failed.
    #[error("the index failed")]
    Db(#[from] db::Error),
    /// There is no key to sign with yet.
    #[error("there is no key to sign with yet")]
    NoKey,
}

impl Refused {
    /// Whether trying again would change nothing.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Credential(_) | Self::Token(_))
    }
}

impl Tokens {
    /// Puts the token service together. [`run`] must be running for keys and revocations to be current.
    pub async fn open(db: Db, clock: Clock, settings: Settings, trust: Trust) -> Result<Self, db::Error> {
        let tokens = Self(Arc::new(Inner {
            db,
            clock,
            settings,
            trust,
            passwords: Passwords::new(&issue::random_bytes()),
            keys: ArcSwap::default(),
            revoked: ArcSwap::default(),
            reload: tokio::sync::Mutex::new(i64::MIN),
            verified: Verified::new(),
        }));
        tokens.keep().await?;
        Ok(tokens)
    }

    /// What this registry is called in tokens.
    pub fn service(&self) -> &str {
        &self.0.settings.service
    }

    /// The rules, users and robots as they are now.
    pub fn book(&self) -> Arc<Book> {
        self.0.trust.shelf.book()
    }

    /// Where rules, users and robots are kept current.
    pub fn shelf(&self) -> Arc<Shelf> {
        Arc::clone(&self.0.trust.shelf)
    }

    /// The public keys.
    pub fn jwks(&self) -> Vec<Jwk> {
        self.0.keys.load().jwks()
    }

    /// Now, in unix milliseconds.
    pub fn now(&self) -> i64 {
        self.0.clock.now()
    }
}
