//! How far the scrubber has come. There is one row, which one replica holds at a time.

use super::sqlite::columns_of;
use super::uploads::signed;
use super::{Result, Tx, query};

/// A round through all blobs, by digest.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Scrub {
    /// The last digest that was looked at; empty before the first.
    pub position: String,
    /// When the round began; 0 if none has.
    pub begun_at: i64,
    /// The bytes of all blobs, when it began.
    #[sqlx(try_from = "i64")]
    pub total_bytes: u64,
    /// The bytes that were read since.
    #[sqlx(try_from = "i64")]
    pub done_bytes: u64,
}

columns_of!(Scrub { position: plain, begun_at: plain, total_bytes: count, done_bytes: count });

/// Makes `holder` the one who scrubs until then, unless another is.
pub async fn take(mut tx: &mut Tx, holder: &str, now: i64, until: i64) -> Result<Option<Scrub>> {
    let sql =
        "UPDATE scrubs SET holder = $1, held_until = $3 WHERE id = 1 AND (holder = $1 OR held_until <= $2)
               RETURNING position, begun_at, total_bytes, done_bytes";
    query!(tx, fetch_optional sqlx::query_as(sql).bind(holder).bind(now).bind(until))
}

/// Saves how far its holder came; 0 once another scrubs.
pub async fn save(mut tx: &mut Tx, holder: &str, scrub: &Scrub, until: i64) -> Result<u64> {
    let sql =
        "UPDATE scrubs SET position = $2, begun_at = $3, total_bytes = $4, done_bytes = $5, held_until = $6
               WHERE id = 1 AND holder = $1";
    query!(tx, execute sqlx::query(sql)
        .bind(holder)
        .bind(&scrub.position)
        .bind(scrub.begun_at)
        .bind(signed(scrub.total_bytes))
        .bind(signed(scrub.done_bytes))
        .bind(until))
}
