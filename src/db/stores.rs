//! Which object store this index describes.

use super::{Handle, Result, Tx, query};

/// The store's id, if one was adopted.
pub async fn find(mut on: impl Handle) -> Result<Option<String>> {
    let sql = "SELECT id FROM stores LIMIT 1";
    let row: Option<(String,)> = query!(on, fetch_optional sqlx::query_as(sql))?;
    Ok(row.map(|(id,)| id))
}

/// Forgets the store this index described.
pub async fn forget(mut tx: &mut Tx) -> Result<u64> {
    query!(tx, execute sqlx::query("DELETE FROM stores"))
}

/// Binds the index to a store, unless it is bound to one: replicas that start together agree.
pub async fn adopt(mut tx: &mut Tx, id: &str, now: i64) -> Result<u64> {
    let sql = "INSERT INTO stores (id, adopted_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    query!(tx, execute sqlx::query(sql).bind(id).bind(now))
}
