//! Explanations: what each rule has to say about a question.

use std::fmt;

use serde::Serialize;

use super::rule::{Made, Miss, Ready};
use super::{Effect, Policy, Question};
use crate::Permission;

/// Why one may, or may not, do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Who asks.
    pub identity: String,
    /// What for.
    pub action: String,
    /// On which repository.
    pub repository: String,
    /// From which address, if that is known.
    pub client: Option<String>,
    /// Whether they may.
    pub allowed: bool,
    /// The rule that decides; none where no rule allows it, and in an open registry.
    pub decided_by: Option<String>,
    /// Whether the registry is open to everyone.
    pub open: bool,
    /// Every rule, the deciding one too, in the order in which they are written.
    pub rules: Vec<Considered>,
}

/// What one rule has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// Its name.
    pub rule: String,
    /// What it does where it matches.
    pub effect: Effect,
    /// Whether it matches.
    pub outcome: Outcome,
    /// What people may want to know of that.
    pub detail: String,
}

/// Whether a rule matches, or the first thing that does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It does.
    Matches,
    /// It is about other repositories.
    Repository,
    /// It is about other identities.
    Identity,
    /// It is about clients elsewhere.
    Network,
    /// It is about other actions.
    Action,
    /// Its condition is false.
    Condition,
    /// Its condition cannot be evaluated.
    Error,
}

impl Explanation {
    pub(super) fn of(policy: &Policy, question: &Question<'_>, action: Permission) -> Self {
        let mut made = Made::default();
        let rules = policy.ready().iter().map(|ready| {
            let miss = ready.miss(question, action, &mut made);
            Considered::of(ready, question, miss)
        });
        let rules: Vec<Considered> = rules.collect();
        let first = |effect: Effect| {
            rules
                .iter()
                .find(|considered| considered.effect == effect && considered.outcome == Outcome::Matches)
        };
        let deciding = first(Effect::Deny).or_else(|| first(Effect::Allow));
        let allowed = policy.is_open() || deciding.is_some_and(|rule| rule.effect == Effect::Allow);
        Self {
            identity: question.identity.to_string(),
            action: action.as_str().to_owned(),
            repository: question.repository.to_owned(),
            client: question.client.map(|client| client.to_canonical().to_string()),
            allowed,
            decided_by: deciding.map(|considered| considered.rule.clone()),
            open: policy.is_open(),
            rules,
        }
    }

    /// The answer's reason in a few words.
    pub fn reason(&self) -> String {
        match &self.decided_by {
            _ if self.open => "the registry is open to everyone".to_owned(),
            Some(rule) if self.allowed => format!("rule {rule:?} allows it"),
            Some(rule) => format!("rule {rule:?} denies it"),
            None => "no rule allows it".to_owned(),
        }
    }
}

impl Considered {
    fn of(ready: &Ready, question: &Question<'_>, miss: Option<Miss>) -> Self {
        let rule = &ready.rule;
        let list = |texts: &[String]| texts.join(", ");
        let (outcome, detail) = match miss {
            None if rule.effect == Effect::Allow => (Outcome::Matches, "it allows it".to_owned()),
            None => (Outcome::Matches, "it denies it".to_owned()),
            Some(Miss::Repository) => {
                let attributes = &question.identity.attributes;
                let patterns = ready.repositories.iter().map(|pattern| match pattern.expanded(attributes) {
                    Ok(expanded) if expanded == pattern.text() => expanded,
                    Ok(expanded) => format!("{} (here {expanded})", pattern.text()),
                    Err(unfit) => format!("{} ({unfit})", pattern.text()),
                });
                let patterns: Vec<_> = patterns.collect();
                (Outcome::Repository, format!("it is about the repositories {}", patterns.join(", ")))
            }
            Some(Miss::Identity) => {
                (Outcome::Identity, format!("it is about the identities {}", list(&rule.identities)))
            }
            Some(Miss::Network) => {
                let networks: Vec<_> =
                    rule.networks.iter().map(|network| network.get().to_string()).collect();
                (Outcome::Network, format!("it is about clients in {}", networks.join(", ")))
            }
            Some(Miss::Action) => {
                (Outcome::Action, format!("it is about the actions {}", list(&rule.actions)))
            }
            Some(Miss::False) => (
                Outcome::Condition,
                format!("its condition is false: {}", rule.when.as_deref().unwrap_or_default()),
            ),
            Some(Miss::Error(error)) => {
                (Outcome::Error, format!("its condition cannot be evaluated: {error}"))
            }
        };
        Self { rule: rule.name.clone(), effect: rule.effect, outcome, detail }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let may = if self.allowed { "may" } else { "may not" };
        write!(f, "{} {may} {} {}: {}", self.identity, self.action, self.repository, self.reason())?;
        let others =
            self.rules.iter().filter(|considered| self.decided_by.as_ref() != Some(&considered.rule));
        for considered in others {
            write!(f, "\n  {} {:?}: {}", considered.effect.as_str(), considered.rule, considered.detail)?;
        }
        Ok(())
    }
}
