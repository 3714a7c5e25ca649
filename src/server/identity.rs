//! Puts together who is who, from the configuration.

use std::sync::Arc;
use std::time::Duration;

use berth_auth::book::{Look, Shelf};
use berth_auth::robots::Moment;
use berth_auth::{Calls, Certificates, Issuers};
use tokio_util::sync::CancellationToken;

use super::ServerError;
use crate::config::{self, Config};
use crate::jobs;
use crate::telemetry::{KeyLife, Metrics, audit};
use crate::tokens::{Settings, Tokens, Trust};

/// How often the policy folder is looked at.
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
    let shelf = Arc::new(Shelf::open(auth.chapter().clone(), auth.policy_folder.clone())?);
    let issuers = Issuers::new(config::issuers(auth)?, &Calls::default())?;
    let trust = Trust { shelf, issuers, certificates };
    Ok(Tokens::open(context.db.clone(), context.clock.clone(), settings, trust).await?)
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
        Look::Changed(change) => {
            metrics.policy_is_bad(false);
            audit::policy_changed(change.rules, &change.before, &change.after);
        }
        Look::Kept(_) => metrics.policy_is_bad(true),
    };
    stop.run_until_cancelled(shelf.watch(LOOKED_AT, told)).await;
}
