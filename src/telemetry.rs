//! What Berth says of itself: log lines on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Begins logging. `level` is as `info` or `info,berth=debug`; `json` is for machines.
pub fn start(level: &str, json: bool) -> Result<(), ParseError> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(std::io::stderr);
    if json {
        builder.json().flatten_event(true).init();
    } else {
        builder.init();
    }
    Ok(())
}

/// Whether [`start`] would take the level.
pub fn check(level: &str) -> Result<(), ParseError> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    // sqlx tells of each migration it looks at; that is for who asks.
    EnvFilter::try_new(format!("sqlx=warn,{level}"))
}
