//! Refresh tokens in use: listed, ended one by one, or all of somebody.

use super::issue::hash;
use super::{Refused, Tokens};
use crate::clock::millis;
use crate::db::{self, refresh_tokens, revocations};

/// A refresh token as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Session {
    /// What it is called, which is no secret.
    pub id: String,
    /// Who it was given to.
    pub identity: String,
    /// The program that asked for it.
    pub client: String,
    /// When it was made, unix milliseconds.
    pub created_at: i64,
    /// When it was last used, to five minutes, unix milliseconds.
    pub used_at: i64,
    /// Its end, unix milliseconds.
    pub expires_at: i64,
}

impl From<refresh_tokens::RefreshToken> for Session {
    fn from(row: refresh_tokens::RefreshToken) -> Self {
        Self {
            id: row.id,
            identity: row.subject,
            client: row.client,
            created_at: row.created_at,
            used_at: row.used_at,
            expires_at: row.expires_at,
        }
    }
}

impl Tokens {
    /// Refresh tokens after `last`, by name; those of one identity where one is given.
    pub async fn sessions(
        &self,
        identity: Option<&str>,
        last: &str,
        limit: i64,
    ) -> Result<Vec<Session>, db::Error> {
        let rows = refresh_tokens::page(&self.0.db, identity, last, self.0.clock.now(), limit).await?;
        Ok(rows.into_iter().map(Session::from).collect())
    }

    /// Ends a refresh token and what was made from it; whose it was, if there was one.
    pub async fn revoke_session(&self, id: &str) -> Result<Option<String>, db::Error> {
        let (session, revoked_at) = (Some(id.to_owned()), self.0.clock.now());
        let mut tx = self.0.db.begin().await?;
        let subject = refresh_tokens::remove(&mut tx, id).await?;
        if subject.is_some() {
            self.revoke(tx, revocations::Revocation { session, subject: None, revoked_at }).await?;
        }
        Ok(subject)
    }

    /// Ends all that an identity was given until now. How many refresh tokens that were.
    pub async fn revoke_identity(&self, identity: &str) -> Result<u64, db::Error> {
        let (subject, revoked_at) = (Some(identity.to_owned()), self.0.clock.now());
        let mut tx = self.0.db.begin().await?;
        let ended = refresh_tokens::remove_all_of(&mut tx, identity).await?;
        self.revoke(tx, revocations::Revocation { session: None, subject, revoked_at }).await?;
        Ok(ended)
    }

    /// Ends a refresh token that somebody has (RFC 7009); one that is none is no error.
    pub async fn revoke_token(&self, token: &str) -> Result<Option<Session>, Refused> {
        let Some(row) = refresh_tokens::find(&self.0.db, &hash(token), self.0.clock.now()).await? else {
            return Ok(None);
        };
        self.revoke_session(&row.id).await?;
        Ok(Some(row.into()))
    }

    async fn revoke(&self, mut tx: db::Tx, revocation: revocations::Revocation) -> Result<(), db::Error> {
        let life = millis(self.0.settings.revocation_life());
        revocations::insert(&mut tx, &revocation, revocation.revoked_at.saturating_add(life)).await?;
        tx.commit().await?;
        // Here it counts at once, elsewhere when they look next.
        self.keep().await
    }
}
