//! `[drain]`: how `berth serve` ends.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;

/// How `berth serve` ends.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long new connections are still taken after SIGTERM, while `/readyz` says 503 and load
    /// balancers look elsewhere.
    pub delay: Span,
    /// How long running transfers may then take to finish.
    pub timeout: Span,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Span::seconds(0), timeout: Span::seconds(15 * 60) }
    }
}
