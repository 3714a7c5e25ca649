//! What a configuration was read from: its rules, users and robots are read again when the file changes.

use std::path::{Path, PathBuf};

use berth_auth::book::Chapter;

use super::{Config, ConfigError, Overrides};

/// What is in force as soon as the file says it.
const FOLLOWED: [&str; 3] = ["auth.rule", "auth.user", "auth.robot"];

/// File, variables and flags.
#[derive(Clone, Default)]
pub(super) struct Origin {
    file: Option<PathBuf>,
    /// What the file held, which may have secrets in it.
    table: toml::Table,
    variables: Vec<(String, String)>,
    overrides: Overrides,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Origin({:?})", self.file)
    }
}

impl Origin {
    pub(super) fn new(
        file: Option<&Path>,
        text: &str,
        variables: Vec<(String, String)>,
        overrides: Overrides,
    ) -> Self {
        // What is no TOML is an error of whoever reads the whole.
        let table = toml::from_str(text).unwrap_or_default();
        Self { file: file.map(Path::to_owned), table, variables, overrides }
    }

    pub(super) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    pub(super) fn path(&self) -> &Path {
        self.file().unwrap_or(Path::new(""))
    }

    pub(super) fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    pub(super) fn overrides(&self) -> &Overrides {
        &self.overrides
    }
}

/// A configuration file that was read again.
#[derive(Debug)]
pub struct Reread {
    /// Its rules, users and robots.
    pub chapter: Chapter,
    /// The other settings that it has not as they were at the start.
    pub changed: Vec<String>,
}

impl Config {
    /// The file to read rules, users and robots from again when it changes. A pipe can be read once only.
    pub fn followed_file(&self) -> Option<&Path> {
        self.origin.file().filter(|file| file.is_file())
    }

    /// Reads the file's text anew. It is bad if Berth would not start with it, and if it says of nobody who they
    /// are: the registry would be open to everyone then, which takes a restart.
    pub fn read_again(&self, text: &str) -> Result<Reread, ConfigError> {
        let Origin { file, table, variables, overrides } = self.origin.clone();
        let origin = Origin::new(file.as_deref(), text, variables, overrides);
        let mut changed = Vec::new();
        differences(&table, &origin.table, "", &mut changed);
        let config = Self::read(text, origin)?;
        if config.auth.is_empty() {
            let reason =
                "nothing in the configuration says who may do what any more; a restart opens the registry";
            return Err(ConfigError::Invalid(reason.to_owned()));
        }
        Ok(Reread { chapter: config.auth.chapter().clone(), changed })
    }
}

/// The names of the settings that differ.
fn differences(before: &toml::Table, after: &toml::Table, section: &str, found: &mut Vec<String>) {
    let added = after.keys().filter(|key| !before.contains_key(*key));
    for key in before.keys().chain(added) {
        let name = format!("{section}{key}");
        match (before.get(key), after.get(key)) {
            _ if FOLLOWED.contains(&name.as_str()) => {}
            (Some(toml::Value::Table(before)), Some(toml::Value::Table(after))) => {
                differences(before, after, &format!("{name}."), found);
            }
            (before, after) if before != after => found.push(name),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str =
        "[[auth.rule]]\nname = 'a'\nidentities = ['*']\nrepositories = ['**']\nactions = ['pull']\n";

    fn config(text: &str) -> Config {
        let variables = vec![("BERTH_GC__MIN_AGE".to_owned(), "2h".to_owned())];
        let origin = Origin::new(Some(Path::new("berth.toml")), text, variables, Overrides::default());
        Config::read(text, origin).unwrap()
    }

    #[test]
    fn what_changed_beside_the_rules_is_named() {
        let first = config(&format!("[gc]\ninterval = '1h'\nmin_age = '1h'\n{RULE}"));
        let text = format!(
            "[log]\nlevel = 'debug'\n[gc]\ninterval = '2h'\nmin_age = '1h'\n[auth]\nservice = 'x'\n{RULE}{}",
            RULE.replace("'a'", "'b'")
        );
        let again = first.read_again(&text).unwrap();
        assert_eq!(again.changed, ["auth.service", "gc.interval", "log"]);
        assert!(first.read_again(&format!("# other\n{}", RULE.replace("pull", "push"))).is_ok());
    }

    #[test]
    fn what_berth_would_not_start_with_is_bad() {
        let first = config(RULE);
        for (text, said) in [
            (format!("[[auth.rulez]]\n{RULE}"), "rulez"),
            (format!("[gc]\ninterval = '0s'\n{RULE}"), "gc.interval"),
            (RULE.replace("'**'", "'A'"), "berth.toml, line 1, column 1: rule \"a\": repositories"),
            (String::new(), "nothing in the configuration says who may do what"),
        ] {
            let error = first.read_again(&text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
