//! Blobs, and which repositories hold them.

use berth_storage::{Digest, Key, Object};

use super::sqlite::columns_of;
use super::uploads::signed;
use super::{Db, Driver, Handle, Result, Tx, placeholders, query, query_in};
use crate::oci::RepositoryName;

/// A blob of a repository.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Blob {
    /// Its digest.
    #[sqlx(try_from = "String")]
    pub digest: Digest,
    /// Its size.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// Where its bytes are.
    #[sqlx(try_from = "String")]
    pub storage_key: Key,
    /// Since when no manifest of the repository may need it.
    pub idle_since: Option<i64>,
}

columns_of!(Blob { digest: parsed, size_bytes: count, storage_key: parsed, idle_since: plain });

/// A row of `blobs`, whoever holds it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Stored {
    /// Its digest.
    #[sqlx(try_from = "String")]
    pub digest: Digest,
    /// Its size.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// Where its bytes are.
    #[sqlx(try_from = "String")]
    pub storage_key: Key,
    /// Since when no repository may hold it.
    pub idle_since: Option<i64>,
    /// Since when its object is known to be lost.
    pub missing_since: Option<i64>,
}

columns_of!(Stored {
    digest: parsed,
    size_bytes: count,
    storage_key: parsed,
    idle_since: plain,
    missing_since: plain
});

/// The blob as seen from one repository; a blob elsewhere, or lost, is not found.
pub async fn find(db: &Db, repository: &RepositoryName, digest: &Digest) -> Result<Option<Blob>> {
    let sql = "SELECT b.digest, b.size_bytes, b.storage_key, rb.idle_since
               FROM repositories r
               JOIN repository_blobs rb ON rb.repository_id = r.id
               JOIN blobs b ON b.digest = rb.digest
               WHERE r.name = $1 AND rb.digest = $2 AND b.missing_since IS NULL";
    db.look(sql, (repository.as_str(), digest.as_str())).await
}

/// Whether there is any blob.
pub async fn any(mut on: impl Handle) -> Result<bool> {
    let row: Option<(i64,)> =
        query!(on, fetch_optional sqlx::query_as("SELECT size_bytes FROM blobs LIMIT 1"))?;
    Ok(row.is_some())
}

/// The row of a digest, whoever holds it.
pub async fn stored(mut on: impl Handle, digest: &Digest) -> Result<Option<Stored>> {
    let sql =
        "SELECT digest, size_bytes, storage_key, idle_since, missing_since FROM blobs WHERE digest = $1";
    query!(on, fetch_optional sqlx::query_as(sql).bind(digest.as_str()))
}

/// Makes an object the blob of its digest; `false` where there is one already.
///
/// Nothing is locked then: a push of what is there must not wait for others, nor block them.
pub async fn insert(mut tx: &mut Tx, digest: &Digest, object: &Object, now: i64) -> Result<bool> {
    let sql = "INSERT INTO blobs (digest, size_bytes, storage_key, created_at) VALUES ($1, $2, $3, $4)
               ON CONFLICT (digest) DO NOTHING";
    let written = query!(tx, execute sqlx::query(sql)
        .bind(digest.as_str())
        .bind(signed(object.size_bytes))
        .bind(object.key.as_str())
        .bind(now))?;
    Ok(written > 0)
}

/// Gives a blob that is known to be lost another object; `false` where somebody was faster.
pub async fn heal(mut tx: &mut Tx, lost: &Stored, object: &Object) -> Result<bool> {
    let sql = "UPDATE blobs SET storage_key = $3, size_bytes = $4, missing_since = NULL
               WHERE digest = $1 AND storage_key = $2 AND missing_since IS NOT NULL";
    let written = query!(tx, execute sqlx::query(sql)
        .bind(lost.digest.as_str())
        .bind(lost.storage_key.as_str())
        .bind(object.key.as_str())
        .bind(signed(object.size_bytes)))?;
    Ok(written > 0)
}

/// Puts a blob in a repository, or starts its time there anew. Answers whether a manifest there was
/// pushed before it; `None` if nothing was written, because there is no such repository, or because a
/// manifest of it needs the blob already.
pub async fn link(
    mut tx: &mut Tx,
    repository: &RepositoryName,
    digest: &Digest,
    now: i64,
) -> Result<Option<bool>> {
    let sql = "INSERT INTO repository_blobs (repository_id, digest, linked_at, idle_since)
               SELECT id, $2, $3, $3 FROM repositories WHERE name = $1
               ON CONFLICT (repository_id, digest) DO UPDATE SET idle_since = excluded.idle_since
               WHERE repository_blobs.idle_since IS NOT NULL
               RETURNING EXISTS (SELECT 1 FROM missing_references m
                                 WHERE m.repository_id = repository_blobs.repository_id
                                   AND m.digest = repository_blobs.digest)";
    let row: Option<(bool,)> = query!(tx, fetch_optional sqlx::query_as(sql)
        .bind(repository.as_str())
        .bind(digest.as_str())
        .bind(now))?;
    Ok(row.map(|(missed,)| missed))
}

/// Starts the time of an idle blob anew; 0 where the collector was faster.
pub async fn renew(mut tx: &mut Tx, repository: &RepositoryName, digest: &Digest, now: i64) -> Result<u64> {
    let sql =
        "UPDATE repository_blobs SET idle_since = CASE WHEN idle_since IS NULL THEN idle_since ELSE $3 END
               WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) AND digest = $2";
    query!(tx, execute sqlx::query(sql).bind(repository.as_str()).bind(digest.as_str()).bind(now))
}

/// Takes a blob out of a repository; a foreign key error while a manifest needs it.
pub async fn unlink(mut tx: &mut Tx, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
    let sql = "DELETE FROM repository_blobs
               WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) AND digest = $2";
    query!(tx, execute sqlx::query(sql).bind(repository.as_str()).bind(digest.as_str()))
}

/// Those of `digests` that a repository holds, and that are not lost.
pub async fn held(mut on: impl Handle, repository_id: i64, digests: &[&Digest]) -> Result<Vec<Digest>> {
    #[derive(sqlx::FromRow)]
    struct Row {
        #[sqlx(try_from = "String")]
        digest: Digest,
    }
    columns_of!(Row { digest: parsed });
    let sql = |list: &str| {
        format!(
            "SELECT rb.digest FROM repository_blobs rb JOIN blobs b ON b.digest = rb.digest
             WHERE rb.repository_id = $1 AND b.missing_since IS NULL AND rb.digest IN ({list})"
        )
    };
    let rows: Vec<Row> = query_in!(on, fetch_all, sqlx::query_as, sql, [repository_id], digests)?;
    Ok(rows.into_iter().map(|row| row.digest).collect())
}

/// Says that a manifest needs these blobs of a repository.
pub async fn hold(mut tx: &mut Tx, repository_id: i64, digests: &[&Digest]) -> Result<u64> {
    lock_idle(tx, repository_id, digests).await?;
    let sql = |list: &str| {
        format!(
            "UPDATE repository_blobs SET idle_since = NULL
             WHERE repository_id = $1 AND idle_since IS NOT NULL AND digest IN ({list})"
        )
    };
    query_in!(tx, execute, sqlx::query, sql, [repository_id], digests)
}

/// Says that a manifest which is about to go needs its blobs no longer. Whether another does is for
/// the collector to see.
pub async fn let_go(mut tx: &mut Tx, manifest_id: i64, repository_id: i64, now: i64) -> Result<u64> {
    lock_needed(tx, manifest_id, repository_id).await?;
    let sql = "UPDATE repository_blobs SET idle_since = $3
               WHERE repository_id = $2 AND digest IN
                   (SELECT digest FROM manifest_blobs WHERE manifest_id = $1)";
    query!(tx, execute sqlx::query(sql).bind(manifest_id).bind(repository_id).bind(now))
}

// An UPDATE of many rows locks them in whatever order it finds them, and two that find the same rows in
// another order wait for each other until PostgreSQL ends one of them, a second later. So both take their
// locks first, by digest. SQLite has one writer and no such statement.

async fn lock_idle(tx: &mut Tx, repository_id: i64, digests: &[&Digest]) -> Result<()> {
    let Driver::Postgres(tx) = &mut tx.0 else { return Ok(()) };
    let sql = format!(
        "SELECT digest FROM repository_blobs
         WHERE repository_id = $1 AND idle_since IS NOT NULL AND digest IN ({})
         ORDER BY digest FOR NO KEY UPDATE",
        placeholders(2, digests.len())
    );
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(repository_id);
    for digest in digests {
        query = query.bind(digest.as_str());
    }
    query.execute(tx.connection()).await?;
    Ok(())
}

async fn lock_needed(tx: &mut Tx, manifest_id: i64, repository_id: i64) -> Result<()> {
    let Driver::Postgres(tx) = &mut tx.0 else { return Ok(()) };
    let sql = "SELECT digest FROM repository_blobs
               WHERE repository_id = $2 AND digest IN
                   (SELECT digest FROM manifest_blobs WHERE manifest_id = $1)
               ORDER BY digest FOR NO KEY UPDATE";
    sqlx::query(sql).bind(manifest_id).bind(repository_id).execute(tx.connection()).await?;
    Ok(())
}

/// Repositories that hold a blob, after `last`.
pub async fn holders(mut on: impl Handle, digest: &Digest, last: &str, limit: i64) -> Result<Vec<String>> {
    let sql = "SELECT r.name FROM repository_blobs rb
               JOIN repositories r ON r.id = rb.repository_id
               JOIN blobs b ON b.digest = rb.digest
               WHERE rb.digest = $1 AND r.name > $2 AND b.missing_since IS NULL
               ORDER BY r.name LIMIT $3";
    let rows: Vec<(String,)> =
        query!(on, fetch_all sqlx::query_as(sql).bind(digest.as_str()).bind(last).bind(limit))?;
    Ok(rows.into_iter().map(|(name,)| name).collect())
}

/// A repository's hold on a blob.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Link {
    /// The repository.
    pub repository_id: i64,
    /// The blob.
    #[sqlx(try_from = "String")]
    pub digest: Digest,
    /// Since when no manifest may need it.
    pub idle_since: i64,
    /// Whether a manifest needs it after all, or missed it and was not tied to it when it came.
    pub needed: bool,
}

columns_of!(Link { repository_id: plain, digest: parsed, idle_since: plain, needed: plain });

/// Links that have been idle since `before`, the oldest first.
pub async fn idle_links(mut on: impl Handle, before: i64, limit: i64) -> Result<Vec<Link>> {
    let sql = "SELECT rb.repository_id, rb.digest, rb.idle_since,
                      COALESCE((SELECT 1 FROM manifest_blobs mb
                                WHERE mb.repository_id = rb.repository_id AND mb.digest = rb.digest LIMIT 1),
                               (SELECT 1 FROM missing_references m
                                WHERE m.repository_id = rb.repository_id AND m.digest = rb.digest LIMIT 1))
                      IS NOT NULL AS needed
               FROM repository_blobs rb WHERE rb.idle_since <= $1
               ORDER BY rb.idle_since LIMIT $2";
    query!(on, fetch_all sqlx::query_as(sql).bind(before).bind(limit))
}

/// Marks a link as needed, unless it changed meanwhile.
pub async fn keep_link(mut tx: &mut Tx, link: &Link) -> Result<u64> {
    let sql = "UPDATE repository_blobs SET idle_since = NULL
               WHERE repository_id = $1 AND digest = $2 AND idle_since = $3 AND digest IN
                   (SELECT digest FROM manifest_blobs WHERE repository_id = $1 AND digest = $2)";
    query!(tx, execute sqlx::query(sql).bind(link.repository_id).bind(link.digest.as_str()).bind(link.idle_since))
}

/// Removes a link that is as idle as it was seen to be; a foreign key error if a manifest needs it.
pub async fn collect_link(mut tx: &mut Tx, link: &Link) -> Result<u64> {
    let sql = "DELETE FROM repository_blobs WHERE repository_id = $1 AND digest = $2 AND idle_since = $3";
    query!(tx, execute sqlx::query(sql).bind(link.repository_id).bind(link.digest.as_str()).bind(link.idle_since))
}

/// Says that no repository may hold a blob any longer.
pub async fn set_idle(mut tx: &mut Tx, digest: &Digest, since: i64) -> Result<u64> {
    let sql = "UPDATE blobs SET idle_since = $2 WHERE digest = $1";
    query!(tx, execute sqlx::query(sql).bind(digest.as_str()).bind(since))
}

/// Blobs that have been idle since `before`, the oldest first.
pub async fn idle_blobs(mut on: impl Handle, before: i64, limit: i64) -> Result<Vec<Stored>> {
    let sql = "SELECT digest, size_bytes, storage_key, idle_since, missing_since FROM blobs
               WHERE idle_since <= $1 ORDER BY idle_since LIMIT $2";
    query!(on, fetch_all sqlx::query_as(sql).bind(before).bind(limit))
}

/// Marks a blob as held again, if a repository holds it and nothing changed meanwhile.
///
/// On PostgreSQL the list of holders may be older than the row that was waited for: who let go of the
/// blob meanwhile has also set when.
pub async fn keep_blob(mut tx: &mut Tx, blob: &Stored) -> Result<u64> {
    let sql = "UPDATE blobs SET idle_since = NULL
               WHERE digest = $1 AND idle_since = $2
                 AND digest IN (SELECT digest FROM repository_blobs WHERE digest = $1)";
    query!(tx, execute sqlx::query(sql).bind(blob.digest.as_str()).bind(blob.idle_since))
}

/// Removes a blob that is as idle as it was seen to be; a foreign key error if a repository holds it.
pub async fn collect_blob(mut tx: &mut Tx, blob: &Stored) -> Result<u64> {
    let sql = "DELETE FROM blobs WHERE digest = $1 AND storage_key = $2 AND idle_since = $3";
    query!(tx, execute sqlx::query(sql)
        .bind(blob.digest.as_str())
        .bind(blob.storage_key.as_str())
        .bind(blob.idle_since))
}

/// Remembers that the object of a blob is lost: it is not found from now on, and the next push of
/// its bytes heals it.
pub async fn mark_missing(mut tx: &mut Tx, digest: &Digest, key: &Key, now: i64) -> Result<u64> {
    let sql = "UPDATE blobs SET missing_since = $3
               WHERE digest = $1 AND storage_key = $2 AND missing_since IS NULL";
    query!(tx, execute sqlx::query(sql).bind(digest.as_str()).bind(key.as_str()).bind(now))
}

/// Takes [`mark_missing`] back.
pub async fn mark_found(mut tx: &mut Tx, digest: &Digest, key: &Key) -> Result<u64> {
    let sql = "UPDATE blobs SET missing_since = NULL WHERE digest = $1 AND storage_key = $2";
    query!(tx, execute sqlx::query(sql).bind(digest.as_str()).bind(key.as_str()))
}

/// Blobs that are not known to be lost, by digest, behind `last`.
pub async fn behind(mut on: impl Handle, last: &str, limit: i64) -> Result<Vec<Stored>> {
    let sql = "SELECT digest, size_bytes, storage_key, idle_since, missing_since FROM blobs
               WHERE digest > $1 AND missing_since IS NULL ORDER BY digest LIMIT $2";
    query!(on, fetch_all sqlx::query_as(sql).bind(last).bind(limit))
}

/// The bytes of all blobs. Reads every row.
pub async fn total_bytes(mut on: impl Handle) -> Result<u64> {
    let sql = "SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM blobs";
    let (total,): (i64,) = query!(on, fetch_one sqlx::query_as(sql))?;
    Ok(u64::try_from(total).unwrap_or_default())
}

/// How many blobs are known to be lost.
pub async fn count_missing(mut on: impl Handle) -> Result<i64> {
    let sql = "SELECT COUNT(*) FROM blobs WHERE missing_since IS NOT NULL";
    let (count,): (i64,) = query!(on, fetch_one sqlx::query_as(sql))?;
    Ok(count)
}

/// Who needs a blob, for people: `repository:tag` for every tag that leads to it, through indexes too.
/// Where none does, `repository@digest` of the manifests, or else the repositories that hold it.
pub async fn needed_by(mut on: impl Handle, digest: &Digest, limit: i64) -> Result<Vec<String>> {
    let sql = "WITH RECURSIVE named (repository_id, digest) AS (
                   SELECT m.repository_id, m.digest
                   FROM repository_blobs rb
                   JOIN manifest_blobs mb ON mb.repository_id = rb.repository_id AND mb.digest = rb.digest
                   JOIN manifests m ON m.id = mb.manifest_id
                   WHERE rb.digest = $1
                   UNION
                   SELECT p.repository_id, p.digest
                   FROM named n
                   JOIN manifest_children c ON c.repository_id = n.repository_id AND c.digest = n.digest
                   JOIN manifests p ON p.id = c.manifest_id
               )
               SELECT r.name, n.digest, t.name
               FROM named n
               JOIN repositories r ON r.id = n.repository_id
               LEFT JOIN tags t ON t.repository_id = n.repository_id AND t.digest = n.digest
               ORDER BY t.name IS NULL, r.name, t.name, n.digest LIMIT $2";
    let rows: Vec<(String, String, Option<String>)> =
        query!(on, fetch_all sqlx::query_as(sql).bind(digest.as_str()).bind(limit))?;
    let tagged: Vec<String> =
        rows.iter().filter_map(|(name, _, tag)| Some(format!("{name}:{}", tag.as_ref()?))).collect();
    if !tagged.is_empty() {
        return Ok(tagged);
    }
    if !rows.is_empty() {
        return Ok(rows.into_iter().map(|(name, manifest, _)| format!("{name}@{manifest}")).collect());
    }
    let sql = "SELECT r.name FROM repository_blobs rb JOIN repositories r ON r.id = rb.repository_id
               WHERE rb.digest = $1 ORDER BY r.name LIMIT $2";
    let rows: Vec<(String,)> = query!(on, fetch_all sqlx::query_as(sql).bind(digest.as_str()).bind(limit))?;
    Ok(rows.into_iter().map(|(name,)| name).collect())
}

/// Blobs by key from `from` on, for `fsck`.
pub async fn by_key(mut on: impl Handle, from: &str, before: &str) -> Result<Vec<Stored>> {
    let sql = "SELECT digest, size_bytes, storage_key, idle_since, missing_since FROM blobs
               WHERE storage_key >= $1 AND storage_key < $2 ORDER BY storage_key";
    query!(on, fetch_all sqlx::query_as(sql).bind(from).bind(before))
}
