//! Doomed objects: keys that nothing needs, until the store has let go of them too.

use berth_storage::Key;

use super::sqlite::columns_of;
use super::{Handle, Result, Tx, query};

/// An object to be deleted.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Doomed {
    /// Where it is.
    #[sqlx(try_from = "String")]
    pub storage_key: Key,
    /// The multipart upload to abort besides.
    pub multipart: Option<String>,
}

columns_of!(Doomed { storage_key: parsed, multipart: plain });

/// Dooms an object, and the multipart upload that was begun under its key. It is not touched before
/// `not_before`: a writer may have it open until then.
pub async fn insert(mut tx: &mut Tx, key: &Key, multipart: Option<&str>, not_before: i64) -> Result<u64> {
    let sql = "INSERT INTO doomed_objects (storage_key, multipart, not_before) VALUES ($1, $2, $3)
               ON CONFLICT DO NOTHING";
    query!(tx, execute sqlx::query(sql).bind(key.as_str()).bind(multipart).bind(not_before))
}

/// Objects whose time has come.
pub async fn due(mut on: impl Handle, now: i64, limit: i64) -> Result<Vec<Doomed>> {
    let sql = "SELECT storage_key, multipart FROM doomed_objects WHERE not_before <= $1
               ORDER BY not_before LIMIT $2";
    query!(on, fetch_all sqlx::query_as(sql).bind(now).bind(limit))
}

/// Forgets an object that is gone from the store.
pub async fn remove(mut tx: &mut Tx, key: &Key) -> Result<u64> {
    query!(tx, execute sqlx::query("DELETE FROM doomed_objects WHERE storage_key = $1").bind(key.as_str()))
}

/// Puts off an object the store would not delete.
pub async fn postpone(mut tx: &mut Tx, key: &Key, not_before: i64) -> Result<u64> {
    let sql = "UPDATE doomed_objects SET not_before = $2, attempts = attempts + 1 WHERE storage_key = $1";
    query!(tx, execute sqlx::query(sql).bind(key.as_str()).bind(not_before))
}

/// Whether a key is doomed, with a multipart upload to abort.
pub async fn is_key(mut on: impl Handle, key: &Key) -> Result<bool> {
    let sql = "SELECT 1 FROM doomed_objects WHERE storage_key = $1 AND multipart IS NOT NULL LIMIT 1";
    let row: Option<(i32,)> = query!(on, fetch_optional sqlx::query_as(sql).bind(key.as_str()))?;
    Ok(row.is_some())
}

/// Doomed keys from `from` on, for `fsck`.
pub async fn keys(mut on: impl Handle, from: &str, before: &str) -> Result<Vec<Doomed>> {
    let sql = "SELECT storage_key, multipart FROM doomed_objects WHERE storage_key >= $1 AND storage_key < $2
               ORDER BY storage_key";
    query!(on, fetch_all sqlx::query_as(sql).bind(from).bind(before))
}
