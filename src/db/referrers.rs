//! Referrers: the descriptors of the manifests that name another as their subject.
//!
//! A page is measured in bytes, so it is found in two steps: first digests and sizes, from an index
//! alone, then the descriptors of those that fit.

use berth_storage::Digest;

use super::sqlite::columns_of;
use super::uploads::signed;
use super::{Handle, Result, Tx, query, query_in};

/// What a page is chosen from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub struct Entry {
    /// The digest of the referrer.
    pub digest: String,
    /// The size of its descriptor.
    #[sqlx(try_from = "i64")]
    pub descriptor_bytes: u64,
}

columns_of!(Entry { digest: plain, descriptor_bytes: count });

/// Writes a referrer. `artifact_type` is empty for one that has none.
pub async fn insert(
    mut tx: &mut Tx,
    repository_id: i64,
    subject: &Digest,
    digest: &Digest,
    artifact_type: &str,
    descriptor: &str,
) -> Result<u64> {
    let sql = "INSERT INTO referrers
                   (repository_id, subject, digest, artifact_type, descriptor_bytes, descriptor)
               VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    query!(tx, execute sqlx::query(sql)
        .bind(repository_id)
        .bind(subject.as_str())
        .bind(digest.as_str())
        .bind(artifact_type)
        .bind(signed(descriptor.len() as u64))
        .bind(descriptor))
}

/// What the list of a subject's referrers is at: it changes whenever the list does, and is never again what it
/// was. `None` while there are none.
pub async fn version(mut on: impl Handle, repository_id: i64, subject: &Digest) -> Result<Option<i64>> {
    let sql = "SELECT version FROM referrer_lists WHERE repository_id = $1 AND subject = $2";
    let row: Option<(i64,)> =
        query!(on, fetch_optional sqlx::query_as(sql).bind(repository_id).bind(subject.as_str()))?;
    Ok(row.map(|(version,)| version))
}

/// Referrers of a subject after `last`, by digest.
pub async fn entries(
    mut on: impl Handle,
    repository_id: i64,
    subject: &Digest,
    last: &str,
    limit: usize,
) -> Result<Vec<Entry>> {
    let sql = "SELECT digest, descriptor_bytes FROM referrers
               WHERE repository_id = $1 AND subject = $2 AND digest > $3
               ORDER BY digest LIMIT $4";
    query!(on, fetch_all sqlx::query_as(sql)
        .bind(repository_id)
        .bind(subject.as_str())
        .bind(last)
        .bind(signed(limit as u64)))
}

/// Referrers of a subject of one artifact type after `last`, by digest.
pub async fn entries_of_type(
    mut on: impl Handle,
    repository_id: i64,
    subject: &Digest,
    artifact_type: &str,
    last: &str,
    limit: usize,
) -> Result<Vec<Entry>> {
    let sql = "SELECT digest, descriptor_bytes FROM referrers
               WHERE repository_id = $1 AND subject = $2 AND artifact_type = $3 AND digest > $4
               ORDER BY digest LIMIT $5";
    query!(on, fetch_all sqlx::query_as(sql)
        .bind(repository_id)
        .bind(subject.as_str())
        .bind(artifact_type)
        .bind(last)
        .bind(signed(limit as u64)))
}

/// The descriptors of a subject's referrers after `last` up to `to`, with their digests and by them.
pub async fn descriptors(
    mut on: impl Handle,
    repository_id: i64,
    subject: &Digest,
    last: &str,
    to: &str,
) -> Result<Vec<(String, String)>> {
    let sql = "SELECT digest, descriptor FROM referrers
               WHERE repository_id = $1 AND subject = $2 AND digest > $3 AND digest <= $4
               ORDER BY digest";
    query!(on, fetch_all sqlx::query_as(sql)
        .bind(repository_id)
        .bind(subject.as_str())
        .bind(last)
        .bind(to))
}

/// The descriptors of a subject's referrers of one artifact type after `last` up to `to`, with their digests
/// and by them.
pub async fn descriptors_of_type(
    mut on: impl Handle,
    repository_id: i64,
    subject: &Digest,
    artifact_type: &str,
    last: &str,
    to: &str,
) -> Result<Vec<(String, String)>> {
    let sql = "SELECT digest, descriptor FROM referrers
               WHERE repository_id = $1 AND subject = $2 AND artifact_type = $3
                 AND digest > $4 AND digest <= $5
               ORDER BY digest";
    query!(on, fetch_all sqlx::query_as(sql)
        .bind(repository_id)
        .bind(subject.as_str())
        .bind(artifact_type)
        .bind(last)
        .bind(to))
}

/// Those of `digests` that refer to a subject by themselves.
pub async fn known(
    mut on: impl Handle,
    repository_id: i64,
    subject: &Digest,
    digests: &[&Digest],
) -> Result<Vec<(String,)>> {
    let sql = |list: &str| {
        format!(
            "SELECT digest FROM referrers
             WHERE repository_id = $1 AND subject = $2 AND digest IN ({list})"
        )
    };
    query_in!(on, fetch_all, sqlx::query_as, sql, [repository_id, subject.as_str()], digests)
}
