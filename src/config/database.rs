//! `[database]`: where the index is.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Secret, values};
use crate::db::Location;

/// Where the index is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// A `postgres://user:password@host/name` URL. Without one the index is the SQLite file
    /// `berth.db` in the data folder.
    pub url: Option<Secret>,
    /// A file that holds the URL, for secrets that are mounted.
    pub url_file: Option<PathBuf>,
    /// How many PostgreSQL connections this process opens at most.
    pub max_connections: u32,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: None, url_file: None, max_connections: 20 }
    }
}

impl Database {
    pub(super) fn read_url_file(&mut self) -> Result<(), ConfigError> {
        values::read("database.url", &mut self.url, self.url_file.as_ref())
    }

    /// Where the index is, for a data folder.
    pub fn location(&self, data: &Path) -> Result<Location, ConfigError> {
        let Some(url) = &self.url else { return Ok(Location::Sqlite(data.join("berth.db"))) };
        let url = url.reveal();
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(ConfigError::Invalid("database.url must begin with postgres://".into()));
        }
        Ok(Location::Postgres { url: url.to_owned(), max_connections: self.max_connections })
    }
}
