//! `[scrub]`: reading everything again, now and then.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Size, Span};

/// Reading everything again, now and then: a blob whose bytes are not what its digest says is no
/// longer said to be here, and is named in the log with the tags that need it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scrub {
    /// Whether it is done at all. Of several replicas one does it.
    pub enabled: bool,
    /// How long a round through everything takes. A small store is mostly left alone.
    pub period: Span,
    /// What is read in a second at most, to catch up after a pause.
    pub rate: Size,
}

impl Default for Scrub {
    fn default() -> Self {
        Self { enabled: true, period: Span::seconds(90 * 24 * 60 * 60), rate: Size::of(32 * 1024 * 1024) }
    }
}

impl Scrub {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        const LEAST: u64 = 64 * 1024;
        if self.period.get().is_zero() {
            return Err(ConfigError::Invalid("scrub.period must be longer than nothing".into()));
        }
        if self.rate.bytes() < LEAST {
            return Err(ConfigError::Invalid("scrub.rate must be at least 64KiB".into()));
        }
        Ok(())
    }
}
