//! Refresh tokens: what `docker login` keeps. Only their hashes are here.

use super::sqlite::columns_of;
use super::{Handle, Result, Tx, query};

/// A refresh token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RefreshToken {
    /// What it is called, which is no secret.
    pub id: String,
    /// SHA-256 of the token.
    pub hash: Vec<u8>,
    /// Who it was given to.
    pub subject: String,
    /// What was known of them, JSON.
    pub identity: String,
    /// What it may be used for at most, as scopes; everything the subject may if there are none.
    pub scope: Option<String>,
    /// What would end it.
    pub proof: String,
    /// The program that asked for it, as it calls itself.
    pub client: String,
    /// When it was made.
    pub created_at: i64,
    /// Its end.
    pub expires_at: i64,
    /// When it was last used, roughly.
    pub used_at: i64,
}

columns_of!(RefreshToken {
    id: plain,
    hash: plain,
    subject: plain,
    identity: plain,
    scope: plain,
    proof: plain,
    client: plain,
    created_at: plain,
    expires_at: plain,
    used_at: plain
});

macro_rules! columns {
    () => {
        "id, hash, subject, identity, scope, proof, client, created_at, expires_at, used_at"
    };
}

/// Adds one.
pub async fn insert(mut tx: &mut Tx, token: &RefreshToken) -> Result<u64> {
    let sql = concat!(
        "INSERT INTO refresh_tokens (",
        columns!(),
        ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
    );
    query!(tx, execute sqlx::query(sql)
        .bind(&token.id)
        .bind(&token.hash)
        .bind(&token.subject)
        .bind(&token.identity)
        .bind(&token.scope)
        .bind(&token.proof)
        .bind(&token.client)
        .bind(token.created_at)
        .bind(token.expires_at)
        .bind(token.used_at))
}

/// The one with this hash, if its time is not over.
pub async fn find(mut on: impl Handle, hash: &[u8], now: i64) -> Result<Option<RefreshToken>> {
    let sql = concat!("SELECT ", columns!(), " FROM refresh_tokens WHERE hash = $1 AND expires_at > $2");
    query!(on, fetch_optional sqlx::query_as(sql).bind(hash).bind(now))
}

/// Those after `last`, by name, whose time is not over; of one subject where one is given.
pub async fn page(
    mut on: impl Handle,
    subject: Option<&str>,
    last: &str,
    now: i64,
    limit: i64,
) -> Result<Vec<RefreshToken>> {
    let all = concat!(
        "SELECT ",
        columns!(),
        " FROM refresh_tokens WHERE id > $1 AND expires_at > $2 ORDER BY id LIMIT $3"
    );
    let one = concat!(
        "SELECT ",
        columns!(),
        " FROM refresh_tokens WHERE id > $1 AND expires_at > $2 AND subject = $4 ORDER BY id LIMIT $3"
    );
    match subject {
        None => query!(on, fetch_all sqlx::query_as(all).bind(last).bind(now).bind(limit)),
        Some(subject) => {
            query!(on, fetch_all sqlx::query_as(one).bind(last).bind(now).bind(limit).bind(subject))
        }
    }
}

/// Notes that one is in use.
pub async fn touch(mut tx: &mut Tx, id: &str, now: i64) -> Result<u64> {
    query!(tx, execute sqlx::query("UPDATE refresh_tokens SET used_at = $2 WHERE id = $1").bind(id).bind(now))
}

/// Removes one; whose it was.
pub async fn remove(mut tx: &mut Tx, id: &str) -> Result<Option<String>> {
    let sql = "DELETE FROM refresh_tokens WHERE id = $1 RETURNING subject";
    let row: Option<(String,)> = query!(tx, fetch_optional sqlx::query_as(sql).bind(id))?;
    Ok(row.map(|(subject,)| subject))
}

/// Removes all of a subject.
pub async fn remove_all_of(mut tx: &mut Tx, subject: &str) -> Result<u64> {
    query!(tx, execute sqlx::query("DELETE FROM refresh_tokens WHERE subject = $1").bind(subject))
}

/// Removes those whose time is over.
pub async fn expire(mut tx: &mut Tx, now: i64) -> Result<u64> {
    query!(tx, execute sqlx::query("DELETE FROM refresh_tokens WHERE expires_at <= $1").bind(now))
}
