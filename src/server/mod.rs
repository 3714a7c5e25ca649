//! Builds the parts from a configuration, listens, and ends in good order.

mod connection;
pub mod control;
mod files;
mod identity;
mod linger;
mod storage;
mod streams;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_storage::StoreError;
use http::HeaderValue;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connection::Door;
pub use self::identity::{authorities, tokens};
use self::tls::Certificates;
pub use self::tls::TlsError;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Network, RedirectMode};
use crate::db::{self, Db, Location, stores};
use crate::http::{App, Redirect, Settings as HttpSettings};
use crate::jobs;
use crate::registry::{Registry, Rule, Rules, Settings as RegistrySettings};
use crate::telemetry::Metrics;
use crate::tokens::{self, Tokens};

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
    /// While an earlier life was tidied up.
    #[error(transparent)]
    Job(#[from] jobs::JobError),
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
    #[error(
        "this index belongs to another store than the one at {store}; check data, storage and database. If it is \
         this one and only its marker, berth-store.json, was lost, `berth fsck --rebuild` writes it again"
    )]
    OtherStore {
        /// Where the store is.
        store: String,
    },
    /// In rules, users or robots.
    #[error(transparent)]
    Book(#[from] berth_auth::book::BookError),
    /// In clusters or issuers.
    #[error(transparent)]
    Issuers(#[from] berth_auth::SettingsError),
    /// In the authorities of client certificates.
    #[error(transparent)]
    Authorities(#[from] berth_auth::AuthorityError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The certificates are of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
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
    let store = storage::open(config, &db, &Clock::System, binding).await?;
    let (clock, collect_min_age, metrics) = (Clock::System, config.gc.min_age.get(), Metrics::new(&store));
    let context = jobs::Context { db, store, clock, collect_min_age, metrics };
    bind(&context, binding).await?;
    if context.db.is_exclusive() {
        jobs::release(&context).await?;
    }
    Ok(context)
}

async fn bind(context: &jobs::Context, binding: Binding) -> Result<(), ServerError> {
    let (db, store) = (&context.db, &context.store);
    let known = stores::find(db).await?;
    if known.is_some() && known.as_deref() == store.id() {
        return Ok(());
    }
    if binding == Binding::Check {
        if known.is_some() {
            return Err(ServerError::OtherStore { store: store.location() });
        }
        if !store.is_empty().await? {
            return Err(ServerError::Unindexed { store: store.location() });
        }
    }
    let mut tx = db.begin().await?;
    stores::forget(&mut tx).await?;
    stores::adopt(&mut tx, store.id().unwrap_or_default(), context.clock.now()).await?;
    Ok(tx.commit().await?)
}

/// Reads the certificates and CAs of a configuration once.
pub async fn check_certificates(config: &Config) -> Result<(), ServerError> {
    Ok(Certificates::open(&config.http.tls, authorities(config)?).await.map(drop)?)
}

/// A registry that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    /// For those who watch.
    watch: Option<TcpListener>,
    certificates: Option<Certificates>,
    app: App,
    tokens: Option<Tokens>,
    config: Config,
    context: jobs::Context,
    tasks: TaskTracker,
}

impl Server {
    /// Puts everything together and binds the address. Nothing is served yet.
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        let address = config.http.listen;
        // First: that the address is taken is the likeliest trouble, and opening changes the disk.
        let listener = listen(address).await?;
        let address = listener.local_addr().map_err(|source| ServerError::Listen { address, source })?;
        let watch = match config.metrics.listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let authorities = authorities(&config)?;
        let certificates = Certificates::open(&config.http.tls, Arc::clone(&authorities)).await?;
        let context = open(&config, Binding::Check).await?;
        storage::keep_near(&context.store, &config.storage.cache).await?;
        if tokens_in_the_clear(&config) {
            tracing::warn!(
                "passwords and tokens go over {} in the clear; set http.tls, or name the proxy that speaks TLS in \
                 http.trusted_proxies",
                config.http.listen
            );
        }
        if let Some(advice) = context.store.advice().await {
            tracing::warn!("{advice}");
        }
        let tokens =
            if config.auth.is_empty() { None } else { Some(tokens(&config, &context, authorities).await?) };
        let jobs::Context { db, store, clock, metrics, .. } = context.clone();
        let registry = Registry::new(db, store, clock, registry_settings(&config)?, metrics.clone());
        let tasks = TaskTracker::new();
        let app = App::new(registry, metrics, tokens.clone(), http_settings(&config)?, tasks.clone());
        Ok(Self { listener, address, watch, certificates, app, tokens, config, context, tasks })
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the address begins: `https` with TLS, or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.certificates.is_some() { "https" } else { "http" }
    }

    /// The registry's part of an image's name: by which clients know it, or at least this machine does.
    pub fn host(&self) -> String {
        let public = self.config.auth.public_url.as_deref().and_then(|url| url.split_once("://"));
        let authority = public.and_then(|(_, rest)| rest.split('/').next()).filter(|host| !host.is_empty());
        match authority {
            Some(host) => host.to_owned(),
            // Listened on is every address, and this is one of them.
            None if self.address.ip().is_unspecified() => format!("127.0.0.1:{}", self.address.port()),
            None => self.address.to_string(),
        }
    }

    /// Whether somebody has to say who they are.
    pub fn knows_identities(&self) -> bool {
        self.tokens.is_some()
    }

    /// The scheme and the address of the metrics, if there are any.
    pub fn watch_address(&self) -> Option<(&'static str, SocketAddr)> {
        let scheme = if self.config.metrics.tls { "https" } else { "http" };
        self.watch.as_ref().and_then(|listener| Some((scheme, listener.local_addr().ok()?)))
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
        let Self { listener, watch, certificates, app, tokens, config, context, tasks, .. } = self;
        let (db, store, metrics) = (context.db.clone(), context.store.clone(), context.metrics.clone());
        let ending = CancellationToken::new();
        let closing = CancellationToken::new();
        if let Some(tokens) = tokens {
            identity::show_keys(&tokens, &context.metrics);
            tasks.spawn(identity::watch(tokens.shelf(), context.metrics.clone(), ending.clone()));
            tasks.spawn(control::serve(tokens.clone(), config.data.clone(), ending.clone()));
            tasks.spawn(tokens::run(tokens, ending.clone()));
        }
        tasks.spawn(jobs::run(context.clone(), config.gc.interval.get(), ending.clone()));
        if config.scrub.enabled {
            let (period, bytes_per_second) = (config.scrub.period.get(), config.scrub.rate.bytes());
            let settings = jobs::scrub::Settings { period, bytes_per_second };
            tasks.spawn(jobs::scrub::run(context, settings, ending.clone()));
        }
        if let Some(certificates) = certificates.clone() {
            certificates.show(&metrics);
            let metrics = metrics.clone();
            let following = ending.clone().run_until_cancelled_owned(certificates.follow(metrics));
            tasks.spawn(following);
        }
        let connections = TaskTracker::new();
        let door = Door {
            router: app.clone().router(),
            certificates,
            header_timeout: config.http.header_timeout.get(),
            idle_timeout: config.http.idle_timeout.get(),
            header_bytes: u32::try_from(config.limits.header_bytes.bytes()).unwrap_or(u32::MAX),
            closing: closing.clone(),
            ending: ending.clone(),
        };
        if let Some(listener) = watch {
            let certificates = door.certificates.clone().filter(|_| config.metrics.tls);
            let door = Door { router: app.clone().watch_router(), certificates, ..door.clone() };
            let ending = ending.clone();
            tasks.spawn(async move {
                // Few watch; who is many is no watcher.
                let (slots, connections) = (Arc::new(Semaphore::new(64)), TaskTracker::new());
                ending.run_until_cancelled(door.accept(&listener, &slots, &connections)).await;
            });
        }
        let slots = Arc::new(Semaphore::new(config.limits.connections.min(Semaphore::MAX_PERMITS)));
        {
            let accept = door.accept(&listener, &slots, &connections);
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
        connections.close();
        if timeout(config.drain.timeout.get(), connections.wait()).await.is_err() {
            tracing::warn!("transfers were still running after drain.timeout; they are cut");
        }
        ending.cancel();
        // What has been begun for a request that was cut is ended, not left half way.
        let ends = async {
            connections.wait().await;
            tasks.close();
            tasks.wait().await;
        };
        let _ = timeout(Duration::from_secs(10), ends).await;
        // The cache only helps; its disk does not hold anybody up.
        let _ = timeout(Duration::from_secs(10), store.close()).await;
        db.close().await;
    }
}

/// Whether credentials come over a network without TLS, as far as can be known.
fn tokens_in_the_clear(config: &Config) -> bool {
    let behind_tls = config.auth.public_url.as_ref().is_some_and(|url| url.starts_with("https://"));
    let protected = config.http.tls.pair().is_some() || behind_tls || !config.http.trusted_proxies.is_empty();
    !config.auth.is_empty() && !config.http.listen.ip().is_loopback() && !protected
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
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
        referrers_memory_bytes: config.limits.referrers_memory.bytes(),
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
        trusted_proxies: networks(&config.http.trusted_proxies),
        redirect: match config.storage.redirect.mode {
            RedirectMode::Off => Redirect::Nobody,
            RedirectMode::On => Redirect::Everybody,
            RedirectMode::Networks => Redirect::Networks(networks(&config.storage.redirect.networks)),
        },
        warnings,
        public_url: config.auth.public_url.clone(),
        login: config.auth.login.as_ref().map(|login| {
            let crate::config::Login { issuer, client_id, scopes, audience } = login;
            serde_json::json!({
                "issuer": issuer, "client_id": client_id, "scopes": scopes, "audience": audience,
            })
        }),
        upload_grace: config.auth.upload_grace.get(),
    })
}

fn networks(networks: &[Network]) -> Vec<IpNet> {
    networks.iter().map(|network| network.get()).collect()
}

/// A warning that is short enough for every client.
fn warning(text: &str) -> Result<HeaderValue, ConfigError> {
    const LONGEST: usize = 4096;
    let value = crate::http::warning(text)
        .ok_or_else(|| ConfigError::Invalid("repositories.warning must be one line of text".into()))?;
    if value.len() > LONGEST {
        return Err(ConfigError::Invalid("repositories.warning is longer than 4096 bytes".into()));
    }
    Ok(value)
}
