//! SQLite: readers beside one writer, and one sync for many commits.
//!
//! SQLite itself commits without a sync (`synchronous=NORMAL`). Whoever is to be told that their
//! write stands waits for a sync of the log that began after their commit, and shares it with all
//! who committed meanwhile.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard, Notify, OwnedMutexGuard};
use tokio::task::spawn_blocking;

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
        // A commit survives the end of the process. What makes it survive a power cut is `Log`.
        .synchronous(SqliteSynchronous::Normal)
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
    let state = State { connection: Some(connection), begun: false, _lock: lock };
    let writer = Writer { state: Arc::new(Mutex::new(state)), log: Arc::new(Log::beside(path)) };
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

/// The one connection that writes.
#[derive(Clone, Debug)]
pub struct Writer {
    state: Arc<Mutex<State>>,
    log: Arc<Log>,
}

#[derive(Debug)]
struct State {
    /// Gone once closed.
    connection: Option<SqliteConnection>,
    /// A transaction may be open: set before it begins, taken back once it is known to have ended. A
    /// turn that is dropped, or cut while it waits for an answer, leaves it so.
    begun: bool,
    _lock: File,
}

/// A turn on the writer: a transaction, or a single statement.
pub struct WriterTurn {
    state: OwnedMutexGuard<State>,
    log: Arc<Log>,
}

impl Writer {
    /// Waits for a turn, and begins a transaction.
    pub(super) async fn transaction(&self) -> Result<WriterTurn> {
        let mut turn = self.statement().await?;
        turn.state.begun = true;
        // IMMEDIATE takes the write lock up front instead of failing half way.
        turn.state.run("BEGIN IMMEDIATE").await?;
        Ok(turn)
    }

    /// Waits for a turn; a statement is then a transaction by itself.
    pub(super) async fn statement(&self) -> Result<WriterTurn> {
        self.log.works()?;
        let mut state = Arc::clone(&self.state).lock_owned().await;
        state.tidy().await?;
        Ok(WriterTurn { state, log: Arc::clone(&self.log) })
    }

    /// An error once a commit could not be made durable: nothing is written from then on.
    pub(super) fn works(&self) -> Result<()> {
        self.log.works()
    }

    pub(super) async fn migrate(&self) -> Result<()> {
        let mut turn = self.statement().await?;
        let mut migrator = sqlx::migrate!("migrations/sqlite");
        // A database one version ahead still works: migrations expand before they contract.
        migrator.set_ignore_missing(true);
        migrator.run(turn.connection()).await?;
        turn.commit().await
    }

    pub(super) async fn close(&self) {
        let mut state = self.state.lock().await;
        if let Some(connection) = state.connection.take() {
            // Folds the log into the database; a failure leaves it to the next start.
            let _ = connection.close().await;
        }
    }
}

impl State {
    async fn run(&mut self, sql: &'static str) -> std::result::Result<(), sqlx::Error> {
        self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)?.execute(sql).await.map(drop)
    }

    /// Rolls back what the last turn may have left open.
    async fn tidy(&mut self) -> Result<()> {
        if self.connection.is_none() {
            return Err(sqlx::Error::PoolClosed.into());
        }
        if self.begun {
            // An error says that there is nothing to roll back: the turn was cut before it had begun
            // or after it had ended, or SQLite did it by itself, as on a full disk.
            let _ = self.run("ROLLBACK").await;
            self.begun = false;
        }
        Ok(())
    }
}

impl WriterTurn {
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        self.state.connection.as_mut().expect("a turn is only given on an open connection")
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

    async fn end(mut self) -> Result<u64> {
        if self.state.begun {
            self.state.run("COMMIT").await?;
            self.state.begun = false;
        }
        // Still with the turn: a sync that counts this commit begins after it.
        Ok(self.log.commits.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

/// The write-ahead log, as far as its syncs go. SQLite keeps one file for as long as it is open.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    commits: AtomicU64,
    /// The last commit that would survive a power cut.
    synced: AtomicU64,
    /// The log's own handle, for the one who syncs.
    file: Mutex<Option<Arc<File>>>,
    /// Whoever syncs has ended.
    ended: Notify,
    /// Why a sync failed. The kernel may have dropped what it could not write, and the next sync would
    /// not say so: only what a restart finds can be trusted.
    failed: OnceLock<Arc<io::Error>>,
}

impl Log {
    fn beside(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self {
            path: path.into(),
            commits: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            file: Mutex::default(),
            ended: Notify::new(),
            failed: OnceLock::new(),
        }
    }

    fn works(&self) -> Result<()> {
        match self.failed.get() {
            Some(error) => Err(Error::Unsynced(Arc::clone(error))),
            None => Ok(()),
        }
    }

    /// Returns when a commit would survive a power cut.
    async fn sync(&self, commit: u64) -> Result<()> {
        loop {
            let mut ended = pin!(self.ended.notified());
            // From here on no end is missed.
            ended.as_mut().enable();
            self.works()?;
            if self.synced.load(Ordering::SeqCst) >= commit {
                return Ok(());
            }
            match self.file.try_lock() {
                Ok(file) => self.sync_for_all(file).await,
                // A sync that began too early for this commit, maybe: then the next one is shared by
                // all who wait here.
                Err(_) => ended.await,
            }
        }
    }

    async fn sync_for_all(&self, file: MutexGuard<'_, Option<Arc<File>>>) {
        // Also if this is cut half way: another one must take over.
        let mut turn = SyncTurn { file: Some(file), ended: &self.ended };
        let file = turn.file.as_mut().expect("it is taken when the turn ends");
        let up_to = self.commits.load(Ordering::SeqCst);
        let (handle, path) = (file.clone(), self.path.clone());
        let outcome = spawn_blocking(move || sync(handle, &path)).await;
        match outcome.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(handle) => {
                **file = Some(handle);
                self.synced.fetch_max(up_to, Ordering::SeqCst);
            }
            Err(error) => {
                tracing::error!(%error, "the disk did not keep the index; berth must be started again");
                let _ = self.failed.set(Arc::new(error));
            }
        }
    }
}

/// The right to sync. Whoever waits is woken when it is free again.
struct SyncTurn<'a> {
    file: Option<MutexGuard<'a, Option<Arc<File>>>>,
    ended: &'a Notify,
}

impl Drop for SyncTurn<'_> {
    fn drop(&mut self) {
        drop(self.file.take());
        self.ended.notify_waiters();
    }
}

/// Syncs the log, and, the first time, that it is there.
fn sync(file: Option<Arc<File>>, path: &Path) -> io::Result<Arc<File>> {
    fail::fail_point!("db::sync", |_| Err(io::Error::other("a test says that the disk is broken")));
    if let Some(file) = file {
        file.sync_data()?;
        return Ok(file);
    }
    let file = File::options().write(true).open(path)?;
    file.sync_all()?;
    if let Some(folder) = path.parent() {
        File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?.sync_all()?;
    }
    Ok(Arc::new(file))
}
