//! Time, passed in: the system's, or a test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Where the time comes from, and what waits for it.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The system's clock.
    System,
    /// Unix seconds that only waiting moves on.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// Now, in unix seconds.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn now(&self) -> u64 {
        match self {
            Self::System => {
                std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
            }
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Waits.
    pub fn sleep(&self, span: Duration) {
        match self {
            Self::System => std::thread::sleep(span),
            Self::Manual(now) => {
                now.fetch_add(span.as_secs(), Ordering::Relaxed);
            }
        }
    }
}
