//! Revocations: access tokens that are over before their time. Few, for they live no longer than those.

use super::sqlite::columns_of;
use super::{Handle, Result, Tx, query};

/// What is over.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Revocation {
    /// Whatever was made from this refresh token.
    pub session: Option<String>,
    /// Whatever this subject was given …
    pub subject: Option<String>,
    /// … until then.
    pub revoked_at: i64,
}

columns_of!(Revocation { session: plain, subject: plain, revoked_at: plain });

/// Adds one, which is kept until no token it is about can be good.
pub async fn insert(mut tx: &mut Tx, revocation: &Revocation, expires_at: i64) -> Result<u64> {
    let sql = "INSERT INTO revocations (session, subject, revoked_at, expires_at) VALUES ($1, $2, $3, $4)";
    query!(tx, execute sqlx::query(sql)
        .bind(&revocation.session)
        .bind(&revocation.subject)
        .bind(revocation.revoked_at)
        .bind(expires_at))
}

/// Those that count.
pub async fn all(mut on: impl Handle, now: i64) -> Result<Vec<Revocation>> {
    let sql = "SELECT session, subject, revoked_at FROM revocations WHERE expires_at > $1";
    query!(on, fetch_all sqlx::query_as(sql).bind(now))
}

/// Removes those that count no more.
pub async fn expire(mut tx: &mut Tx, now: i64) -> Result<u64> {
    query!(tx, execute sqlx::query("DELETE FROM revocations WHERE expires_at <= $1").bind(now))
}
