//! `[gc]`: the collection of what nothing needs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;

/// The collection of what nothing needs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gc {
    /// How long a blob that no manifest needs is kept, from the last time a pusher was told that it
    /// is there. Longer than any push takes.
    pub min_age: Span,
    /// How often expired uploads, idle blobs and doomed objects are looked for.
    pub interval: Span,
}

impl Default for Gc {
    fn default() -> Self {
        Self { min_age: Span::seconds(24 * 60 * 60), interval: Span::seconds(60) }
    }
}
