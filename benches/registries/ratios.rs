//! How Berth stood beside the others, kept with the report, so that a later run says what became slower.
//!
//! Ratios, because figures of one machine say nothing about another's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::plan::name_of;
use crate::report::Outcome;
use crate::servers::Kind;
use crate::table::ratio;

/// The name of the file.
pub const FILE: &str = "ratios.toml";
/// The part of a ratio that may be noise.
const TOLERATED: f64 = 0.10;

/// Berth's rate divided by another server's, by load and server.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Ratios(BTreeMap<String, BTreeMap<String, f64>>);

impl Ratios {
    /// Those of a run.
    pub fn of(outcomes: &[Outcome]) -> Self {
        let mut ratios = BTreeMap::new();
        for outcome in outcomes {
            let others = outcome.columns.iter().filter(|column| column.kind != Kind::Berth);
            let found = others.filter_map(|column| {
                let ratio = ratio(outcome.rate(Kind::Berth), outcome.rate(column.kind))?;
                // Three digits are more than a measurement has.
                Some((name_of(&column.kind), format!("{ratio:.3}").parse().ok()?))
            });
            let found: BTreeMap<_, _> = found.collect();
            if !found.is_empty() {
                ratios.insert(name_of(&outcome.load), found);
            }
        }
        Self(ratios)
    }

    /// Reads those of an earlier run, if there was one.
    pub fn read(file: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Some(toml::from_str(&text).with_context(|| format!("read {}", file.display()))?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
        }
    }

    /// These, and of an earlier run those that this one has not measured.
    pub fn over(self, before: Option<Self>) -> Self {
        let mut all = before.map_or_else(BTreeMap::new, |before| before.0);
        for (load, others) in self.0 {
            all.entry(load).or_default().extend(others);
        }
        Self(all)
    }

    /// Writes them.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = toml::to_string(&self.0)?;
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }

    /// What is worse than before, a line each.
    pub fn fallen(&self, before: &Self) -> Vec<String> {
        let mut fallen = Vec::new();
        for (load, others) in &self.0 {
            for (other, now) in others {
                let Some(then) = before.0.get(load).and_then(|others| others.get(other)) else { continue };
                if *now < then * (1.0 - TOLERATED) {
                    let percent = (1.0 - now / then) * 100.0;
                    fallen.push(format!(
                        "`{load}`: Berth / {other} was {then}, is {now} ({percent:.0} % less)"
                    ));
                }
            }
        }
        fallen
    }
}

/// The part of the report about it.
pub fn note(fallen: &[String]) -> String {
    let mut text = format!(
        "\n## Regressions\n\nRatios that are more than {:.0} % lower than in the run before, as {FILE} had them:",
        TOLERATED * 100.0
    );
    if fallen.is_empty() {
        text.push_str(" none.\n");
        return text;
    }
    text.push_str("\n\n");
    for line in fallen {
        let _ = writeln!(text, "- {line}");
    }
    text
}
