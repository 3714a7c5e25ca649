//! `[log]`: what is logged.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is logged, on standard error.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Levels, as `info` or `info,berth=debug`. At `debug` every request has a line.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, one object a line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::default() }
    }
}
