//! Manifests, verbatim, and what each of them needs.

use std::ops::Range;

use berth_storage::Digest;

use super::sqlite::{Bound, Large, columns_of};
use super::uploads::signed;
use super::{Db, Driver, Handle, Result, Tx, query, query_in};
use crate::oci::{Reference, RepositoryName};

/// A manifest without its bytes.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Head {
    /// Its digest.
    #[sqlx(try_from = "String")]
    pub digest: Digest,
    /// What it says it is.
    pub media_type: String,
    /// How many bytes it has.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
}

columns_of!(Head { digest: parsed, media_type: plain, size_bytes: count });

/// The longest manifest that is read together with what it is, in bytes: longer ones, which are rare, would take
/// too much memory where many look at once.
pub const SMALL_BYTES: usize = 32 * 1024;

/// A manifest as it was pushed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Manifest {
    /// Everything but its bytes.
    #[sqlx(flatten)]
    pub head: Head,
    /// Its bytes, unless they are more than [`SMALL_BYTES`].
    pub content: Option<Vec<u8>>,
}

impl super::sqlite::FromRow for Manifest {
    fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { head: Head::from_row(row)?, content: row.get("content")? })
    }
}

/// Columns of a manifest `m` that is looked up by the name of its repository, and a tag or its digest.
macro_rules! select {
    ($columns:literal, by tag) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM repositories r
            JOIN tags t ON t.repository_id = r.id
            JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
            WHERE r.name = $1 AND t.name = $2"
        )
    };
    ($columns:literal, by digest) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM repositories r
            JOIN manifests m ON m.repository_id = r.id
            WHERE r.name = $1 AND m.digest = $2"
        )
    };
    ($columns:literal, by $reference:expr) => {
        match $reference {
            Reference::Tag(_) => select!($columns, by tag),
            Reference::Digest(_) => select!($columns, by digest),
        }
    };
}

/// A manifest of a repository.
pub async fn find(db: &Db, repository: &RepositoryName, reference: &Reference) -> Result<Option<Manifest>> {
    const { assert!(SMALL_BYTES == 32_768, "the statement has the number too") };
    let sql = select!(
        "m.digest, m.media_type, m.size_bytes, CASE WHEN m.size_bytes <= 32768 THEN m.content END AS content",
        by reference
    );
    db.look(sql, (repository.as_str(), reference.as_str())).await
}

/// A manifest of a repository, without its bytes.
pub async fn head(db: &Db, repository: &RepositoryName, reference: &Reference) -> Result<Option<Head>> {
    let sql = select!("m.digest, m.media_type, m.size_bytes", by reference);
    db.look(sql, (repository.as_str(), reference.as_str())).await
}

/// A range of the bytes of a manifest of a repository.
pub async fn piece(
    db: &Db,
    repository: &RepositoryName,
    digest: &Digest,
    range: Range<usize>,
) -> Result<Option<Vec<u8>>> {
    const CONTENT: Large<'_> = Large { table: "manifests", column: "content" };
    let mut on = db;
    match on.driver() {
        Driver::Sqlite(on) => {
            let bound: Bound<'_> = &[&repository.as_str(), &digest.as_str()];
            on.read_large(CONTENT, select!("m.id", by digest), bound, range)
        }
        Driver::Postgres(on) => {
            let sql = select!("substr(m.content, $3, $4)", by digest);
            let query = sqlx::query_scalar(sql).bind(repository.as_str()).bind(digest.as_str());
            // It counts from 1. No manifest has as many bytes as an i32 counts.
            let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
            let query = query.bind(number(range.start).saturating_add(1)).bind(number(range.len()));
            Ok(query.fetch_optional(on).await?)
        }
    }
}

/// The row of a manifest.
pub async fn id(mut on: impl Handle, repository_id: i64, digest: &Digest) -> Result<Option<i64>> {
    let sql = "SELECT id FROM manifests WHERE repository_id = $1 AND digest = $2";
    let row: Option<(i64,)> =
        query!(on, fetch_optional sqlx::query_as(sql).bind(repository_id).bind(digest.as_str()))?;
    Ok(row.map(|(id,)| id))
}

/// What is written of a new manifest.
#[derive(Debug, Clone, Copy)]
pub struct New<'a> {
    /// Its digest.
    pub digest: &'a Digest,
    /// What it is.
    pub media_type: &'a str,
    /// What it refers to as its subject.
    pub subject: Option<&'a Digest>,
    /// Its bytes.
    pub content: &'a [u8],
}

/// Writes a manifest; `None` if it was there already.
pub async fn insert(mut tx: &mut Tx, repository_id: i64, new: New<'_>, now: i64) -> Result<Option<i64>> {
    let sql = "INSERT INTO manifests
                   (repository_id, digest, media_type, size_bytes, subject, pushed_at, content)
               VALUES ($1, $2, $3, $4, $5, $6, $7)
               ON CONFLICT (repository_id, digest) DO NOTHING RETURNING id";
    let row: Option<(i64,)> = query!(tx, fetch_optional sqlx::query_as(sql)
        .bind(repository_id)
        .bind(new.digest.as_str())
        .bind(new.media_type)
        .bind(signed(new.content.len() as u64))
        .bind(new.subject.map(Digest::as_str))
        .bind(now)
        .bind(new.content))?;
    Ok(row.map(|(id,)| id))
}

/// Deletes a manifest and all it needed; a foreign key error while an index lists it or a tag
/// points at it.
pub async fn remove(mut tx: &mut Tx, id: i64) -> Result<u64> {
    query!(tx, execute sqlx::query("DELETE FROM manifests WHERE id = $1").bind(id))
}

/// Those of `digests` that are manifests of a repository.
pub async fn present(mut on: impl Handle, repository_id: i64, digests: &[&Digest]) -> Result<Vec<Digest>> {
    #[derive(sqlx::FromRow)]
    struct Row {
        #[sqlx(try_from = "String")]
        digest: Digest,
    }
    columns_of!(Row { digest: parsed });
    let sql =
        |list: &str| format!("SELECT digest FROM manifests WHERE repository_id = $1 AND digest IN ({list})");
    let rows: Vec<Row> = query_in!(on, fetch_all, sqlx::query_as, sql, [repository_id], digests)?;
    Ok(rows.into_iter().map(|row| row.digest).collect())
}

/// Ties a manifest to blobs of its repository. The foreign key refuses one that was collected.
pub async fn need_blobs(
    mut tx: &mut Tx,
    manifest_id: i64,
    repository_id: i64,
    digests: &[&Digest],
) -> Result<u64> {
    let sql = |list: &str| {
        format!(
            "INSERT INTO manifest_blobs (manifest_id, repository_id, digest)
             SELECT CAST($1 AS BIGINT), CAST($2 AS BIGINT), digest FROM repository_blobs
             WHERE repository_id = $2 AND digest IN ({list})
             ON CONFLICT DO NOTHING"
        )
    };
    query_in!(tx, execute, sqlx::query, sql, [manifest_id, repository_id], digests)
}

/// Ties an index to manifests of its repository.
pub async fn need_manifests(
    mut tx: &mut Tx,
    manifest_id: i64,
    repository_id: i64,
    digests: &[&Digest],
) -> Result<u64> {
    let sql = |list: &str| {
        format!(
            "INSERT INTO manifest_children (manifest_id, repository_id, digest)
             SELECT CAST($1 AS BIGINT), CAST($2 AS BIGINT), digest FROM manifests
             WHERE repository_id = $2 AND digest IN ({list})
             ON CONFLICT DO NOTHING"
        )
    };
    query_in!(tx, execute, sqlx::query, sql, [manifest_id, repository_id], digests)
}

/// Remembers that a manifest names content which may be absent, and is.
pub async fn need_missing(
    mut tx: &mut Tx,
    manifest_id: i64,
    repository_id: i64,
    digest: &Digest,
) -> Result<u64> {
    let sql = "INSERT INTO missing_references (repository_id, digest, manifest_id)
               VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    query!(tx, execute sqlx::query(sql).bind(repository_id).bind(digest.as_str()).bind(manifest_id))
}

/// A blob that was missed has come: ties those who named it to it, and answers how many.
pub async fn blob_arrived(tx: &mut Tx, repository_id: i64, digest: &Digest) -> Result<u64> {
    tie(tx, "manifest_blobs", repository_id, digest).await
}

/// A manifest that was missed has come: ties the indexes that named it to it, and answers how many.
pub async fn manifest_arrived(tx: &mut Tx, repository_id: i64, digest: &Digest) -> Result<u64> {
    tie(tx, "manifest_children", repository_id, digest).await
}

/// Moves all that miss a digest to `table`, some at a time: each is on a page of its own, and SQLite keeps what
/// a statement has changed until it has ended.
///
/// On PostgreSQL one may be committed in the middle of this, or just after it by a transaction that did not see
/// the digest come. It stays where it is, and whoever takes the digest away looks at [`is_missed`].
async fn tie(mut tx: &mut Tx, table: &str, repository_id: i64, digest: &Digest) -> Result<u64> {
    const AT_ONCE: i64 = 500;
    const SOME: &str = "repository_id = $1 AND digest = $2 AND manifest_id > $3 AND manifest_id <= $4";
    let missing = "SELECT manifest_id FROM missing_references
                   WHERE repository_id = $1 AND digest = $2 AND manifest_id > $3 ORDER BY manifest_id LIMIT $4";
    let (mut after, mut tied) = (0_i64, 0);
    loop {
        let some: Vec<(i64,)> = query!(tx, fetch_all sqlx::query_as(missing)
            .bind(repository_id)
            .bind(digest.as_str())
            .bind(after)
            .bind(AT_ONCE))?;
        let Some((last,)) = some.last() else { return Ok(tied) };
        let insert = format!(
            "INSERT INTO {table} (manifest_id, repository_id, digest)
             SELECT manifest_id, repository_id, digest FROM missing_references WHERE {SOME}
             ON CONFLICT DO NOTHING"
        );
        let delete = format!(
            "DELETE FROM missing_references WHERE {SOME} AND manifest_id IN
                 (SELECT manifest_id FROM {table} WHERE {SOME})"
        );
        let mut moved = 0;
        for sql in [insert, delete] {
            moved = query!(tx, execute sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(repository_id)
                .bind(digest.as_str())
                .bind(after)
                .bind(*last))?;
        }
        tied += moved;
        after = *last;
    }
}

/// Whether a manifest names content that was missed when it was pushed, and is not tied to it.
pub async fn is_missed(mut on: impl Handle, repository_id: i64, digest: &Digest) -> Result<bool> {
    let sql = "SELECT 1 FROM missing_references WHERE repository_id = $1 AND digest = $2 LIMIT 1";
    let row: Option<(i32,)> =
        query!(on, fetch_optional sqlx::query_as(sql).bind(repository_id).bind(digest.as_str()))?;
    Ok(row.is_some())
}

/// Some manifests that need a blob or list a manifest, for a message.
pub async fn needing(mut on: impl Handle, repository_id: i64, digest: &Digest) -> Result<Vec<String>> {
    let sql = "SELECT m.digest FROM manifests m WHERE m.id IN
                   (SELECT manifest_id FROM manifest_blobs WHERE repository_id = $1 AND digest = $2
                    UNION SELECT manifest_id FROM manifest_children WHERE repository_id = $1 AND digest = $2
                    UNION SELECT manifest_id FROM missing_references WHERE repository_id = $1 AND digest = $2)
               ORDER BY m.digest LIMIT 5";
    let rows: Vec<(String,)> =
        query!(on, fetch_all sqlx::query_as(sql).bind(repository_id).bind(digest.as_str()))?;
    Ok(rows.into_iter().map(|(digest,)| digest).collect())
}

/// The bytes of a manifest.
pub async fn content(mut on: impl Handle, repository_id: i64, digest: &Digest) -> Result<Option<Vec<u8>>> {
    let sql = "SELECT content FROM manifests WHERE repository_id = $1 AND digest = $2";
    let row: Option<(Vec<u8>,)> =
        query!(on, fetch_optional sqlx::query_as(sql).bind(repository_id).bind(digest.as_str()))?;
    Ok(row.map(|(content,)| content))
}
