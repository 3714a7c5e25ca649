//! Repositories: a name, made with its first content.

use super::{Handle, Result, Tx, query};
use crate::oci::RepositoryName;

/// The id of a repository.
pub async fn find(mut on: impl Handle, name: &RepositoryName) -> Result<Option<i64>> {
    let sql = "SELECT id FROM repositories WHERE name = $1";
    let row: Option<(i64,)> = query!(on, fetch_optional sqlx::query_as(sql).bind(name.as_str()))?;
    Ok(row.map(|(id,)| id))
}

/// The id of a repository, which is made if it is not there.
pub async fn ensure(tx: &mut Tx, name: &RepositoryName, now: i64) -> Result<i64> {
    if let Some(id) = find(&mut *tx, name).await? {
        return Ok(id);
    }
    insert(tx, name, now).await?;
    // Not RETURNING: it says nothing where another replica was faster.
    find(tx, name).await?.ok_or_else(|| sqlx::Error::RowNotFound.into())
}

async fn insert(mut tx: &mut Tx, name: &RepositoryName, now: i64) -> Result<u64> {
    let sql = "INSERT INTO repositories (name, created_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    query!(tx, execute sqlx::query(sql).bind(name.as_str()).bind(now))
}

/// Names after `last`, in byte order.
pub async fn page(mut on: impl Handle, last: &str, limit: i64) -> Result<Vec<String>> {
    let sql = "SELECT name FROM repositories WHERE name > $1 ORDER BY name LIMIT $2";
    let rows: Vec<(String,)> = query!(on, fetch_all sqlx::query_as(sql).bind(last).bind(limit))?;
    Ok(rows.into_iter().map(|(name,)| name).collect())
}
