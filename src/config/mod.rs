//! The configuration: a TOML file, then `BERTH_*` variables, then flags.
//!
//! Everything has a default that is safe on a laptop. A key nobody knows is an error that names its
//! line and column, not a surprise later.

mod auth;
mod database;
mod drain;
mod gc;
mod http;
mod limits;
mod log;
mod metrics;
mod origin;
mod reference;
mod repositories;
mod scrub;
mod storage;
mod tls;
mod uploads;
mod values;

use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use berth_auth::Network;

pub use self::auth::{
    Auth, AuthCertificate, AuthCluster, AuthIssuer, AuthNameFrom, AuthPreset, Login, OneOrMany, certificates,
    issuers,
};
pub use self::database::Database;
pub use self::drain::Drain;
pub use self::gc::Gc;
pub use self::http::Http;
pub use self::limits::Limits;
pub use self::log::{Log, LogFormat};
pub use self::metrics::Metrics;
use self::origin::Origin;
pub use self::origin::Reread;
pub use self::reference::reference;
pub use self::repositories::RepositoryRule;
pub use self::scrub::Scrub;
pub use self::storage::{Azure, Cache, Gcs, Redirect, RedirectMode, S3, S3Encryption, Storage, StorageKind};
pub use self::tls::Tls;
pub use self::uploads::Uploads;
pub use self::values::{Secret, Size, Span};

/// All of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder that holds whatever is not put elsewhere: the SQLite index and the objects of the
    /// filesystem store.
    pub data: PathBuf,
    /// Where and how requests come in.
    pub http: Http,
    /// Who is who, and who may do what.
    pub auth: Auth,
    /// Where the index is.
    pub database: Database,
    /// Where the bytes are.
    pub storage: Storage,
    /// Upload sessions.
    pub uploads: Uploads,
    /// The collection of what nothing needs.
    pub gc: Gc,
    /// Reading everything again, now and then.
    pub scrub: Scrub,
    /// Every limit.
    pub limits: Limits,
    /// How `berth serve` ends.
    pub drain: Drain,
    /// What is logged.
    pub log: Log,
    /// For those who watch.
    pub metrics: Metrics,
    /// Rules for some repositories; the first whose pattern matches holds.
    pub repositories: Vec<RepositoryRule>,
    /// What it was read from.
    #[serde(skip)]
    origin: Origin,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("./berth-data"),
            http: Http::default(),
            auth: Auth::default(),
            database: Database::default(),
            storage: Storage::default(),
            uploads: Uploads::default(),
            gc: Gc::default(),
            scrub: Scrub::default(),
            limits: Limits::default(),
            drain: Drain::default(),
            log: Log::default(),
            metrics: Metrics::default(),
            repositories: Vec::new(),
            origin: Origin::default(),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not what it should be. The line itself is not shown: it may hold a secret.
    #[error("in {path}, line {line}, column {column}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// The line, the first being 1.
        line: usize,
        /// The character in the line, the first being 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A variable names no setting, or has a value it cannot have.
    #[error("environment variable {name}: {reason}")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A rule, a user or a robot is not what it should be.
    #[error(transparent)]
    Auth(#[from] berth_auth::book::BookError),
    /// Settings that do not go together.
    #[error("{0}")]
    Invalid(String),
}

/// What flags say, over file and variables.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<std::net::SocketAddr>,
    /// `--allow-anonymous`.
    pub allow_anonymous: bool,
}

/// Variables that are flags of the command line, or a test's, and no settings.
const NOT_SETTINGS: [&str; 14] = [
    "BERTH_CONFIG",
    "BERTH_DATA",
    "BERTH_LISTEN",
    "BERTH_ALLOW_ANONYMOUS",
    "BERTH_LOG",
    "BERTH_VERSION",
    // What the small programs read, which may run on the same machine.
    "BERTH_AUDIENCE",
    "BERTH_AZURE_RESOURCE",
    "BERTH_CA_FILE",
    "BERTH_GCP_IDENTITY",
    "BERTH_IDENTITY_TOKEN_FILE",
    "BERTH_ID_TOKEN",
    "BERTH_PLAIN_HTTP",
    "BERTH_REGISTRY",
];
/// What the credential provider's variables begin with.
const PROVIDERS: &str = "BERTH_PROVIDER_";

impl Config {
    /// Reads file, variables and flags, and checks the whole.
    pub fn load(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Self, ConfigError> {
        let text = match file {
            Some(path) => fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?,
            None => String::new(),
        };
        let variables = variables.filter(|(name, _)| name.starts_with("BERTH_")).collect();
        Self::read(&text, Origin::new(file, &text, variables, overrides))
    }

    fn read(text: &str, origin: Origin) -> Result<Self, ConfigError> {
        let mut config = Self::from_variables(text, origin.path(), origin.variables())?;
        config.auth.bind(origin.file(), text)?;
        let overrides = origin.overrides();
        if let Some(data) = &overrides.data {
            config.data.clone_from(data);
        }
        if let Some(listen) = overrides.listen {
            config.http.listen = listen;
        }
        config.http.allow_anonymous |= overrides.allow_anonymous;
        config.database.read_url_file()?;
        config.storage.read_secrets()?;
        config.check()?;
        config.origin = origin;
        Ok(config)
    }

    fn from_variables(text: &str, path: &Path, variables: &[(String, String)]) -> Result<Self, ConfigError> {
        let in_file = |error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line_start = before.rfind('\n').map_or(0, |end| end + 1);
            ConfigError::File {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                reason: match before[line_start..].split_once('=') {
                    Some((key, _)) => format!("{}: {}", key.trim(), error.message()),
                    None => error.message().to_owned(),
                },
            }
        };
        // Read on its own first: only then does an error know its line.
        let mut config: Self = toml::from_str(text).map_err(in_file)?;
        let mut table: toml::Table = toml::from_str(text).map_err(in_file)?;
        for (name, value) in variables {
            let Some(setting) = name.strip_prefix("BERTH_") else { continue };
            if NOT_SETTINGS.contains(&name.as_str()) || name.starts_with(PROVIDERS) {
                continue;
            }
            let set = |value: toml::Value| {
                let mut table = table.clone();
                set(&mut table, setting, value);
                Ok((table.clone().try_into()?, table))
            };
            // A text may look like a number: a folder called 2024.
            let read = set(guess(value)).or_else(|error| set(value.as_str().into()).map_err(|_| error));
            (config, table) = read.map_err(|error: toml::de::Error| ConfigError::Variable {
                name: name.clone(),
                reason: error.message().to_owned(),
            })?;
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.auth.is_empty() && !self.http.listen.ip().is_loopback() && !self.http.allow_anonymous {
            return Err(ConfigError::Invalid(format!(
                "refusing to listen on {}: this registry knows no identities, so whoever reaches that address \
                 could read, change and delete everything in it; say who may do what with [[auth.rule]], listen on \
                 127.0.0.1, or say --allow-anonymous (http.allow_anonymous = true) if the network in front of it keeps others out",
                self.http.listen
            )));
        }
        let spans = [
            ("http.header_timeout", self.http.header_timeout),
            ("http.idle_timeout", self.http.idle_timeout),
            ("http.tls.handshake_timeout", self.http.tls.handshake_timeout),
            ("uploads.ttl", self.uploads.ttl),
            ("gc.interval", self.gc.interval),
        ];
        if let Some((name, _)) = spans.into_iter().find(|(_, span)| span.get().is_zero()) {
            return Err(ConfigError::Invalid(format!("{name} must be longer than nothing")));
        }
        if self.database.max_connections == 0 {
            return Err(ConfigError::Invalid("database.max_connections must be at least 1".into()));
        }
        if self.metrics.tls && self.http.tls.pair().is_none() {
            return Err(ConfigError::Invalid("metrics.tls needs the certificate of http.tls".into()));
        }
        self.database.location(&self.data)?;
        self.auth.check()?;
        self.http.tls.check()?;
        if let (Some(setting), None) = (self.auth.takes_certificates(), self.http.tls.pair()) {
            return Err(ConfigError::Invalid(format!(
                "{setting} needs http.tls: who ends TLS before Berth keeps the client's certificate to itself"
            )));
        }
        self.limits.check()?;
        self.storage.check()?;
        self.scrub.check()?;
        self.repositories.iter().try_for_each(RepositoryRule::check)
    }
}

/// Puts `GC__MIN_AGE` at `gc.min_age`.
fn set(table: &mut toml::Table, setting: &str, value: toml::Value) {
    let lower = setting.to_ascii_lowercase();
    let mut path: Vec<&str> = lower.split("__").collect();
    let key = path.pop().unwrap_or_default();
    let mut table = table;
    for section in path {
        let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
        if !entry.is_table() {
            *entry = toml::Table::new().into();
        }
        let Some(section) = entry.as_table_mut() else { return };
        table = section;
    }
    table.insert(key.to_owned(), value);
}

/// What a variable most likely means.
fn guess(value: &str) -> toml::Value {
    let number = value.parse().map(toml::Value::Integer);
    let truth = value.parse().map(toml::Value::Boolean);
    number.or(truth).unwrap_or_else(|_| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("berth.toml");
        fs::write(&file, text).unwrap();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Some(&file), variables, Overrides::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let config = load("", &[]).unwrap();
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:5000");
        assert_eq!(config.limits.upload_memory.bytes(), 256 * 1024 * 1024);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_column() {
        let error = load("[gc]\nmin_age = \"1h\"\nmax_age = \"2h\"\n", &[]).unwrap_err();
        assert!(error.contains("line 3, column 1"), "{error}");
        assert!(error.contains("max_age"), "{error}");
    }

    #[test]
    fn a_variable_is_stronger_than_the_file() {
        let config = load("[gc]\nmin_age = \"1h\"\n", &[("BERTH_GC__MIN_AGE", "2h")]).unwrap();
        assert_eq!(config.gc.min_age.get().as_secs(), 7200);
    }

    #[test]
    fn a_variable_that_is_no_setting_is_refused_by_name() {
        let error = load("", &[("BERTH_GC__MAX_AGE", "2h")]).unwrap_err();
        assert!(error.contains("BERTH_GC__MAX_AGE") && error.contains("max_age"), "{error}");
    }

    #[test]
    fn an_interval_of_nothing_is_refused() {
        let error = load("[gc]\ninterval = \"0s\"\n", &[]).unwrap_err();
        assert!(error.contains("gc.interval"), "{error}");
    }

    #[test]
    fn anything_but_loopback_needs_a_word() {
        let error = load("[http]\nlisten = \"0.0.0.0:5000\"\n", &[]).unwrap_err();
        assert!(error.contains("--allow-anonymous"), "{error}");
        load("[http]\nlisten = \"0.0.0.0:5000\"\nallow_anonymous = true\n", &[]).unwrap();
    }
}
