//! `[[repositories]]`: rules for some repositories.

use globset::{GlobBuilder, GlobMatcher};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// A rule for the repositories that match a pattern.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryRule {
    /// Which repositories: `*` stands for anything but a slash, `**` for anything.
    #[serde(rename = "match")]
    pub matches: String,
    /// Whether a manifest may name content that is not there, as mirrors of some platforms do.
    #[serde(default)]
    pub allow_sparse: bool,
    /// A text that clients show their users with every answer about such a repository.
    #[serde(default)]
    pub warning: Option<String>,
}

impl RepositoryRule {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.pattern()?;
        match &self.warning {
            Some(text) if text.chars().any(char::is_control) => Err(ConfigError::Invalid(format!(
                "repositories.warning must be one line of text, not {text:?}"
            ))),
            _ => Ok(()),
        }
    }

    /// The pattern, ready to match.
    pub fn pattern(&self) -> Result<GlobMatcher, ConfigError> {
        let glob = GlobBuilder::new(&self.matches).literal_separator(true).build();
        let glob = glob.map_err(|error| {
            ConfigError::Invalid(format!("repositories.match {:?}: {error}", self.matches))
        })?;
        Ok(glob.compile_matcher())
    }
}
