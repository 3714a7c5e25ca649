//! What is odd about rules that are good: they can never match, or do more than they seem to.

use std::collections::BTreeSet;

use super::pattern::Pattern;
use super::rule::{Ready, Who};
use super::{Effect, Policy};
use crate::{Kind, Permission, Permissions, Preset};

/// The attributes that service accounts and nodes have.
const OF_CLUSTERS: [&str; 6] = ["cluster", "namespace", "serviceaccount", "pod", "pod_uid", "node"];

/// The attributes that Berth gives to service accounts, nodes and the CI jobs of issuers it knows.
fn given() -> BTreeSet<String> {
    let of_issuers = Preset::ALL.into_iter().flat_map(|preset| preset.attributes().into_keys());
    OF_CLUSTERS.map(str::to_owned).into_iter().chain(of_issuers).collect()
}

/// Something odd about a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Which of the rules, the first being 0.
    pub index: usize,
    /// Its name.
    pub rule: String,
    /// What is odd.
    pub text: String,
}

/// Who and what there is besides rules.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known<'a> {
    /// The names of the users.
    pub(crate) users: BTreeSet<&'a str>,
    /// The names of the robots.
    pub(crate) robots: BTreeSet<&'a str>,
    /// Attributes that identities have besides those that are [`given`].
    pub(crate) attributes: BTreeSet<&'a str>,
    /// Who vouches for others, if that is known.
    pub(crate) vouchers: Option<&'a Vouchers>,
}

/// The names of those who vouch for others.
#[derive(Debug, Clone, Default)]
pub struct Vouchers {
    /// The clusters.
    pub clusters: BTreeSet<String>,
    /// The OIDC issuers.
    pub issuers: BTreeSet<String>,
}

impl Vouchers {
    /// What is not there of what an identity's name begins with.
    pub fn missing(&self, kind: Kind, name: &str) -> Option<String> {
        let (what, names) = match kind {
            Kind::ServiceAccount | Kind::Node => ("cluster", &self.clusters),
            Kind::Oidc => ("issuer", &self.issuers),
            Kind::Anonymous | Kind::User | Kind::Robot | Kind::Certificate => return None,
        };
        let first = name.split('/').next().unwrap_or_default();
        let is_missing = !first.contains('*') && !names.contains(first);
        is_missing.then(|| format!("no [[auth.{what}]] is called {first}"))
    }
}

impl Policy {
    /// What is odd about the rules.
    pub(crate) fn lint(&self, known: &Known<'_>) -> Vec<Remark> {
        let (mut remarks, given) = (Vec::new(), given());
        for (index, ready) in self.ready().iter().enumerate() {
            let remark = |text| Remark { index, rule: ready.rule.name.clone(), text };
            remarks.extend(known.of(ready, &given).into_iter().map(remark));
            remarks.extend(self.shadow(ready).map(remark));
        }
        remarks
    }

    /// The deny without conditions that takes away all that a rule allows.
    fn shadow(&self, allow: &Ready) -> Option<String> {
        if allow.rule.effect == Effect::Deny {
            return None;
        }
        let covers = |deny: &&Ready| {
            deny.rule.effect == Effect::Deny
                && deny.is_unconditional()
                && allow.actions.without(deny.actions).is_empty()
                && allow.identities.iter().all(|who| deny.identities.iter().any(|all| all.covers(who)))
                && allow.repositories.iter().all(|one| deny.repositories.iter().any(|all| all.covers(one)))
        };
        let deny = self.ready().iter().find(covers)?;
        Some(format!("it allows nothing: rule {:?} denies all of it", deny.rule.name))
    }
}

impl Known<'_> {
    fn of(&self, ready: &Ready, given: &BTreeSet<String>) -> Vec<String> {
        let mut texts = Vec::new();
        let rule = &ready.rule;
        let allows = rule.effect == Effect::Allow;
        for (who, text) in ready.identities.iter().zip(&rule.identities) {
            match who {
                Who::Everyone if allows => texts.push(format!(
                    "{text:?} in identities is everyone who has said who they are: each user, robot, pod, node \
                     and CI job of every cluster and issuer"
                )),
                Who::Anonymous if allows && ready.actions.without(Permissions::PULL) != Permissions::NONE => {
                    let more = ready.actions.without(Permissions::PULL);
                    texts.push(format!("everyone who reaches the registry may {more} there, without saying who they are"));
                }
                Who::Named(kind, pattern) => {
                    texts.extend(self.nobody(*kind, pattern).map(|why| {
                        format!("{text:?} in identities matches nobody: {why}")
                    }));
                }
                Who::Everyone | Who::Anonymous | Who::Group(_) => {}
            }
        }
        let only_anonymous = ready.identities.iter().all(|who| matches!(who, Who::Anonymous));
        for pattern in &ready.repositories {
            if let Some(part) = pattern.impossible() {
                texts.push(format!(
                    "{:?} in repositories matches nothing: no part of a repository's name is {part:?}",
                    pattern.text()
                ));
            }
            for attribute in pattern.attributes() {
                if only_anonymous {
                    texts.push(format!("{:?} matches nothing: anonymous has no attributes", pattern.text()));
                } else if !given.contains(attribute) && !self.attributes.contains(attribute) {
                    texts.push(format!(
                        "{:?} uses the attribute {attribute}, which nothing here gives to anybody",
                        pattern.text()
                    ));
                }
            }
        }
        if ready.actions.contains(Permission::Overwrite)
            && !ready.actions.contains(Permission::Create)
            && allows
        {
            texts.push("it allows to overwrite tags and not to create them".to_owned());
        }
        texts
    }

    /// Why there is nobody whose name a pattern is.
    fn nobody(&self, kind: Kind, pattern: &Pattern) -> Option<String> {
        let is_not = |names: &BTreeSet<&str>| pattern.plain().is_some_and(|name| !names.contains(name));
        let parts = match kind {
            Kind::User if is_not(&self.users) => return Some("there is no such user".to_owned()),
            Kind::Robot if is_not(&self.robots) => return Some("there is no such robot".to_owned()),
            Kind::ServiceAccount => Some(3),
            Kind::Node => Some(2),
            _ => None,
        };
        if let Some(parts) = parts.filter(|parts| !pattern.may_have(*parts)) {
            return Some(format!("the name of a {} has {parts} parts", kind.as_str()));
        }
        self.vouchers?.missing(kind, pattern.text())
    }
}

impl Who {
    /// Whether it is about all that another is about. No where there is doubt.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anonymous, Self::Anonymous) => true,
            (Self::Everyone, other) => !matches!(other, Self::Anonymous),
            (Self::Named(kind, all), Self::Named(of, one)) => kind == of && all.covers(one),
            (Self::Group(all), Self::Group(one)) => all.covers(one),
            _ => false,
        }
    }
}
