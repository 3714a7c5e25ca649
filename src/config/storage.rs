//! `[storage]`: where the bytes are.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the bytes are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// What kind of store it is.
    pub kind: StorageKind,
    /// The folder of a filesystem store; `objects` in the data folder unless set.
    pub path: Option<PathBuf>,
}

/// A kind of store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StorageKind {
    /// A local folder.
    #[default]
    Filesystem,
}

impl Storage {
    /// The folder of a filesystem store, for a data folder.
    pub fn folder(&self, data: &Path) -> PathBuf {
        self.path.clone().unwrap_or_else(|| data.join("objects"))
    }
}
