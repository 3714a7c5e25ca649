//! Signing keys: what access tokens are signed with, on every replica.

use super::sqlite::columns_of;
use super::{Handle, Result, Tx, query};

/// A key as it is kept.
#[derive(Clone, sqlx::FromRow)]
pub struct SigningKey {
    /// Which one.
    pub number: i64,
    /// What tokens call it.
    pub kid: String,
    /// PKCS#8.
    pub private_key: Vec<u8>,
    /// From when it signs.
    pub signs_from: i64,
}

columns_of!(SigningKey { number: plain, kid: plain, private_key: plain, signs_from: plain });

/// All of them.
pub async fn all(mut on: impl Handle) -> Result<Vec<SigningKey>> {
    let sql = "SELECT number, kid, private_key, signs_from FROM signing_keys ORDER BY number";
    query!(on, fetch_all sqlx::query_as(sql))
}

/// Adds a key, unless another replica has made that one.
pub async fn insert(mut tx: &mut Tx, key: &SigningKey, now: i64) -> Result<u64> {
    let sql = "INSERT INTO signing_keys (number, kid, private_key, signs_from, created_at)
               VALUES ($1, $2, $3, $4, $5) ON CONFLICT (number) DO NOTHING";
    query!(tx, execute sqlx::query(sql)
        .bind(key.number)
        .bind(&key.kid)
        .bind(&key.private_key)
        .bind(key.signs_from)
        .bind(now))
}

/// Throws one away.
pub async fn remove(mut tx: &mut Tx, number: i64) -> Result<u64> {
    query!(tx, execute sqlx::query("DELETE FROM signing_keys WHERE number = $1").bind(number))
}
