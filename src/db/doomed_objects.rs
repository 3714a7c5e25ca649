//! Doomed objects: keys that nothing needs, until the store has let go of them too.

use berth_storage::Key;

use super::{Handle, Result, Tx, query};

#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(try_from = "String")]
    storage_key: Key,
}

/// Dooms an object. It is not touched before `not_before`: a writer may have it open until then.
pub async fn insert(mut tx: &mut Tx, key: &Key, not_before: i64) -> Result<u64> {
    let sql = "INSERT INTO doomed_objects (storage_key, not_before) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    query!(tx, execute sqlx::query(sql).bind(key.as_str()).bind(not_before))
}

/// Objects whose time has come.
pub async fn due(mut on: impl Handle, now: i64, limit: i64) -> Result<Vec<Key>> {
    let sql = "SELECT storage_key FROM doomed_objects WHERE not_before <= $1 ORDER BY not_before LIMIT $2";
    let rows: Vec<Row> = query!(on, fetch_all sqlx::query_as(sql).bind(now).bind(limit))?;
    Ok(rows.into_iter().map(|row| row.storage_key).collect())
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

/// Doomed keys from `from` on, for `fsck`.
pub async fn keys(mut on: impl Handle, from: &str, before: &str) -> Result<Vec<Key>> {
    let sql = "SELECT storage_key FROM doomed_objects WHERE storage_key >= $1 AND storage_key < $2
               ORDER BY storage_key";
    let rows: Vec<Row> = query!(on, fetch_all sqlx::query_as(sql).bind(from).bind(before))?;
    Ok(rows.into_iter().map(|row| row.storage_key).collect())
}
