//! Upload sessions: where each upload stands, and who may write it now.

use berth_storage::{Key, Layout, Parts};

use super::sqlite::{Large, columns_of};
use super::{Driver, Handle, Result, Tx, query};
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
    /// Who has it: the key under which this writer may have put something.
    pub writer: Option<String>,
    /// Until when a writer has it; 0 if none has.
    pub writer_until: i64,
    /// The multipart upload under `storage_key`.
    pub multipart: Option<String>,
    /// How its object is divided into parts.
    pub part_bytes: i64,
    /// Whether later parts are larger: 1 or 0.
    pub parts_grow: i64,
    /// How many parts there are in `upload_parts`.
    #[sqlx(try_from = "i64")]
    pub parts_count: u64,
    /// The multipart upload that the writer has begun under its own key.
    pub writer_multipart: Option<String>,
}

columns_of!(Session {
    id: plain,
    storage_key: parsed,
    algorithm: plain,
    offset_bytes: count,
    hash_state: plain,
    writer: plain,
    writer_until: plain,
    multipart: plain,
    part_bytes: plain,
    parts_grow: plain,
    parts_count: count,
    writer_multipart: plain
});

/// The columns of a [`Session`].
macro_rules! columns {
    () => {
        "id, storage_key, algorithm, offset_bytes, hash_state, writer, writer_until, multipart, part_bytes,
         parts_grow, parts_count, writer_multipart"
    };
}

const TAILS: Large<'_> = Large { table: "upload_tails", column: "content" };

/// Whose a session is: nobody else's exists for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The repository it adds to.
    pub repository: RepositoryName,
    /// Who began it; empty for anonymous.
    pub subject: String,
}

/// Something in the store that belongs to a session: a key, and the multipart upload under it.
pub type Place = (Key, Option<String>);

impl Session {
    /// A session without a byte.
    pub fn new(id: String, storage_key: Key, algorithm: String, hash_state: Vec<u8>) -> Self {
        Self {
            id,
            storage_key,
            algorithm,
            offset_bytes: 0,
            hash_state,
            writer: None,
            writer_until: 0,
            multipart: None,
            part_bytes: 0,
            parts_grow: 0,
            parts_count: 0,
            writer_multipart: None,
        }
    }

    /// Its parts, if it has been divided.
    pub fn parts(&self) -> Option<Parts> {
        let multipart = self.multipart.clone()?;
        let part_bytes = u64::try_from(self.part_bytes).unwrap_or_default();
        let layout = Layout { part_bytes, grows: self.parts_grow != 0 };
        Some(Parts { multipart, layout, known: self.parts_count, ids: Vec::new() })
    }

    /// Where its bytes are.
    pub fn place(&self) -> Place {
        (self.storage_key.clone(), self.multipart.clone())
    }

    /// Where its writer may have put something that it does not stand on.
    pub fn writers_place(&self) -> Option<Place> {
        if self.writer_until <= 0 {
            return None;
        }
        let key = Key::try_from(self.writer.clone()?).ok()?;
        Some((key, self.writer_multipart.clone()))
    }
}

/// Begins a session.
pub async fn insert(
    mut tx: &mut Tx,
    session: &Session,
    owner: &Owner,
    now: i64,
    expires_at: i64,
) -> Result<u64> {
    let sql = "INSERT INTO uploads
                   (id, repository, storage_key, algorithm, offset_bytes, hash_state, created_at, expires_at,
                    subject)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    query!(tx, execute sqlx::query(sql)
        .bind(&session.id)
        .bind(owner.repository.as_str())
        .bind(session.storage_key.as_str())
        .bind(&session.algorithm)
        .bind(signed(session.offset_bytes))
        .bind(&session.hash_state)
        .bind(now)
        .bind(expires_at)
        .bind(&owner.subject))
}

/// A session of this owner; another's is not found.
pub async fn find(mut on: impl Handle, owner: &Owner, id: &str) -> Result<Option<Session>> {
    let sql =
        concat!("SELECT ", columns!(), " FROM uploads WHERE id = $1 AND repository = $2 AND subject = $3");
    query!(on, fetch_optional sqlx::query_as(sql)
        .bind(id)
        .bind(owner.repository.as_str())
        .bind(&owner.subject))
}

/// Makes `writer` the one who may write a session that nobody else has.
pub async fn claim(
    mut tx: &mut Tx,
    owner: &Owner,
    id: &str,
    writer: &Key,
    until: i64,
) -> Result<Option<Session>> {
    let sql = concat!(
        "UPDATE uploads SET writer = $3, writer_until = $4, writer_multipart = NULL
         WHERE id = $1 AND repository = $2 AND subject = $5 AND writer_until <= 0 RETURNING ",
        columns!()
    );
    query!(tx, fetch_optional sqlx::query_as(sql)
        .bind(id)
        .bind(owner.repository.as_str())
        .bind(writer.as_str())
        .bind(until)
        .bind(&owner.subject))
}

/// Makes `writer` the one who may write instead of another, `late`, whose time is over.
pub async fn take_over(
    mut tx: &mut Tx,
    late: &Session,
    writer: &Key,
    until: i64,
    now: i64,
) -> Result<Option<Session>> {
    let sql = concat!(
        "UPDATE uploads SET writer = $3, writer_until = $4, writer_multipart = NULL
         WHERE id = $1 AND writer = $2 AND writer_until <= $5 RETURNING ",
        columns!()
    );
    query!(tx, fetch_optional sqlx::query_as(sql)
        .bind(&late.id)
        .bind(&late.writer)
        .bind(writer.as_str())
        .bind(until)
        .bind(now))
}

/// Whether a session is `writer`'s, or was last and is nobody's.
pub async fn is_writer(mut on: impl Handle, id: &str, writer: &Key) -> Result<bool> {
    let sql = "SELECT 1 FROM uploads WHERE id = $1 AND writer = $2";
    let row: Option<(i32,)> = query!(on, fetch_optional sqlx::query_as(sql).bind(id).bind(writer.as_str()))?;
    Ok(row.is_some())
}

/// Saves how far a session has come. `session.writer_until` 0 lets go of it. None of it happens, and the
/// answer is 0, once the session is gone or another's.
pub async fn save(mut tx: &mut Tx, session: &Session, expires_at: i64) -> Result<u64> {
    let sql = "UPDATE uploads SET offset_bytes = $3, hash_state = $4, writer_until = $5, expires_at = $6,
                   parts_count = $7, writer_multipart = $8
               WHERE id = $1 AND writer = $2";
    query!(tx, execute sqlx::query(sql)
        .bind(&session.id)
        .bind(&session.writer)
        .bind(signed(session.offset_bytes))
        .bind(&session.hash_state)
        .bind(session.writer_until)
        .bind(expires_at)
        .bind(signed(session.parts_count))
        .bind(&session.writer_multipart))
}

/// Saves where the bytes of a session are now. Most sessions stay where they began; SQLite writes the index of
/// a column anew whatever its value, so that it is no part of [`save`].
pub async fn save_place(mut tx: &mut Tx, session: &Session) -> Result<u64> {
    let sql = "UPDATE uploads SET storage_key = $3, multipart = $4, part_bytes = $5, parts_grow = $6
               WHERE id = $1 AND writer = $2";
    query!(tx, execute sqlx::query(sql)
        .bind(&session.id)
        .bind(&session.writer)
        .bind(session.storage_key.as_str())
        .bind(&session.multipart)
        .bind(session.part_bytes)
        .bind(session.parts_grow))
}

/// Remembers the multipart upload that a writer has begun under its own key.
pub async fn open_multipart(mut tx: &mut Tx, session: &Session, multipart: &str) -> Result<u64> {
    let sql = "UPDATE uploads SET writer_multipart = $3 WHERE id = $1 AND writer = $2";
    query!(tx, execute sqlx::query(sql).bind(&session.id).bind(&session.writer).bind(multipart))
}

/// Remembers what the store calls the parts from number `first` on.
pub async fn add_parts(mut tx: &mut Tx, id: &str, first: u64, ids: &[String]) -> Result<()> {
    /// Parts one statement writes: as many as a checkpoint usually has.
    const AT_ONCE: usize = 100;
    for (chunk, ids) in ids.chunks(AT_ONCE).enumerate() {
        let rows: Vec<String> =
            (0..ids.len()).map(|row| format!("($1, ${}, ${})", 2 * row + 2, 2 * row + 3)).collect();
        let sql = format!("INSERT INTO upload_parts (upload_id, number, part_id) VALUES {}", rows.join(", "));
        let numbers = first + (chunk * AT_ONCE) as u64..;
        match tx.driver() {
            Driver::Sqlite(on) => {
                let numbers: Vec<i64> = numbers.take(ids.len()).map(signed).collect();
                let mut bound = vec![&id as &dyn rusqlite::ToSql];
                for (number, id) in numbers.iter().zip(ids) {
                    bound.extend([number as &dyn rusqlite::ToSql, id]);
                }
                on.execute(&sql, &bound)?;
            }
            Driver::Postgres(on) => {
                let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id);
                for (number, id) in numbers.zip(ids) {
                    query = query.bind(signed(number)).bind(id);
                }
                query.execute(on).await?;
            }
        }
    }
    Ok(())
}

/// What the store calls the parts of a session, in order.
pub async fn parts(mut on: impl Handle, id: &str) -> Result<Vec<String>> {
    let sql = "SELECT part_id FROM upload_parts WHERE upload_id = $1 ORDER BY number";
    let rows: Vec<(String,)> = query!(on, fetch_all sqlx::query_as(sql).bind(id))?;
    Ok(rows.into_iter().map(|(part,)| part).collect())
}

/// Keeps the bytes behind a session's last part.
pub async fn keep_tail(mut tx: &mut Tx, id: &str, content: &[u8]) -> Result<()> {
    let zeros = "INSERT INTO upload_tails (upload_id, content) VALUES ($1, zeroblob($2))
                 ON CONFLICT (upload_id) DO UPDATE SET content = excluded.content RETURNING rowid";
    let sql = "INSERT INTO upload_tails (upload_id, content) VALUES ($1, $2)
               ON CONFLICT (upload_id) DO UPDATE SET content = excluded.content";
    match tx.driver() {
        Driver::Sqlite(on) => on.write_large(TAILS, zeros, &[&id, &signed(content.len() as u64)], content)?,
        Driver::Postgres(on) => {
            sqlx::query(sql).bind(id).bind(content).execute(on).await?;
        }
    }
    Ok(())
}

/// Forgets the bytes behind a session's last part.
pub async fn drop_tail(mut tx: &mut Tx, id: &str) -> Result<u64> {
    query!(tx, execute sqlx::query("DELETE FROM upload_tails WHERE upload_id = $1").bind(id))
}

/// The bytes behind a session's last part.
pub async fn tail(mut on: impl Handle, id: &str) -> Result<Vec<u8>> {
    let number = "SELECT rowid FROM upload_tails WHERE upload_id = $1";
    let sql = "SELECT content FROM upload_tails WHERE upload_id = $1";
    let content = match on.driver() {
        Driver::Sqlite(on) => on.read_large(TAILS, number, &[&id], 0..usize::MAX)?,
        Driver::Postgres(on) => sqlx::query_scalar(sql).bind(id).fetch_optional(on).await?,
    };
    Ok(content.unwrap_or_default())
}

/// Ends a session that nobody has claimed since it was `known`; the answer is where it stood.
pub async fn remove(mut tx: &mut Tx, known: &Session) -> Result<Option<Session>> {
    let sql = concat!("DELETE FROM uploads WHERE id = $1 AND writer = $2 RETURNING ", columns!());
    query!(tx, fetch_optional sqlx::query_as(sql).bind(&known.id).bind(&known.writer))
}

/// Ends a session, whoever writes it; the answer is what to doom, and when.
pub async fn cancel(mut tx: &mut Tx, owner: &Owner, id: &str) -> Result<Option<Session>> {
    let sql = concat!(
        "DELETE FROM uploads WHERE id = $1 AND repository = $2 AND subject = $3 RETURNING ",
        columns!()
    );
    query!(tx, fetch_optional sqlx::query_as(sql)
        .bind(id)
        .bind(owner.repository.as_str())
        .bind(&owner.subject))
}

/// Whether there is a session that nobody went on with. No index is kept for it: each step of each upload
/// would write to it, and sessions are few.
pub async fn any_expired(mut on: impl Handle, now: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM uploads WHERE expires_at <= $1 AND writer_until <= $1 LIMIT 1";
    let row: Option<(i32,)> = query!(on, fetch_optional sqlx::query_as(sql).bind(now))?;
    Ok(row.is_some())
}

/// Ends sessions that nobody went on with; the answer is what to doom.
///
/// The conditions stand twice: PostgreSQL looks at the outer ones again when it has waited for a writer
/// who claimed the row meanwhile.
pub async fn expire(mut tx: &mut Tx, now: i64, limit: i64) -> Result<Vec<Session>> {
    let sql = concat!(
        "DELETE FROM uploads WHERE id IN
             (SELECT id FROM uploads WHERE expires_at <= $1 AND writer_until <= $1 LIMIT $2)
           AND expires_at <= $1 AND writer_until <= $1
         RETURNING ",
        columns!()
    );
    query!(tx, fetch_all sqlx::query_as(sql).bind(now).bind(limit))
}

/// Sessions that a writer has. Only a process that knows it is alone may take them away: the writers
/// were an earlier life of its own.
pub async fn written(mut on: impl Handle) -> Result<Vec<Session>> {
    let sql = concat!("SELECT ", columns!(), " FROM uploads WHERE writer_until > 0");
    query!(on, fetch_all sqlx::query_as(sql))
}

/// Takes every session from its writer.
pub async fn release_all(mut tx: &mut Tx) -> Result<u64> {
    let sql = "UPDATE uploads SET writer = NULL, writer_until = 0, writer_multipart = NULL
               WHERE writer_until > 0";
    query!(tx, execute sqlx::query(sql))
}

/// Sessions with a key from `from` on, their own or their writer's, for `fsck`.
pub async fn keys(mut on: impl Handle, from: &str, before: &str) -> Result<Vec<Session>> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM uploads WHERE (storage_key >= $1 AND storage_key < $2) OR (writer >= $1 AND writer < $2)"
    );
    query!(on, fetch_all sqlx::query_as(sql).bind(from).bind(before))
}

/// Whether a session, or its writer, has a key.
pub async fn is_key(mut on: impl Handle, key: &Key) -> Result<bool> {
    let sql = "SELECT 1 FROM uploads WHERE storage_key = $1 OR (writer = $1 AND writer_until > 0) LIMIT 1";
    let row: Option<(i32,)> = query!(on, fetch_optional sqlx::query_as(sql).bind(key.as_str()))?;
    Ok(row.is_some())
}

pub(super) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
