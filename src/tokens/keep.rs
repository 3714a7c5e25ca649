//! What replicas agree on: keys that are made, used and thrown away, and what is revoked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use berth_auth::AccessToken;
use berth_auth::keys::{KeyRing, SigningKey, generate};
use berth_auth::token::LEEWAY;
use tokio_util::sync::CancellationToken;

use super::Tokens;
use crate::clock::millis;
use crate::db::{self, revocations, signing_keys};

/// How often it is read again: a revocation is known everywhere well within 10 s.
const EVERY: Duration = Duration::from_secs(3);
/// How soon after it was read it is read again for a token whose key nobody knows.
const COOL_DOWN_MS: i64 = 1_000;

/// What is revoked.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    sessions: HashSet<String>,
    /// Until when what a subject was given is over, unix milliseconds.
    subjects: HashMap<String, i64>,
}

impl Revoked {
    /// Whether a token is over before its time.
    ///
    /// Clocks may be apart, so what was made up to a minute later is over too.
    pub(super) fn has(&self, token: &AccessToken) -> bool {
        if self.sessions.is_empty() && self.subjects.is_empty() {
            return false;
        }
        let session = token.session.as_ref().is_some_and(|session| self.sessions.contains(session));
        session
            || self
                .subjects
                .get(&token.identity.subject())
                .is_some_and(|at| token.issued_at * 1000 <= leeway(*at))
    }

    /// Until when nothing that lasts can be given to a subject, if it was revoked a moment ago.
    pub(super) fn until(&self, subject: &str, now: i64) -> Option<i64> {
        self.subjects.get(subject).map(|at| leeway(*at)).filter(|until| *until >= now)
    }
}

fn leeway(at: i64) -> i64 {
    at.saturating_add(millis(LEEWAY))
}

/// Keeps keys and revocations current until `stop`.
pub async fn run(tokens: Tokens, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = tokens.keep().await {
            // Known keys and revocations stay; whoever needs the index is told by it.
            tracing::warn!(%error, "could not read signing keys and revocations");
        }
    }
}

impl Tokens {
    /// Reads keys and revocations, makes the key that is due and throws away what is over.
    pub(super) async fn keep(&self) -> Result<(), db::Error> {
        self.read_unless_read_for(0).await
    }

    /// Reads them again for a token whose key is not known: another replica may have made it. However many
    /// such tokens come, it is read once a second.
    pub(super) async fn look_again(&self) -> Result<(), db::Error> {
        self.read_unless_read_for(COOL_DOWN_MS).await
    }

    async fn read_unless_read_for(&self, cool_down_ms: i64) -> Result<(), db::Error> {
        let mut read_at = self.0.reload.lock().await;
        let now = self.0.clock.now();
        // A clock that was set back is no reason to wait.
        if now >= *read_at && now.saturating_sub(*read_at) < cool_down_ms {
            return Ok(());
        }
        self.read().await?;
        *read_at = now;
        Ok(())
    }

    async fn read(&self) -> Result<(), db::Error> {
        let inner = &self.0;
        let (now, rotation) = (inner.clock.now(), inner.settings.rotation());
        let mut ring = self.read_keys().await?;
        let over = ring.over(now, &rotation);
        if let Some((number, signs_from)) = ring.due(now, &rotation) {
            let row = new_key(number, signs_from);
            let mut tx = inner.db.begin().await?;
            signing_keys::insert(&mut tx, &row, now).await?;
            for number in over {
                signing_keys::remove(&mut tx, number).await?;
            }
            tx.commit().await?;
            tracing::info!(number, "made signing key {number}");
            ring = self.read_keys().await?;
        }
        inner.keys.store(Arc::new(ring));
        let mut revoked = Revoked::default();
        for row in revocations::all(&inner.db, now).await? {
            revoked.sessions.extend(row.session);
            if let Some(subject) = row.subject {
                let at = revoked.subjects.entry(subject).or_default();
                *at = row.revoked_at.max(*at);
            }
        }
        inner.revoked.store(Arc::new(revoked));
        Ok(())
    }

    async fn read_keys(&self) -> Result<KeyRing, db::Error> {
        let mut keys = Vec::new();
        for row in signing_keys::all(&self.0.db).await? {
            match SigningKey::read(row.number, row.kid, &row.private_key, row.signs_from) {
                Ok(key) => keys.push(key),
                Err(error) => tracing::error!(%error, "a signing key cannot be read; its tokens are refused"),
            }
        }
        Ok(KeyRing::new(keys))
    }
}

fn new_key(number: i64, signs_from: i64) -> signing_keys::SigningKey {
    let kid = super::issue::random_id();
    signing_keys::SigningKey { number, kid, private_key: generate(), signs_from }
}
