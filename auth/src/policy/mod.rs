//! The policy: what each identity may do.
//!
//! It is a list of rules. What no rule allows is refused, and a rule that denies wins over every rule
//! that allows, so the order of the rules means nothing and a rule can be read on its own.

mod condition;
mod explain;
mod lint;
mod pattern;
mod rule;

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use self::explain::{Considered, Explanation, Outcome};
pub(crate) use self::lint::Known;
pub use self::lint::{Remark, Vouchers};
pub use self::rule::{Effect, Rule};
use self::rule::{Made, Ready};
use crate::{Action, Identity, Permission, Permissions, Permit};

/// Decides.
#[derive(Debug, Clone)]
pub struct Policy(Rules);

#[derive(Debug, Clone)]
enum Rules {
    /// Everyone may do everything. `berth serve` keeps such a registry on loopback unless told
    /// otherwise.
    Open,
    /// What the rules allow.
    Some(Arc<[Ready]>),
}

/// Who asks, from where, and when.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// The client's address, if it is known.
    pub client: Option<IpAddr>,
    /// The time, in unix milliseconds.
    pub now: i64,
}

/// What the policy is asked: what may this one do with that repository?
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who asks.
    pub identity: &'a Identity,
    /// About which repository.
    pub repository: &'a str,
    /// The client's address, if it is known.
    pub client: Option<IpAddr>,
    /// The time, in unix milliseconds.
    pub now: i64,
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule:?}: {reason}")]
pub struct PolicyError {
    /// Which of the rules, the first being 0.
    pub index: usize,
    /// Its name.
    pub rule: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The answer is no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{identity} may not {action} {resource}: {by}")]
pub struct Denied {
    /// Who asked.
    pub identity: String,
    /// What for.
    pub action: &'static str,
    /// On what.
    pub resource: String,
    /// Who says so.
    pub by: DeniedBy,
}

/// Who said no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeniedBy {
    /// The policy, for this reason.
    Policy(String),
    /// Nobody but the token: the policy would allow it, and the token is good for these only.
    Scope(Permissions),
}

impl fmt::Display for DeniedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(reason) => f.write_str(reason),
            Self::Scope(within) => write!(f, "the token is good for {within} there"),
        }
    }
}

impl<'a> Caller<'a> {
    /// The question about one repository.
    pub fn about(&self, repository: &'a str) -> Question<'a> {
        Question { identity: self.identity, repository, client: self.client, now: self.now }
    }
}

impl Policy {
    /// The policy of a registry without identities: everyone may do everything.
    pub fn open() -> Self {
        Self(Rules::Open)
    }

    /// The policy of these rules; of no rules, that nobody may do anything.
    pub fn new(rules: Vec<Rule>) -> Result<Self, PolicyError> {
        let mut names = HashSet::new();
        let mut ready = Vec::with_capacity(rules.len());
        for (index, rule) in rules.into_iter().enumerate() {
            let name = rule.name.clone();
            let wrong = |reason| PolicyError { index, rule: name.clone(), reason };
            let rule = Ready::read(rule).map_err(wrong)?;
            if !names.insert(name.clone()) {
                return Err(wrong("another rule has the same name".into()));
            }
            ready.push(rule);
        }
        Ok(Self(Rules::Some(ready.into())))
    }

    /// Whether anyone who can reach the registry may use it.
    pub fn is_open(&self) -> bool {
        matches!(self.0, Rules::Open)
    }

    /// The rules, in the order in which they were given; none of an open policy.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.ready().iter().map(|ready| &ready.rule)
    }

    fn ready(&self) -> &[Ready] {
        match &self.0 {
            Rules::Open => &[],
            Rules::Some(rules) => rules,
        }
    }

    /// What one may do.
    pub fn allowed(&self, question: &Question<'_>) -> Permissions {
        if self.is_open() {
            return Permissions::ALL;
        }
        let mut made = Made::default();
        let mut matched = |effect: Effect, mut wanted: Permissions| {
            let mut found = Permissions::NONE;
            for ready in self.ready().iter().filter(|ready| ready.rule.effect == effect) {
                if wanted.is_empty() {
                    break;
                }
                let more = ready.about(question, wanted, &mut made);
                (found, wanted) = (found.union(more), wanted.without(more));
            }
            found
        };
        let denied = matched(Effect::Deny, Permissions::ALL);
        matched(Effect::Allow, Permissions::ALL.without(denied))
    }

    /// The name of the rule that lets one do any of these; none where everyone may, or nobody.
    pub fn rule(&self, question: &Question<'_>, wanted: Permissions) -> Option<String> {
        let mut made = Made::default();
        let allow = self.ready().iter().filter(|ready| ready.rule.effect == Effect::Allow);
        let mut lets = allow.filter(|ready| !ready.about(question, wanted, &mut made).is_empty());
        lets.next().map(|ready| ready.rule.name.clone())
    }

    /// Why one may, or may not, do something: what each rule has to say.
    pub fn explain(&self, question: &Question<'_>, action: Permission) -> Explanation {
        Explanation::of(self, question, action)
    }

    /// Why one may not do all that is wanted, in a few words; empty if one may.
    pub fn refusal(&self, question: &Question<'_>, wanted: Permissions) -> String {
        let refused = wanted.without(self.allowed(question)).iter().next();
        refused.map(|action| self.explain(question, action).reason()).unwrap_or_default()
    }

    /// The permit to do `A` with `resource`, with a token that is good for no more than `within`.
    ///
    /// To push, one of create and overwrite will do; the permit says which of them it holds.
    pub fn permit<A: Action, R: AsRef<str>>(
        &self,
        caller: &Caller<'_>,
        resource: R,
        within: Permissions,
    ) -> Result<Permit<A, R>, Denied> {
        let question = caller.about(resource.as_ref());
        let denied = |by| Denied {
            identity: caller.identity.to_string(),
            action: A::NAME,
            resource: resource.as_ref().to_owned(),
            by,
        };
        let Some(needs) = A::NEEDS else {
            // What is listed is filtered by what one may pull, so that it is enough to be someone.
            return if self.is_open() || !caller.identity.is_anonymous() {
                Ok(Permit::new(caller.identity.clone(), resource, within))
            } else {
                Err(denied(DeniedBy::Policy("it is not for those who do not say who they are".into())))
            };
        };
        let allowed = self.allowed(&question);
        if !allowed.intersects(needs) {
            return Err(denied(DeniedBy::Policy(self.refusal(&question, needs))));
        }
        let both = allowed.intersection(within);
        if !both.intersects(needs) {
            return Err(denied(DeniedBy::Scope(within)));
        }
        Ok(Permit::new(caller.identity.clone(), resource, both))
    }
}

#[cfg(test)]
mod tests;
