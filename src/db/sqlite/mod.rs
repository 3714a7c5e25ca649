//! SQLite: readers beside one writer, and one sync for many commits.
//!
//! A statement runs on the thread that asks: it takes microseconds, which a way to another thread and
//! back would double (decision 0013). So does a commit, which writes to the kernel's memory. What waits for
//! the disk, a sync and the folding of the log into the database, is done where it may block.
//!
//! SQLite itself commits without a sync (`synchronous=NORMAL`). Whoever is to be told that their
//! write stands waits for a sync of the log that began after their commit, and shares it with all
//! who committed meanwhile.

mod log;
mod statement;

use std::cell::Cell;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::spawn_blocking;

use self::log::Log;
pub(crate) use self::statement::columns_of;
pub use self::statement::{Bound, FromRow, Large, On, count, parsed, place, plain};
use super::{Db, Error, Result};

/// Connections for reading that are kept; more are opened when more read at once.
const READERS: usize = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const STATEMENTS: usize = 200;
/// Pages in the log from which on it is folded into the database.
const LOG_PAGES: i32 = 16_000;

thread_local! {
    /// How long the log was after the last commit of this thread, in pages.
    static LOGGED: Cell<i32> = const { Cell::new(0) };
}

/// Opens the file, makes it if it is not there, and refuses it if another process has it.
pub(super) async fn open(path: &Path) -> Result<Db> {
    let path = path.to_owned();
    let opened = spawn_blocking(move || {
        let failed = |source| Error::Open { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock = lock(&path)?;
        let writer = Writer::open(&path, lock)?;
        let readers = Readers { path, idle: std::sync::Mutex::new(Some(Vec::new())) };
        Ok(Db::Sqlite { reader: Arc::new(readers), writer })
    });
    opened.await.map_err(Error::Broken)?
}

/// Takes the file beside the database that says it is in use; the kernel lets go of it even after
/// kill -9.
fn lock(path: &Path) -> Result<File> {
    let beside = path.with_extension("lock");
    let failed = |source| Error::Open { path: beside.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&beside).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Connections that read.
#[derive(Debug)]
pub struct Readers {
    path: PathBuf,
    /// Those that nobody uses; gone once closed.
    idle: std::sync::Mutex<Option<Vec<Connection>>>,
}

impl Readers {
    fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let free = idle().as_mut().ok_or_else(Error::closed)?.pop();
        let connection = match free {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        let outcome = work(&connection);
        if let Some(idle) = idle().as_mut().filter(|idle| idle.len() < READERS) {
            idle.push(connection);
        }
        Ok(outcome?)
    }

    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Otherwise a statement with a bound LIMIT is planned anew each time it runs.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// The one connection that writes.
#[derive(Clone, Debug)]
pub struct Writer {
    path: PathBuf,
    /// Gone once closed.
    connection: Arc<Mutex<Option<Connection>>>,
    log: Arc<Log>,
    _lock: Arc<File>,
}

/// A turn on the writer: a transaction.
#[derive(Debug)]
pub struct WriterTurn {
    connection: OwnedMutexGuard<Option<Connection>>,
    log: Arc<Log>,
    /// Whether the transaction is open.
    open: bool,
}

impl Writer {
    fn open(path: &Path, lock: File) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = connect(path, flags)?;
        // A commit survives the end of the process. What makes it survive a power cut is `Log`. What a statement
        // would need to take itself back is kept in memory: in a file that is to come once it is long, it takes
        // 64 KiB each time, which glibc gives back to the kernel each time. The last statement opens the log,
        // which goes with the last connection that has it open.
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;
             PRAGMA journal_size_limit = 67108864; PRAGMA temp_store = MEMORY; SELECT COUNT(*) FROM sqlite_schema;",
        )?;
        // Instead of SQLite's own hook, which would fold within a commit.
        connection.wal_hook(Some(|_, pages| {
            LOGGED.set(pages);
            Ok(())
        }));
        Ok(Self {
            path: path.to_owned(),
            connection: Arc::new(Mutex::new(Some(connection))),
            log: Arc::new(Log::beside(path)),
            _lock: Arc::new(lock),
        })
    }

    /// Waits for a turn, and begins a transaction.
    pub(super) async fn transaction(&self) -> Result<WriterTurn> {
        self.log.works()?;
        let connection = Arc::clone(&self.connection).lock_owned().await;
        let mut turn = WriterTurn { connection, log: Arc::clone(&self.log), open: false };
        // IMMEDIATE takes the write lock up front instead of failing half way.
        turn.run("BEGIN IMMEDIATE")?;
        turn.open = true;
        Ok(turn)
    }

    /// An error once a commit could not be made durable: nothing is written from then on.
    pub(super) fn works(&self) -> Result<()> {
        self.log.works()
    }

    /// Returns when all that readers see survives a power cut.
    pub(super) async fn settle(&self) -> Result<()> {
        let turn = self.connection.lock().await;
        // Whoever has a turn may have committed what is not counted yet: nobody has one now.
        let commit = self.log.last();
        drop(turn);
        Arc::clone(&self.log).sync(commit).await
    }

    pub(super) async fn migrate(&self) -> Result<()> {
        let connection = self.connection.lock().await;
        let options = SqliteConnectOptions::new().filename(&self.path).busy_timeout(BUSY_TIMEOUT);
        let mut migrating = options.connect().await?;
        let mut migrator = sqlx::migrate!("migrations/sqlite");
        // A database one version ahead still works: migrations expand before they contract.
        migrator.set_ignore_missing(true);
        migrator.run(&mut migrating).await?;
        migrating.close().await?;
        let commit = self.log.committed();
        drop(connection);
        Arc::clone(&self.log).sync(commit).await
    }

    pub(super) async fn close(&self) {
        // Folds the log into the database; a failure leaves it to the next start.
        let connection = self.connection.lock().await.take();
        let _ = spawn_blocking(move || drop(connection)).await;
    }
}

impl WriterTurn {
    pub(super) fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a turn has begun on an open connection")
    }

    fn run(&self, sql: &str) -> Result<()> {
        let connection = self.connection.as_ref().ok_or_else(Error::closed)?;
        Ok(connection.prepare_cached(sql)?.execute(()).map(drop)?)
    }

    /// Ends the turn: what was written survives the end of the process.
    pub(super) async fn commit_lightly(self) -> Result<()> {
        self.end().await.map(drop)
    }

    /// Ends the turn, and returns when what was written survives a power cut.
    pub(super) async fn commit(self) -> Result<()> {
        let log = Arc::clone(&self.log);
        let commit = self.end().await?;
        log.sync(commit).await
    }

    /// Commits, and lets the next one write.
    async fn end(mut self) -> Result<u64> {
        LOGGED.set(0);
        self.run("COMMIT")?;
        self.open = false;
        let commit = self.log.committed();
        if LOGGED.get() >= LOG_PAGES {
            // Nobody writes meanwhile, so that the log ends, and the next commit begins it anew.
            spawn_blocking(move || self.fold()).await.map_err(Error::Broken)?;
        }
        Ok(commit)
    }

    /// Folds the log into the database as far as no reader needs it. Blocks.
    fn fold(self) {
        let folded = self.connection.as_ref().map(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |row| row.get::<_, i64>("busy"))
        });
        let Some(Err(error)) = folded else { return };
        if error.sqlite_error_code() == Some(rusqlite::ErrorCode::SystemIoFailure) {
            // It syncs the log first, and a failure of that is told once.
            self.log.fail(io::Error::other(error));
        } else {
            tracing::warn!(%error, "could not fold the log into the index; the next commit tries again");
        }
    }
}

impl Drop for WriterTurn {
    fn drop(&mut self) {
        if self.open {
            // An error says that there is nothing to roll back: SQLite did it by itself, as on a full
            // disk.
            let _ = self.run("ROLLBACK");
        }
    }
}
