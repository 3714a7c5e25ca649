//! The index, on SQLite or PostgreSQL: every line of SQL is below this module.
//!
//! A query is written once, in the SQL both read, and [`query!`] expands it for each driver. Reads
//! take any [`Handle`]; writes take a [`Tx`]. Times are unix milliseconds, sizes bytes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, PgPool, Postgres, Transaction};

pub mod blobs;
pub mod doomed_objects;
pub mod manifests;
mod postgres;
pub mod referrers;
pub mod refresh_tokens;
pub mod repositories;
pub mod revocations;
pub mod scrubs;
pub mod signing_keys;
mod sqlite;
pub mod stores;
pub mod tags;
pub mod uploads;

/// One for each database.
pub enum Driver<S, P> {
    /// SQLite's.
    Sqlite(S),
    /// PostgreSQL's.
    Postgres(P),
}

/// Something a query can run on.
pub trait Handle: Send {
    /// The executor of whichever database this is.
    fn driver(&mut self) -> Driver<sqlite::On<'_>, impl PgExecutor<'_>>;
}

/// Where an index is.
#[derive(Debug, Clone)]
pub enum Location {
    /// A SQLite file; only one process may use it at a time.
    Sqlite(PathBuf),
    /// A `postgres://` URL and the size of the pool.
    Postgres {
        /// The URL, with its secrets.
        url: String,
        /// Connections this process opens at most.
        max_connections: u32,
    },
}

/// An open index.
#[derive(Clone, Debug)]
pub enum Db {
    /// Several readers, and one writer whose syncs many commits share.
    Sqlite {
        /// Connections that read.
        reader: Arc<sqlite::Readers>,
        /// The one connection that writes.
        writer: sqlite::Writer,
    },
    /// PostgreSQL.
    Postgres {
        /// Connections.
        pool: PgPool,
        /// What goes over them together.
        looks: Arc<postgres::Looks>,
    },
}

/// A transaction: what is written through it lands together or not at all.
pub struct Tx(Driver<sqlite::WriterTurn, PostgresTx>);

/// A transaction of PostgreSQL, or a connection whose one statement is a transaction by itself.
enum PostgresTx {
    Many(Transaction<'static, Postgres>),
    One(PoolConnection<Postgres>),
}

impl PostgresTx {
    fn connection(&mut self) -> &mut sqlx::PgConnection {
        match self {
            Self::Many(tx) => tx,
            Self::One(connection) => connection,
        }
    }

    async fn commit(self) -> Result<()> {
        match self {
            Self::Many(tx) => Ok(tx.commit().await?),
            Self::One(_) => Ok(()),
        }
    }
}

/// What a query came to.
pub type Result<T> = std::result::Result<T, Error>;

/// Trouble in the index.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// A statement failed, on SQLite.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A thread that worked on the index did not come back.
    #[error("the index was left in the middle of something: {0}")]
    Broken(tokio::task::JoinError),
    /// The disk did not keep what had been committed. Nothing is written any more: what is durable is
    /// what the next start finds.
    #[error("the disk did not keep the index: {0}; check the disk and start berth again")]
    Unsynced(Arc<io::Error>),
    /// A statement that was run for several at once failed.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// A migration failed; the database is as it was before it.
    #[error("migrating the database: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Another process has the SQLite file.
    #[error("{path} is in use by another berth process; stop it first, or use PostgreSQL to run several")]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The file or its folder cannot be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The database file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    fn closed() -> Self {
        sqlx::Error::PoolClosed.into()
    }

    /// What failed, whoever ran it.
    fn inner(&self) -> &Self {
        match self {
            Self::Shared(error) => error.inner(),
            error => error,
        }
    }

    /// PostgreSQL's word for it.
    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        match self.inner() {
            Self::Sql(error) => error.as_database_error()?.code(),
            _ => None,
        }
    }

    /// SQLite's words for it: one of a kind, and the kind.
    fn sqlite(&self) -> Option<(i32, rusqlite::ErrorCode)> {
        let Self::Sqlite(error) = self.inner() else { return None };
        error.sqlite_error().map(|error| (error.extended_code, error.code))
    }

    /// Another transaction removed what this one pointed at, or points at what this one removes.
    pub fn is_foreign_key_violation(&self) -> bool {
        match self.inner() {
            Self::Sql(error) => {
                error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_foreign_key_violation)
            }
            _ => self.sqlite().is_some_and(|(code, _)| code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY),
        }
    }

    /// Another transaction was in the way, and this one would succeed if it were run again: it pointed at
    /// what was removed meanwhile, or the two waited for each other and PostgreSQL ended this one.
    pub fn is_crossed(&self) -> bool {
        // deadlock_detected and serialization_failure.
        self.is_foreign_key_violation() || matches!(self.code().as_deref(), Some("40P01" | "40001"))
    }

    /// The database cannot be reached, or has no connection to spare; later it may.
    pub fn is_unavailable(&self) -> bool {
        // PostgreSQL's classes: connection exception, insufficient resources, operator intervention.
        let class = |code: &str| ["08", "53", "57"].iter().any(|class| code.starts_with(class));
        match self.inner() {
            Self::Unsynced(_)
            | Self::Sql(
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed,
            ) => true,
            _ => self.code().is_some_and(|code| code.len() == 5 && class(&code)),
        }
    }

    /// The disk under the index is full.
    pub fn is_full(&self) -> bool {
        // PostgreSQL's is disk_full.
        self.code().as_deref() == Some("53100")
            || self.sqlite().is_some_and(|(_, code)| code == rusqlite::ErrorCode::DiskFull)
    }
}

/// Runs one statement on either database: `query!(on, fetch_optional sqlx::query_as(SQL).bind(..))`.
macro_rules! query {
    ($on:expr, execute sqlx::query($sql:expr) $(.bind($bound:expr))*) => {
        match $crate::db::Handle::driver(&mut $on) {
            $crate::db::Driver::Sqlite(c) => {
                c.execute($crate::db::text($sql).as_str(), &[$(&$bound as &dyn rusqlite::ToSql),*])
            }
            $crate::db::Driver::Postgres(c) => {
                let outcome = sqlx::query($sql)$(.bind($bound))*.execute(c).await;
                outcome.map(|outcome| outcome.rows_affected()).map_err($crate::db::Error::from)
            }
        }
    };
    ($on:expr, $fetch:ident sqlx::query_as($sql:expr) $(.bind($bound:expr))*) => {
        match $crate::db::Handle::driver(&mut $on) {
            $crate::db::Driver::Sqlite(c) => {
                c.$fetch($crate::db::text($sql).as_str(), &[$(&$bound as &dyn rusqlite::ToSql),*])
            }
            $crate::db::Driver::Postgres(c) => {
                sqlx::query_as($sql)$(.bind($bound))*.$fetch(c).await.map_err($crate::db::Error::from)
            }
        }
    };
}
pub(crate) use query;

/// Like [`query!`] for a statement that ends in a list of digests, `IN (..)`, which is bound last.
///
/// `$sql` is a function from the list's placeholders to the statement.
macro_rules! query_in {
    ($on:expr, $fetch:ident, $query:path, $sql:expr, [$($bound:expr),*], $digests:expr) => {{
        let sql = $sql(&$crate::db::placeholders([$(stringify!($bound)),*].len() + 1, $digests.len()));
        match $crate::db::Handle::driver(&mut $on) {
            $crate::db::Driver::Sqlite(c) => {
                let digests: Vec<&str> = $digests.iter().map(|digest| digest.as_str()).collect();
                let first: &[&dyn rusqlite::ToSql] = &[$(&$bound),*];
                let digests = digests.iter().map(|digest| digest as &dyn rusqlite::ToSql);
                let bound: Vec<_> = first.iter().copied().chain(digests).collect();
                c.$fetch(&sql, &bound)
            }
            $crate::db::Driver::Postgres(c) => {
                let mut query = $query(sqlx::AssertSqlSafe(sql))$(.bind($bound))*;
                for digest in $digests { query = query.bind(digest.as_str()); }
                query.$fetch(c).await.map($crate::db::outcome).map_err($crate::db::Error::from)
            }
        }
    }};
}
pub(crate) use query_in;

/// A statement as it is written.
pub(crate) fn text(sql: impl sqlx::SqlSafeStr) -> sqlx::SqlStr {
    sql.into_sql_str()
}

/// How many digests one statement lists: below both databases' limit on bound values, and few
/// enough shapes for their statement caches.
pub(crate) const LIST: usize = 500;

/// `$first, $first+1, …`, `count` of them.
pub(crate) fn placeholders(first: usize, count: usize) -> String {
    let mut list = String::with_capacity(count * 5);
    for number in first..first + count {
        if number > first {
            list.push_str(", ");
        }
        list.push('$');
        list.push_str(&number.to_string());
    }
    list
}

/// What a caller wants to know of an answer.
pub(crate) trait Outcome {
    type Out;
    fn out(self) -> Self::Out;
}

impl Outcome for sqlx::postgres::PgQueryResult {
    type Out = u64;
    fn out(self) -> u64 {
        self.rows_affected()
    }
}

impl<T> Outcome for Vec<T> {
    type Out = Self;
    fn out(self) -> Self {
        self
    }
}

pub(crate) fn outcome<T: Outcome>(answer: T) -> T::Out {
    answer.out()
}

impl Handle for &Db {
    fn driver(&mut self) -> Driver<sqlite::On<'_>, impl PgExecutor<'_>> {
        match self {
            Db::Sqlite { reader, .. } => Driver::Sqlite(sqlite::On::Reader(reader)),
            Db::Postgres { pool, .. } => Driver::Postgres(pool),
        }
    }
}

impl Handle for &mut Tx {
    fn driver(&mut self) -> Driver<sqlite::On<'_>, impl PgExecutor<'_>> {
        match &mut self.0 {
            Driver::Sqlite(turn) => Driver::Sqlite(sqlite::On::Writer(turn.connection())),
            Driver::Postgres(tx) => Driver::Postgres(tx.connection()),
        }
    }
}

impl Db {
    /// Opens an index without looking at its tables.
    pub async fn open(location: &Location) -> Result<Self> {
        match location {
            Location::Sqlite(path) => sqlite::open(path).await,
            Location::Postgres { url, max_connections } => postgres::open(url, *max_connections).await,
        }
    }

    /// Brings the tables up to this version. Replicas that start together wait for each other.
    pub async fn migrate(&self) -> Result<()> {
        match self {
            Self::Sqlite { writer, .. } => writer.migrate().await,
            Self::Postgres { pool, .. } => postgres::migrate(pool).await,
        }
    }

    /// Begins a transaction.
    ///
    /// What waits for a connection of PostgreSQL is large, and boxed: every request would have the room for it.
    pub async fn begin(&self) -> Result<Tx> {
        Ok(Tx(match self {
            Self::Sqlite { writer, .. } => Driver::Sqlite(writer.transaction().await?),
            Self::Postgres { pool, .. } => Driver::Postgres(PostgresTx::Many(Box::pin(pool.begin()).await?)),
        }))
    }

    /// A transaction of a single statement. On PostgreSQL it saves the two that begin and end one, and lands
    /// when the statement has run, whatever becomes of the rest.
    pub async fn begin_one(&self) -> Result<Tx> {
        Ok(Tx(match self {
            Self::Sqlite { writer, .. } => Driver::Sqlite(writer.transaction().await?),
            Self::Postgres { pool, .. } => Driver::Postgres(PostgresTx::One(Box::pin(pool.acquire()).await?)),
        }))
    }

    /// Returns when all that can be read now survives a power cut: for an answer that promises what was only
    /// looked at. PostgreSQL shows nothing before.
    pub async fn settle(&self) -> Result<()> {
        match self {
            Self::Sqlite { writer, .. } => writer.settle().await,
            Self::Postgres { .. } => Ok(()),
        }
    }

    /// The row a statement finds by two texts, `$1` and `$2`; it finds one at most.
    async fn look<R>(&self, sql: &'static str, by: (&str, &str)) -> Result<Option<R>>
    where
        R: sqlite::FromRow + for<'r> sqlx::FromRow<'r, PgRow>,
    {
        match self {
            Self::Sqlite { reader, .. } => sqlite::On::Reader(reader).fetch_optional(sql, &[&by.0, &by.1]),
            // Boxed, as in `begin`.
            Self::Postgres { looks, .. } => Box::pin(looks.find(sql, by)).await,
        }
    }

    /// Answers whether the database answers.
    pub async fn ping(&self) -> Result<()> {
        let mut on = self;
        let (_,): (i32,) = query!(on, fetch_one sqlx::query_as("SELECT 1"))?;
        match self {
            Self::Sqlite { writer, .. } => writer.works(),
            Self::Postgres { .. } => Ok(()),
        }
    }

    /// Whether this process is the only one that can be using the database.
    pub fn is_exclusive(&self) -> bool {
        matches!(self, Self::Sqlite { .. })
    }

    /// Lets go of the database once running queries have ended.
    pub async fn close(&self) {
        match self {
            Self::Sqlite { reader, writer } => {
                reader.close();
                writer.close().await;
            }
            Self::Postgres { pool, looks } => {
                // Nobody who waits for a connection gets one any more.
                pool.close().await;
                looks.close().await;
            }
        }
    }
}

impl Tx {
    /// Returns when everyone sees what was written, and the end of the process cannot undo it. A power
    /// cut may: this is for the bookkeeping of uploads, which nobody was promised.
    pub async fn commit_lightly(self) -> Result<()> {
        match self.0 {
            Driver::Sqlite(turn) => turn.commit_lightly().await,
            Driver::Postgres(tx) => tx.commit().await,
        }
    }

    /// Returns when what was written is durable. Dropped without it, nothing was written.
    pub async fn commit(self) -> Result<()> {
        match self.0 {
            Driver::Sqlite(turn) => turn.commit().await,
            Driver::Postgres(tx) => tx.commit().await,
        }
    }
}
