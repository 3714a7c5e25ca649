//! A rule as it is written, and as it is asked.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Question;
use super::condition::{Condition, Scene};
use super::pattern::Pattern;
use crate::{Identity, Kind, Network, Permission, Permissions};

/// What a rule does with the questions it matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It says yes.
    #[default]
    Allow,
    /// It says no, whatever other rules allow.
    Deny,
}

impl Effect {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A rule: who may, or may not, do what with which repositories. What no rule allows is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The name of the rule, which messages and the audit log use. No two rules have the same.
    pub name: String,
    /// `allow` or `deny`; a rule that denies wins over every rule that allows.
    #[serde(default)]
    pub effect: Effect,
    /// Who: `user:alice`, `robot:*`, `serviceaccount:CLUSTER/NAMESPACE/NAME`, `node:CLUSTER/*`,
    /// `oidc:ISSUER/**`, `certificate:NAME`, `group:NAME`, `anonymous`, or `*` for everyone who has said
    /// who they are. `*` stands for anything but a slash, `**` for any number of whole parts.
    pub identities: Vec<String>,
    /// Which repositories: `*` and `**` as in `identities`; `${namespace}` is replaced by that attribute
    /// of whoever asks, and the pattern matches nothing if they have no such attribute.
    pub repositories: Vec<String>,
    /// What: `pull`, `push` (which is `create` and `overwrite`), `create`, `overwrite`, `delete` or `*`.
    pub actions: Vec<String>,
    /// Only for clients with an address in one of these networks, as `["10.0.0.0/8"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// Only if this CEL expression is true. It may use `identity`, `kind`, `groups`, `attributes`,
    /// `repository`, `action`, `client` and `now`. If it cannot be evaluated, a rule that allows does
    /// not match, and a rule that denies does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

/// A rule, ready to be asked.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) rule: Rule,
    pub(super) actions: Permissions,
    pub(super) identities: Vec<Who>,
    pub(super) repositories: Vec<Pattern>,
    when: Option<Condition>,
    /// Whether it was logged that the expression cannot be evaluated.
    said: AtomicBool,
}

/// A pattern of identities.
#[derive(Debug)]
pub(super) enum Who {
    Anonymous,
    /// All but anonymous.
    Everyone,
    Named(Kind, Pattern),
    Group(Pattern),
}

/// What is made of a question for the rules that want it, once for all of them.
#[derive(Default)]
pub(super) struct Made<'q> {
    scene: Option<Scene>,
    groups: Option<HashSet<&'q str>>,
}

impl<'q> Made<'q> {
    fn scene(&mut self, question: &Question<'q>) -> &Scene {
        self.scene.get_or_insert_with(|| Scene::of(question))
    }

    /// The groups, to look one up: somebody may be in hundreds, and there may be a rule for each.
    fn groups(&mut self, identity: &'q Identity) -> &HashSet<&'q str> {
        self.groups.get_or_insert_with(|| identity.groups.iter().map(String::as_str).collect())
    }
}

/// Why a rule is not about a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Miss {
    Action,
    Identity,
    Repository,
    Network,
    False,
    /// The expression cannot be evaluated.
    Error(String),
}

impl Who {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "anonymous" => return Ok(Self::Anonymous),
            "*" | "**" => return Ok(Self::Everyone),
            _ => {}
        }
        let (word, name) = text.split_once(':').unwrap_or((text, ""));
        if word == "group" {
            return Pattern::of_names(name).map(Self::Group);
        }
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == word && *kind != Kind::Anonymous);
        let Some(kind) = kind else {
            let kinds: Vec<_> = Kind::ALL.iter().skip(1).map(|kind| kind.as_str()).collect();
            return Err(format!(
                "{text:?} is no pattern of identities; it is anonymous, * or KIND:NAME, KIND being {} or group",
                kinds.join(", ")
            ));
        };
        Pattern::of_names(name).map(|pattern| Self::Named(kind, pattern))
    }

    fn is<'q>(&self, identity: &'q Identity, made: &mut Made<'q>) -> bool {
        match self {
            Self::Anonymous => identity.is_anonymous(),
            Self::Everyone => !identity.is_anonymous(),
            Self::Named(kind, pattern) => {
                *kind == identity.kind() && pattern.fits(identity.name(), &identity.attributes)
            }
            Self::Group(_) if identity.is_anonymous() => false,
            Self::Group(pattern) => match pattern.plain() {
                Some(name) => made.groups(identity).contains(name),
                None => identity.groups.iter().any(|group| pattern.fits(group, &identity.attributes)),
            },
        }
    }
}

impl Ready {
    pub(super) fn read(rule: Rule) -> Result<Self, String> {
        let name = rule.name.trim();
        if name.is_empty() || name.len() > 200 || name != rule.name || name.chars().any(char::is_control) {
            return Err("the name of a rule is one line of 1 to 200 bytes".into());
        }
        let lists = [
            ("identities", rule.identities.is_empty()),
            ("repositories", rule.repositories.is_empty()),
            ("actions", rule.actions.is_empty()),
        ];
        if let Some((list, _)) = lists.iter().find(|(_, is_empty)| *is_empty) {
            return Err(format!("{list} is empty, so that the rule is about nothing"));
        }
        let identities = rule.identities.iter().map(|text| Who::read(text));
        let identities = identities.collect::<Result<_, _>>().map_err(|why| format!("identities: {why}"))?;
        let repositories = rule.repositories.iter().map(|text| Pattern::of_repositories(text));
        let repositories =
            repositories.collect::<Result<_, _>>().map_err(|why| format!("repositories: {why}"))?;
        let actions = rule.actions.iter().map(|word| word.parse::<Permissions>());
        let actions = actions.collect::<Result<_, _>>().map_err(|why| format!("actions: {why}"))?;
        let when = rule.when.as_deref().map(Condition::compile).transpose();
        let when = when.map_err(|why| format!("when: {why}"))?;
        Ok(Self { rule, actions, identities, repositories, when, said: AtomicBool::new(false) })
    }

    /// Whether it is about clients everywhere, at all times.
    pub(super) fn is_unconditional(&self) -> bool {
        self.when.is_none() && self.rule.networks.is_empty()
    }

    /// Those of `wanted` that the rule is about, in this question.
    pub(super) fn about<'q>(
        &self,
        question: &Question<'q>,
        wanted: Permissions,
        made: &mut Made<'q>,
    ) -> Permissions {
        let wanted = self.actions.intersection(wanted);
        if wanted.is_empty()
            || !self.is_of(question, made)
            || !self.is_in(question)
            || !self.is_from(question.client)
        {
            return Permissions::NONE;
        }
        let Some(when) = &self.when else { return wanted };
        let scene = made.scene(question);
        let holds = |action: Permission| self.matches_by(when.holds(scene, action));
        if when.asks_action {
            return wanted.iter().filter(|action| holds(*action)).map(Permissions::from).collect();
        }
        match wanted.iter().next() {
            Some(action) if holds(action) => wanted,
            _ => Permissions::NONE,
        }
    }

    /// Why the rule is not about one action, in the order in which people look for the reason; nothing
    /// if it is.
    pub(super) fn miss<'q>(
        &self,
        question: &Question<'q>,
        action: Permission,
        made: &mut Made<'q>,
    ) -> Option<Miss> {
        if !self.is_in(question) {
            return Some(Miss::Repository);
        }
        if !self.is_of(question, made) {
            return Some(Miss::Identity);
        }
        if !self.is_from(question.client) {
            return Some(Miss::Network);
        }
        if !self.actions.contains(action) {
            return Some(Miss::Action);
        }
        let when = self.when.as_ref()?;
        match when.holds(made.scene(question), action) {
            Ok(true) => None,
            Ok(false) => Some(Miss::False),
            Err(_) if self.rule.effect == Effect::Deny => None,
            Err(error) => Some(Miss::Error(error)),
        }
    }

    fn is_of<'q>(&self, question: &Question<'q>, made: &mut Made<'q>) -> bool {
        self.identities.iter().any(|who| who.is(question.identity, made))
    }

    fn is_in(&self, question: &Question<'_>) -> bool {
        let attributes = &question.identity.attributes;
        self.repositories.iter().any(|pattern| pattern.fits(question.repository, attributes))
    }

    /// Whether the rule is about clients with this address. One whose address nobody knows is in no
    /// network of a rule that allows, and in all of one that denies.
    fn is_from(&self, client: Option<IpAddr>) -> bool {
        let networks = &self.rule.networks;
        match client {
            _ if networks.is_empty() => true,
            Some(client) => networks.iter().any(|network| network.contains(client)),
            None => self.rule.effect == Effect::Deny,
        }
    }

    fn matches_by(&self, verdict: Result<bool, String>) -> bool {
        verdict.unwrap_or_else(|error| {
            if !self.said.swap(true, Ordering::Relaxed) {
                warn!(
                    rule = self.rule.name,
                    "the condition of rule {:?} cannot be evaluated, so that it {}: {error}",
                    self.rule.name,
                    match self.rule.effect {
                        Effect::Allow => "allows nothing there",
                        Effect::Deny => "denies",
                    }
                );
            }
            self.rule.effect == Effect::Deny
        })
    }
}
