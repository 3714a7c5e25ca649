//! `[uploads]`: upload sessions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Size, Span};

/// Upload sessions.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Uploads {
    /// How long a session is kept after its last byte.
    pub ttl: Span,
    /// The chunk size asked of clients that choose one (`OCI-Chunk-Min-Length`). Smaller ones are
    /// taken too; each costs a sync of the disk, or a write to the object store.
    pub chunk_min: Size,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { ttl: Span::seconds(24 * 60 * 60), chunk_min: Size::of(1024 * 1024) }
    }
}
