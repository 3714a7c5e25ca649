//! What Berth says of itself: log lines on standard error, and metrics for who asks.

pub mod audit;
mod metrics;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

pub use self::metrics::{FoundBy, KeyLife, Metrics};

/// Why a level is refused.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// It is none.
    #[error("{0:?} is none of error, warn, info, debug, trace, off, and no MODULE=LEVEL")]
    Level(String),
    /// It is no filter at all.
    #[error(transparent)]
    Filter(#[from] ParseError),
}

/// Begins logging. `level` is as `info` or `info,berth=debug`; `json` is for machines.
pub fn start(level: &str, json: bool) -> Result<(), LevelError> {
    // Colours are for people, not for files.
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_ansi(colours);
    let builder = builder.with_writer(std::io::stderr);
    if json {
        builder.json().flatten_event(true).init();
    } else {
        builder.init();
    }
    Ok(())
}

/// Whether [`start`] would take the level.
pub fn check(level: &str) -> Result<(), LevelError> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, LevelError> {
    // To the filter a misspelled level is the name of a module, and all the rest falls silent.
    if let Some(word) = level
        .split(',')
        .find(|part| !part.contains(['=', '[']) && part.trim().parse::<LevelFilter>().is_err())
    {
        return Err(LevelError::Level(word.trim().to_owned()));
    }
    // sqlx tells of each migration it looks at, foyer of each step it takes; that is for who asks.
    Ok(EnvFilter::try_new(format!("audit=info,sqlx=warn,foyer=warn,foyer_storage=warn,{level}"))?)
}
