//! Tags: names that move between the manifests of a repository.

use berth_storage::Digest;

use super::sqlite::columns_of;
use super::{Handle, Result, Tx, query};
use crate::oci::{RepositoryName, Tag};

/// What a tag points at.
#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(try_from = "String")]
    digest: Digest,
}

columns_of!(Row { digest: parsed });

/// Points a tag at a manifest of the repository.
pub async fn set(mut tx: &mut Tx, repository_id: i64, tag: &Tag, digest: &Digest, now: i64) -> Result<u64> {
    let sql = "INSERT INTO tags (repository_id, name, digest, tagged_at) VALUES ($1, $2, $3, $4)
               ON CONFLICT (repository_id, name) DO UPDATE
               SET digest = excluded.digest, tagged_at = excluded.tagged_at";
    query!(tx, execute sqlx::query(sql).bind(repository_id).bind(tag.as_str()).bind(digest.as_str()).bind(now))
}

/// Points a tag at a manifest of the repository, unless it is there.
pub async fn create(
    mut tx: &mut Tx,
    repository_id: i64,
    tag: &Tag,
    digest: &Digest,
    now: i64,
) -> Result<u64> {
    let sql = "INSERT INTO tags (repository_id, name, digest, tagged_at) VALUES ($1, $2, $3, $4)
               ON CONFLICT (repository_id, name) DO NOTHING";
    query!(tx, execute sqlx::query(sql).bind(repository_id).bind(tag.as_str()).bind(digest.as_str()).bind(now))
}

/// Points a tag that is there at a manifest of the repository.
pub async fn overwrite(
    mut tx: &mut Tx,
    repository_id: i64,
    tag: &Tag,
    digest: &Digest,
    now: i64,
) -> Result<u64> {
    let sql = "UPDATE tags SET digest = $3, tagged_at = $4 WHERE repository_id = $1 AND name = $2";
    query!(tx, execute sqlx::query(sql).bind(repository_id).bind(tag.as_str()).bind(digest.as_str()).bind(now))
}

/// Whether a tag points at a manifest.
pub async fn points_at(mut on: impl Handle, repository_id: i64, tag: &Tag, digest: &Digest) -> Result<bool> {
    let sql = "SELECT 1 FROM tags WHERE repository_id = $1 AND name = $2 AND digest = $3";
    let found: Option<(i32,)> = query!(on, fetch_optional sqlx::query_as(sql)
        .bind(repository_id).bind(tag.as_str()).bind(digest.as_str()))?;
    Ok(found.is_some())
}

/// What a tag points at.
pub async fn find(mut on: impl Handle, repository_id: i64, tag: &Tag) -> Result<Option<Digest>> {
    let sql = "SELECT digest FROM tags WHERE repository_id = $1 AND name = $2";
    let found: Option<Row> =
        query!(on, fetch_optional sqlx::query_as(sql).bind(repository_id).bind(tag.as_str()))?;
    Ok(found.map(|row| row.digest))
}

/// Removes one tag and nothing else. What it pointed at.
pub async fn remove(mut tx: &mut Tx, repository: &RepositoryName, tag: &Tag) -> Result<Option<Digest>> {
    let sql = "DELETE FROM tags
               WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) AND name = $2
               RETURNING digest";
    let found: Option<Row> =
        query!(tx, fetch_optional sqlx::query_as(sql).bind(repository.as_str()).bind(tag.as_str()))?;
    Ok(found.map(|row| row.digest))
}

/// Removes the tags that point at a manifest.
pub async fn remove_all_of(mut tx: &mut Tx, repository_id: i64, digest: &Digest) -> Result<u64> {
    let sql = "DELETE FROM tags WHERE repository_id = $1 AND digest = $2";
    query!(tx, execute sqlx::query(sql).bind(repository_id).bind(digest.as_str()))
}

/// Tags after `last`, in byte order.
pub async fn page(mut on: impl Handle, repository_id: i64, last: &str, limit: i64) -> Result<Vec<String>> {
    let sql = "SELECT name FROM tags WHERE repository_id = $1 AND name > $2 ORDER BY name LIMIT $3";
    let rows: Vec<(String,)> =
        query!(on, fetch_all sqlx::query_as(sql).bind(repository_id).bind(last).bind(limit))?;
    Ok(rows.into_iter().map(|(name,)| name).collect())
}
