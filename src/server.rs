//! Builds the parts from a configuration, listens, and ends in good order.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use berth_auth::Policy;
use berth_storage::{Memory, SHARDS, Store, StoreError};
use http::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::clock::Clock;
use crate::config::{Config, ConfigError, StorageKind};
use crate::db::{self, Db, Location, stores, uploads};
use crate::http::{App, Settings as HttpSettings};
use crate::jobs;
use crate::registry::{Registry, Rule, Rules, Settings as RegistrySettings};

/// What a reader has ready in one go at most; also the longest request head hyper takes in.
const READ_BUFFER: usize = 256 * 1024;
/// Windows of HTTP/2, wide enough for long ways, narrow enough for many connections.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const STREAMS: u32 = 250;
/// How often a silent HTTP/2 connection is asked whether it lives.
const PING: Duration = Duration::from_secs(20);

/// Trouble while the parts are put together.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// In the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// In the index.
    #[error("the index: {0}")]
    Db(#[from] db::Error),
    /// In the store.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The store holds objects and the index is new.
    #[error(
        "the store at {store} holds objects, but this index knows none of them; give back the database it \
         belongs to, or run `berth fsck --rebuild` to make an index of its blobs"
    )]
    Unindexed {
        /// Where the store is.
        store: String,
    },
    /// The index belongs to another store.
    #[error("this index belongs to another store than the one at {store}; check data, storage and database")]
    OtherStore {
        /// Where the store is.
        store: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The system's signals cannot be listened for.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
}

/// What to do about an index that does not know its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Refuse, unless both are new.
    Check,
    /// Make this index the store's: `fsck --rebuild`.
    Adopt,
}

/// Opens and migrates the index, opens the store, and makes sure that they belong together.
pub async fn open(config: &Config, binding: Binding) -> Result<jobs::Context, ServerError> {
    let location = config.database.location(&config.data)?;
    // The index first: for SQLite it is also what keeps a second process away from the folder.
    let db = Db::open(&location).await?;
    db.migrate().await?;
    let StorageKind::Filesystem = config.storage.kind;
    let folder = config.storage.folder(&config.data);
    let memory = Memory {
        upload_bytes: config.limits.upload_memory.bytes(),
        download_bytes: config.limits.download_memory.bytes(),
    };
    let store = Store::open_filesystem(&folder, memory).await?;
    let context = jobs::Context { db, store, clock: Clock::System, collect_min_age: config.gc.min_age.get() };
    bind(&context, binding).await?;
    if context.db.is_exclusive() {
        let mut tx = context.db.begin().await?;
        uploads::release_all(&mut tx).await?;
        tx.commit().await?;
    }
    Ok(context)
}

async fn bind(context: &jobs::Context, binding: Binding) -> Result<(), ServerError> {
    let (db, store) = (&context.db, &context.store);
    let known = stores::find(db).await?;
    if known.as_deref() == Some(store.id()) {
        return Ok(());
    }
    if binding == Binding::Check {
        if known.is_some() {
            return Err(ServerError::OtherStore { store: store.location() });
        }
        for shard in 0..SHARDS {
            let shard = u8::try_from(shard).expect("shards are counted by a byte");
            if !store.list(shard).await?.is_empty() {
                return Err(ServerError::Unindexed { store: store.location() });
            }
        }
    }
    let mut tx = db.begin().await?;
    stores::forget(&mut tx).await?;
    stores::adopt(&mut tx, store.id(), context.clock.now()).await?;
    Ok(tx.commit().await?)
}

/// A registry that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: App,
    config: Config,
    context: jobs::Context,
    tasks: TaskTracker,
}

impl Server {
    /// Puts everything together and binds the address. Nothing is served yet.
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        let address = config.http.listen;
        // First: that the address is taken is the likeliest trouble, and opening changes the disk.
        let listener =
            TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
        let address = listener.local_addr().map_err(|source| ServerError::Listen { address, source })?;
        let context = open(&config, Binding::Check).await?;
        let jobs::Context { db, store, clock, .. } = context.clone();
        let registry = Registry::new(db, store, clock, registry_settings(&config)?);
        let tasks = TaskTracker::new();
        let app = App::new(registry, Policy::open(), http_settings(&config)?, tasks.clone());
        Ok(Self { listener, address, app, config, context, tasks })
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the index and the objects are, for people.
    pub fn places(&self) -> (String, String) {
        let index = match self.config.database.location(&self.config.data) {
            Ok(Location::Sqlite(path)) => path.display().to_string(),
            Ok(Location::Postgres { .. }) => "PostgreSQL".to_owned(),
            Err(error) => error.to_string(),
        };
        (index, self.context.store.location())
    }

    /// Serves until `stop` ends, then lets running transfers finish.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listener, app, config, context, tasks, .. } = self;
        let db = context.db.clone();
        let ending = CancellationToken::new();
        let closing = CancellationToken::new();
        tasks.spawn(jobs::run(context, config.gc.interval.get(), ending.clone()));
        let graceful = GracefulShutdown::new();
        let door = Door {
            router: app.clone().router(),
            header_timeout: config.http.header_timeout.get(),
            idle_timeout: config.http.idle_timeout.get(),
            header_bytes: u32::try_from(config.limits.header_bytes.bytes()).unwrap_or(u32::MAX),
            closing: closing.clone(),
            ending: ending.clone(),
        };
        let slots = Arc::new(Semaphore::new(config.limits.connections.min(Semaphore::MAX_PERMITS)));
        {
            let accept = accept(&listener, &door, &slots, &graceful, &tasks);
            tokio::pin!(accept, stop);
            tokio::select! {
                () = &mut accept => {}
                () = &mut stop => {}
            }
            app.drain();
            tracing::info!("draining: not ready from now on, running transfers finish");
            // Load balancers need a moment to look elsewhere; until then they are served.
            let _ = timeout(config.drain.delay.get(), accept).await;
        }
        drop(listener);
        closing.cancel();
        if timeout(config.drain.timeout.get(), graceful.shutdown()).await.is_err() {
            tracing::warn!("transfers were still running after drain.timeout; they are cut");
        }
        ending.cancel();
        tasks.close();
        // What has been begun for a request that was cut is ended, not left half way.
        let _ = timeout(Duration::from_secs(10), tasks.wait()).await;
        db.close().await;
    }
}

/// How a connection is taken.
#[derive(Clone)]
struct Door {
    router: Router,
    header_timeout: Duration,
    idle_timeout: Duration,
    header_bytes: u32,
    /// From now on nobody begins.
    closing: CancellationToken,
    /// From now on nobody goes on.
    ending: CancellationToken,
}

async fn accept(
    listener: &TcpListener,
    door: &Door,
    slots: &Arc<Semaphore>,
    graceful: &GracefulShutdown,
    tasks: &TaskTracker,
) {
    loop {
        let slot = Arc::clone(slots).acquire_owned().await.expect("the slots are never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: wait for connections to end.
                tracing::warn!(%error, "could not accept a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (door, watcher) = (door.clone(), graceful.watcher());
        tasks.spawn(async move {
            let ending = door.ending.clone();
            ending.run_until_cancelled_owned(door.serve(stream, watcher)).await;
            drop(slot);
        });
    }
}

impl Door {
    /// Serves one connection, HTTP/1.1 or HTTP/2 as its first bytes say.
    async fn serve(self, stream: TcpStream, watcher: Watcher) {
        let first_bytes = timeout(self.header_timeout, speaks_http2(&stream));
        let Some(Ok(Some(speaks_http2))) = self.closing.run_until_cancelled(first_bytes).await else {
            return;
        };
        // Small answers go out at once.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.idle_timeout));
        let io = TokioIo::new(Box::pin(stream));
        let router = self.router;
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let router = router.clone();
            async move {
                Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {}))
            }
        });
        let ended = if speaks_http2 {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(self.header_bytes)
                .keep_alive_interval(PING)
                .keep_alive_timeout(PING)
                .serve_connection(io, service);
            watcher.watch(connection).await
        } else {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.header_timeout)
                .max_buf_size(READ_BUFFER)
                .serve_connection(io, service);
            watcher.watch(connection).await
        };
        if let Err(error) = ended {
            // Clients hang up, and docker tries TLS first: nothing anyone must act on.
            tracing::debug!(%error, "a connection broke off");
        }
    }
}

/// Looks at the first bytes without taking them: `PRI * HTTP/2.0` begins as no method of HTTP/1.1
/// does. `None` if the connection ends first.
async fn speaks_http2(stream: &TcpStream) -> Option<bool> {
    const SHORTEST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_millis(200);
    let mut first = [0; 2];
    let mut pause = SHORTEST;
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return None,
            // `P` alone may become POST, PUT, PATCH or PRI. Many that stop there must cost nothing.
            Ok(1) if first[0] == b'P' => {
                sleep(pause).await;
                pause = LONGEST.min(2 * pause);
            }
            Ok(_) => return Some(first == *b"PR"),
        }
    }
}

fn registry_settings(config: &Config) -> Result<RegistrySettings, ConfigError> {
    let rule = |rule: &crate::config::RepositoryRule| {
        Ok(Rule { matches: rule.pattern()?, allow_sparse: rule.allow_sparse })
    };
    Ok(RegistrySettings {
        upload_ttl: config.uploads.ttl.get(),
        collect_min_age: config.gc.min_age.get(),
        tags_per_push: config.limits.tags_per_push,
        referrers_page_bytes: config.limits.referrers_page_bytes.bytes(),
        rules: Rules(config.repositories.iter().map(rule).collect::<Result<_, ConfigError>>()?),
    })
}

fn http_settings(config: &Config) -> Result<HttpSettings, ConfigError> {
    let mut warnings = Vec::new();
    for rule in &config.repositories {
        if let Some(text) = &rule.warning {
            warnings.push((rule.pattern()?, warning(text)?));
        }
    }
    let bytes = |size: crate::config::Size| usize::try_from(size.bytes()).unwrap_or(usize::MAX);
    Ok(HttpSettings {
        idle_timeout: config.http.idle_timeout.get(),
        manifest_bytes: bytes(config.limits.manifest_bytes),
        manifest_memory_bytes: bytes(config.limits.manifest_memory),
        page: config.limits.page,
        chunk_min_bytes: config.uploads.chunk_min.bytes(),
        header_bytes: bytes(config.limits.header_bytes),
        warnings,
    })
}

/// A warning as the spec has it: code 299, no agent, no date, and short enough for every client.
fn warning(text: &str) -> Result<HeaderValue, ConfigError> {
    const LONGEST: usize = 4096;
    let quoted = format!("299 - \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    if quoted.len() > LONGEST {
        return Err(ConfigError::Invalid("repositories.warning is longer than 4096 bytes".into()));
    }
    let value = HeaderValue::try_from(quoted);
    value.map_err(|_| ConfigError::Invalid("repositories.warning must be one line of text".into()))
}
