//! Time, passed in: the system's, or a test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Where the time comes from.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The system's clock.
    System,
    /// Unix milliseconds that only a test moves.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// Now, in unix milliseconds.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn now(&self) -> i64 {
        match self {
            Self::System => {
                let elapsed = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
            }
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// The moment `span` from now, in unix milliseconds.
    pub fn after(&self, span: Duration) -> i64 {
        self.now().saturating_add(millis(span))
    }

    /// The moment `span` ago, in unix milliseconds.
    pub fn before(&self, span: Duration) -> i64 {
        self.now().saturating_sub(millis(span))
    }
}

/// A span as times are counted: milliseconds.
pub fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
