//! Puts together who is who, from the configuration.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_auth::book::{BookError, Configuration, Look, Place, Shelf};
use berth_auth::robots::Moment;
use berth_auth::{Calls, Certificates, Issuers};
use tokio_util::sync::CancellationToken;

use super::ServerError;
use crate::config::{self, Config, ConfigError};
use crate::jobs;
use crate::telemetry::{KeyLife, Metrics, audit};
use crate::tokens::{Settings, Tokens, Trust};

/// How often the configuration's file and the policy folder are looked at.
const LOOKED_AT: Duration = Duration::from_secs(5);

/// The authorities of client certificates that a configuration names.
pub fn authorities(config: &Config) -> Result<Arc<Certificates>, ServerError> {
    Ok(Arc::new(Certificates::load(config::certificates(&config.auth))?))
}

/// The token service of a configuration.
pub async fn tokens(
    config: &Config,
    context: &jobs::Context,
    certificates: Arc<Certificates>,
) -> Result<Tokens, ServerError> {
    let auth = &config.auth;
    let settings = Settings {
        service: auth.service.clone(),
        access_ttl: auth.token_ttl.get(),
        refresh_ttl: auth.refresh_ttl.get(),
        upload_grace: auth.upload_grace.get(),
        key_period: auth.key_period.get(),
    };
    let shelf = Arc::new(Shelf::open(followed(config), auth.policy_folder.clone())?);
    let issuers = Issuers::new(config::issuers(auth)?, &Calls::default())?;
    let trust = Trust { shelf, issuers, certificates };
    Ok(Tokens::open(context.db.clone(), context.clock.clone(), settings, trust).await?)
}

/// Rules, users and robots of the configuration, which are read again when its file changes.
fn followed(config: &Config) -> Configuration {
    let Some(path) = config.followed_file() else {
        return Configuration::Fixed(config.auth.chapter().clone());
    };
    let (path, config) = (path.to_owned(), config.clone());
    let told = Mutex::new(Vec::new());
    let read = {
        let path = path.clone();
        move |text: &str| {
            let again = config.read_again(text).map_err(|error| book_error(&path, error))?;
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if !again.changed.is_empty() && *told != again.changed {
                let settings = again.changed.join(", ");
                tracing::warn!(settings, "the configuration has changed in {settings}: it takes a restart");
            }
            *told = again.changed;
            Ok(again.chapter)
        }
    };
    Configuration::File { path, read: Box::new(read) }
}

fn book_error(path: &Path, error: ConfigError) -> BookError {
    match error {
        ConfigError::Auth(error) => error,
        ConfigError::File { path, line, column, reason } => {
            BookError::Entry { file: Some(path), place: Some(Place { line, column }), reason }
        }
        other => BookError::Entry { file: Some(path.to_owned()), place: None, reason: other.to_string() },
    }
}

/// Shows in the metrics when keys of robots expire.
pub(super) fn show_keys(tokens: &Tokens, metrics: &Metrics) {
    let tokens = tokens.clone();
    metrics.watch_keys(move || {
        let book = tokens.book();
        let life = |(robot, key, expires): (&str, usize, Option<Moment>)| {
            let expires = expires?.unix_millis() / 1000;
            Some(KeyLife { robot: robot.to_owned(), key: key as u64, expires })
        };
        book.robots.keys().filter_map(life).collect()
    });
}

/// Keeps the policy current until `stop`: what was changed for the worse leaves it as it was.
pub(super) async fn watch(shelf: Arc<Shelf>, metrics: Metrics, stop: CancellationToken) {
    let told = |look: Look| match look {
        Look::Same => {}
        Look::Restored => metrics.policy_is_bad(false),
        Look::Changed(change) => {
            metrics.policy_is_bad(false);
            audit::policy_changed(change.rules, &change.before, &change.after);
        }
        Look::Kept(_) => metrics.policy_is_bad(true),
    };
    stop.run_until_cancelled(shelf.watch(LOOKED_AT, told)).await;
}
