//! SQLite: readers beside one writer, and one sync for many commits.
//!
//! The writer holds one SQL transaction open for as long as others are waiting for their turn; each
//! turn is a savepoint in it. Whoever finds nobody behind them commits for all. So a commit costs
//! one sync when it is alone, and a share of one when it is not, and nobody is told that their
//! write stands before it does.

use std::fs::{self, File, TryLockError};
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, SqliteConnection};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::task::TaskTracker;

use super::{Db, Error, Result};

const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the file, makes it if it is not there, and refuses it if another process has it.
pub(super) async fn open(path: &Path) -> Result<Db> {
    let failed = |source| Error::Open { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let lock = lock(path)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // With WAL, FULL is what makes a commit survive a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("journal_size_limit", "67108864")
        .statement_cache_capacity(200);
    let connection = options.connect().await?;
    let reader = SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .connect_with(options.read_only(true))
        .await?;
    let state = State {
        connection: Some(connection),
        open: false,
        abandoned: false,
        outcome: Arc::default(),
        _lock: lock,
    };
    let writer = Writer { state: Arc::new(Mutex::new(state)), tasks: TaskTracker::new() };
    Ok(Db::Sqlite { reader, writer })
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

/// How the transaction that several turns shared ended; empty until it has.
type SharedOutcome = Arc<OnceLock<std::result::Result<(), Arc<sqlx::Error>>>>;

/// The one connection that writes.
#[derive(Clone, Debug)]
pub struct Writer {
    state: Arc<Mutex<State>>,
    /// Where transactions begin and end. Whoever waits for that may be cut; the statement on its way
    /// is not, and what it came to must be known, or the next transaction would not know where it is.
    tasks: TaskTracker,
}

#[derive(Debug)]
struct State {
    /// Gone once closed.
    connection: Option<SqliteConnection>,
    /// A transaction is open.
    open: bool,
    /// The last turn ended without a commit, so its savepoint is still to be rolled back. Set when a
    /// turn begins: a turn that is simply dropped leaves it so.
    abandoned: bool,
    outcome: SharedOutcome,
    _lock: File,
}

/// A turn on the writer; a transaction of its own for the one who has it.
pub struct WriterTurn {
    state: OwnedMutexGuard<State>,
    writer: Writer,
}

impl Writer {
    pub(super) async fn turn(&self) -> Result<WriterTurn> {
        let state = Arc::clone(&self.state).lock_owned().await;
        let state = self.finish(State::begin(state)).await?;
        Ok(WriterTurn { state, writer: self.clone() })
    }

    /// Does something to its end, even if nobody waits for it any longer.
    async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.tasks.spawn(work).await.unwrap_or_else(|_| Err(sqlx::Error::WorkerCrashed.into()))
    }

    pub(super) async fn migrate(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        state.tidy().await;
        let mut migrator = sqlx::migrate!("migrations/sqlite");
        // A database one version ahead still works: migrations expand before they contract.
        migrator.set_ignore_missing(true);
        Ok(migrator.run(state.connection()?).await?)
    }

    pub(super) async fn close(&self) {
        let mut state = self.state.lock().await;
        if state.open {
            state.commit().await;
        }
        if let Some(connection) = state.connection.take() {
            // Folds the log into the database; a failure leaves it to the next start.
            let _ = connection.close().await;
        }
    }
}

impl State {
    /// Begins a turn, in the transaction that is open or in a new one.
    async fn begin(mut state: OwnedMutexGuard<Self>) -> Result<OwnedMutexGuard<Self>> {
        state.tidy().await;
        if !state.open {
            state.open = true;
            // IMMEDIATE takes the write lock up front instead of failing half way.
            if let Err(error) = state.run("BEGIN IMMEDIATE").await {
                state.fail().await;
                return Err(error.into());
            }
        }
        state.abandoned = true;
        if let Err(error) = state.run("SAVEPOINT turn").await {
            state.fail().await;
            return Err(error.into());
        }
        Ok(state)
    }

    fn connection(&mut self) -> std::result::Result<&mut SqliteConnection, sqlx::Error> {
        self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)
    }

    async fn run(&mut self, sql: &'static str) -> std::result::Result<(), sqlx::Error> {
        self.connection()?.execute(sql).await.map(drop)
    }

    /// Undoes what a turn left that ended without a commit.
    async fn tidy(&mut self) {
        if !self.abandoned {
            return;
        }
        // A full disk rolls the whole transaction back by itself, and then there is no savepoint.
        if self.run("ROLLBACK TO turn").await.is_err() || self.run("RELEASE turn").await.is_err() {
            self.fail().await;
        }
        self.abandoned = false;
    }

    /// Ends the shared transaction as failed, for everyone in it.
    async fn fail(&mut self) {
        let _ = self.run("ROLLBACK").await;
        let lost = sqlx::Error::Protocol("the shared transaction was rolled back".into());
        self.end(Err(Arc::new(lost)));
    }

    fn end(&mut self, outcome: std::result::Result<(), Arc<sqlx::Error>>) {
        (self.open, self.abandoned) = (false, false);
        let _ = std::mem::take(&mut self.outcome).set(outcome);
    }

    /// Commits for everyone in the shared transaction.
    async fn commit(&mut self) {
        self.tidy().await;
        if !self.open {
            return;
        }
        match self.run("COMMIT").await {
            Ok(()) => self.end(Ok(())),
            Err(error) => {
                let _ = self.run("ROLLBACK").await;
                self.end(Err(Arc::new(error)));
            }
        }
    }
}

impl WriterTurn {
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        self.state.connection.as_mut().expect("a turn is only given on an open connection")
    }

    /// Ends the turn and leaves what it wrote to the next commit. Other turns see it; readers do not.
    pub(super) async fn release(self) -> Result<()> {
        let writer = self.writer.clone();
        writer.finish(async { self.end().await.map(drop) }).await
    }

    pub(super) async fn commit(self) -> Result<()> {
        let writer = self.writer.clone();
        writer.finish(self.end_and_commit()).await
    }

    async fn end(mut self) -> Result<(Writer, SharedOutcome)> {
        if let Err(error) = self.state.run("RELEASE turn").await {
            self.state.fail().await;
            return Err(error.into());
        }
        self.state.abandoned = false;
        let outcome = Arc::clone(&self.state.outcome);
        Ok((self.writer, outcome))
    }

    async fn end_and_commit(self) -> Result<()> {
        let (writer, outcome) = self.end().await?;
        // The lock is fair: whoever waited for a turn when this one ended has theirs before this
        // line returns, in the same transaction. The first to come back here commits for all.
        let mut state = writer.state.lock().await;
        if outcome.get().is_none() {
            state.commit().await;
        }
        match outcome.get() {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(Error::Commit(Arc::clone(error))),
            None => Err(Error::Sql(sqlx::Error::PoolClosed)),
        }
    }
}
