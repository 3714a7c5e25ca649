//! Upload sessions: where each upload stands, and who may write it now.

use berth_storage::Key;

use super::{Handle, Result, Tx, query};
use crate::oci::RepositoryName;

/// A session as it was last saved.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Session {
    /// What the client knows it by: 32 hexadecimal digits.
    pub id: String,
    /// Where its bytes are.
    #[sqlx(try_from = "String")]
    pub storage_key: Key,
    /// The name of the algorithm the running hash is of.
    pub algorithm: String,
    /// How many bytes it has.
    #[sqlx(try_from = "i64")]
    pub offset_bytes: u64,
    /// The running hash.
    pub hash_state: Vec<u8>,
    /// Until when a writer has it; past if none has.
    pub writer_until: i64,
}

/// Begins a session.
pub async fn insert(
    mut tx: &mut Tx,
    session: &Session,
    repository: &RepositoryName,
    now: i64,
    expires_at: i64,
) -> Result<u64> {
    let sql = "INSERT INTO uploads
                   (id, repository, storage_key, algorithm, offset_bytes, hash_state, created_at, expires_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    query!(tx, execute sqlx::query(sql)
        .bind(&session.id)
        .bind(repository.as_str())
        .bind(session.storage_key.as_str())
        .bind(&session.algorithm)
        .bind(signed(session.offset_bytes))
        .bind(&session.hash_state)
        .bind(now)
        .bind(expires_at))
}

/// A session of this repository; one of another repository is not found.
pub async fn find(mut on: impl Handle, repository: &RepositoryName, id: &str) -> Result<Option<Session>> {
    let sql = "SELECT id, storage_key, algorithm, offset_bytes, hash_state, writer_until
               FROM uploads WHERE id = $1 AND repository = $2";
    query!(on, fetch_optional sqlx::query_as(sql).bind(id).bind(repository.as_str()))
}

/// Makes `writer` the one who may write, if nobody else may now.
pub async fn claim(
    mut tx: &mut Tx,
    repository: &RepositoryName,
    id: &str,
    writer: &str,
    until: i64,
    now: i64,
) -> Result<Option<Session>> {
    let sql = "UPDATE uploads SET writer = $3, writer_until = $4
               WHERE id = $1 AND repository = $2 AND writer_until <= $5
               RETURNING id, storage_key, algorithm, offset_bytes, hash_state, writer_until";
    query!(tx, fetch_optional sqlx::query_as(sql)
        .bind(id)
        .bind(repository.as_str())
        .bind(writer)
        .bind(until)
        .bind(now))
}

/// Saves how far its writer came. `writer_until` 0 lets go of the session. None of it happens, and
/// the answer is 0, once the session is gone or another's.
pub async fn save(
    mut tx: &mut Tx,
    id: &str,
    writer: &str,
    (offset_bytes, hash_state): (u64, &[u8]),
    writer_until: i64,
    expires_at: i64,
) -> Result<u64> {
    let sql = "UPDATE uploads SET offset_bytes = $3, hash_state = $4, writer_until = $5, expires_at = $6
               WHERE id = $1 AND writer = $2";
    query!(tx, execute sqlx::query(sql)
        .bind(id)
        .bind(writer)
        .bind(signed(offset_bytes))
        .bind(hash_state)
        .bind(writer_until)
        .bind(expires_at))
}

/// Ends a session whose bytes have become a blob.
pub async fn remove(mut tx: &mut Tx, id: &str, writer: &str) -> Result<u64> {
    let sql = "DELETE FROM uploads WHERE id = $1 AND writer = $2";
    query!(tx, execute sqlx::query(sql).bind(id).bind(writer))
}

/// Ends a session, whoever writes it; the answer is what to doom, and when.
pub async fn cancel(mut tx: &mut Tx, repository: &RepositoryName, id: &str) -> Result<Option<Session>> {
    let sql = "DELETE FROM uploads WHERE id = $1 AND repository = $2
               RETURNING id, storage_key, algorithm, offset_bytes, hash_state, writer_until";
    query!(tx, fetch_optional sqlx::query_as(sql).bind(id).bind(repository.as_str()))
}

/// Ends sessions that nobody went on with; the answer is what to doom.
///
/// The conditions stand twice: PostgreSQL looks at the outer ones again when it has waited for a writer
/// who claimed the row meanwhile.
pub async fn expire(mut tx: &mut Tx, now: i64, limit: i64) -> Result<Vec<Session>> {
    let sql = "DELETE FROM uploads WHERE id IN
                   (SELECT id FROM uploads WHERE expires_at <= $1 AND writer_until <= $1
                    ORDER BY expires_at LIMIT $2)
                 AND expires_at <= $1 AND writer_until <= $1
               RETURNING id, storage_key, algorithm, offset_bytes, hash_state, writer_until";
    query!(tx, fetch_all sqlx::query_as(sql).bind(now).bind(limit))
}

/// Takes every session from its writer. Only for a process that knows it is alone: the writers
/// were an earlier life of its own.
pub async fn release_all(mut tx: &mut Tx) -> Result<u64> {
    query!(tx, execute sqlx::query("UPDATE uploads SET writer = NULL, writer_until = 0 WHERE writer_until > 0"))
}

/// Keys of sessions from `from` on, for `fsck`, with the offset the row knows.
pub async fn keys(mut on: impl Handle, from: &str, before: &str) -> Result<Vec<Session>> {
    let sql = "SELECT id, storage_key, algorithm, offset_bytes, hash_state, writer_until
               FROM uploads WHERE storage_key >= $1 AND storage_key < $2 ORDER BY storage_key";
    query!(on, fetch_all sqlx::query_as(sql).bind(from).bind(before))
}

pub(super) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
