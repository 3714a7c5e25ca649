//! Scopes: what a client asks a token for, and what a token is good for.
//!
//! A scope is `type:name:actions`; the name may hold colons itself (`host:5000/name`), so the type is cut
//! off from the left and the actions from the right. What is not understood is granted as nothing, never
//! refused: behind a mirror clients ask for names they made up. The name `*`, which no repository has, stands
//! for all of them, and is for pulling alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Permissions;

/// Scopes taken in one request.
pub const SCOPES: usize = 100;
/// The name that stands for every repository.
const EVERY: &str = "*";
/// The longest name in one, in bytes; no repository's is longer.
const NAME_BYTES: usize = 255;

/// More scopes than one token holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("more than {SCOPES} scopes in one request; ask for what one push or pull needs")]
pub struct TooManyScopes;

/// What is asked for, or granted: permissions by repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Clones share them.
    repositories: Arc<BTreeMap<String, Permissions>>,
    /// `registry:catalog:*`.
    catalog: bool,
}

/// One entry of a token's `access`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `repository` or `registry`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which one.
    pub name: String,
    /// What for.
    pub actions: Vec<String>,
}

impl Scope {
    /// Nothing at all.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// A scope of one repository.
    pub fn of(repository: &str, permissions: Permissions) -> Self {
        Self { repositories: Arc::new([(repository.to_owned(), permissions)].into()), catalog: false }
    }

    /// What it holds for all repositories at once.
    pub fn every(&self) -> Permissions {
        self.permissions(EVERY)
    }

    /// The scope of the catalog.
    pub fn of_catalog() -> Self {
        Self { repositories: Arc::default(), catalog: true }
    }

    /// Reads scope parameters, each of which may hold several, separated by spaces.
    pub fn parse<'a>(parameters: impl IntoIterator<Item = &'a str>) -> Result<Self, TooManyScopes> {
        let mut scope = Self::default();
        let each = parameters.into_iter().flat_map(str::split_ascii_whitespace);
        for (index, text) in each.enumerate() {
            if index >= SCOPES {
                return Err(TooManyScopes);
            }
            scope.add(text);
        }
        Ok(scope)
    }

    fn add(&mut self, text: &str) {
        let parts = text.split_once(':').and_then(|(kind, rest)| Some((kind, rest.rsplit_once(':')?)));
        let Some((kind, (name, actions))) = parts else { return };
        let words = actions.split(',');
        // A class in brackets, `repository(plugin)`, is a word of the past.
        match kind.split_once('(').map_or(kind, |(kind, _)| kind) {
            "repository" if !name.is_empty() && name.len() <= NAME_BYTES => {
                let asked: Permissions = words.filter_map(Permissions::of_word).collect();
                // A node pulls what its pods name, and cannot say beforehand what that is; whoever writes can.
                let asked = if name == EVERY { asked.intersection(Permissions::PULL) } else { asked };
                let entry = Arc::make_mut(&mut self.repositories).entry(name.to_owned()).or_default();
                *entry = entry.union(asked);
            }
            "registry" if name == "catalog" => self.catalog = true,
            _ => {}
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.catalog |= other.catalog;
        let repositories = Arc::make_mut(&mut self.repositories);
        for (name, permissions) in Arc::unwrap_or_clone(other.repositories) {
            let entry = repositories.entry(name).or_default();
            *entry = entry.union(permissions);
        }
        self
    }

    /// What it holds for a repository.
    pub fn permissions(&self, repository: &str) -> Permissions {
        [repository, EVERY].into_iter().filter_map(|name| self.repositories.get(name).copied()).collect()
    }

    /// Whether it holds the catalog.
    pub fn has_catalog(&self) -> bool {
        self.catalog
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        !self.catalog && self.repositories.values().all(|permissions| permissions.is_empty())
    }

    /// What is left of it where `allowed` says what may be had of a repository, `every` what of all of them
    /// at once, and `catalog` whether the catalog may.
    #[must_use]
    pub fn restrict(
        self,
        catalog: bool,
        every: Permissions,
        mut allowed: impl FnMut(&str) -> Permissions,
    ) -> Self {
        let repositories = Arc::unwrap_or_clone(self.repositories).into_iter().filter_map(|(name, asked)| {
            let granted = asked.intersection(if name == EVERY { every } else { allowed(&name) });
            (!granted.is_empty()).then_some((name, granted))
        });
        Self { catalog: self.catalog && catalog, repositories: Arc::new(repositories.collect()) }
    }

    /// As a token holds it.
    pub fn to_access(&self) -> Vec<Access> {
        let entry = |kind: &str, name: &str, actions: Vec<&str>| Access {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions.into_iter().map(str::to_owned).collect(),
        };
        let repositories =
            self.repositories.iter().map(|(name, actions)| entry("repository", name, actions.words()));
        let catalog = self.catalog.then(|| entry("registry", "catalog", vec!["*"]));
        repositories.chain(catalog).collect()
    }

    /// As a token held it.
    pub fn from_access(access: &[Access]) -> Self {
        let mut scope = Self::default();
        for entry in access {
            scope.add(&format!("{}:{}:{}", entry.kind, entry.name, entry.actions.join(",")));
        }
        scope
    }
}

/// As a challenge and the answer of the token endpoint write it.
impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scopes = self.to_access().into_iter().map(|each| {
            let Access { kind, name, actions } = each;
            format!("{kind}:{name}:{}", actions.join(","))
        });
        f.write_str(&scopes.collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Permission;

    #[test]
    fn a_name_may_hold_a_port_and_a_parameter_several_scopes() {
        let scope = Scope::parse([
            "repository:host:5000/team/app:pull,push repository:other:pull",
            "registry:catalog:*",
            "repository(plugin):old:pull",
        ]);
        let scope = scope.unwrap();
        let push_and_pull = Permissions::PUSH.union(Permission::Pull.into());
        assert_eq!(scope.permissions("host:5000/team/app"), push_and_pull);
        assert_eq!(scope.permissions("other"), Permission::Pull.into());
        assert_eq!(scope.permissions("old"), Permission::Pull.into());
        assert!(scope.has_catalog());
    }

    #[test]
    fn what_nobody_understands_is_nothing() {
        for text in ["", ":", "::", "repository", "repository:name", "repository::pull", "thing:name:pull"] {
            assert!(Scope::parse([text]).unwrap().is_empty(), "{text}");
        }
        assert_eq!(Scope::parse(["repository:a:fly"]).unwrap().permissions("a"), Permissions::NONE);
    }

    #[test]
    fn a_star_is_for_pulling_from_every_repository() {
        let scope = Scope::parse(["repository:*:pull,push,delete repository:a:push"]).unwrap();
        assert_eq!(scope.every(), Permissions::PULL);
        assert_eq!(scope.permissions("b"), Permissions::PULL);
        assert_eq!(scope.permissions("a"), Permissions::PUSH.union(Permissions::PULL));
        // What may be had of all of them is no matter of what may be had of one.
        let restricted = scope.clone().restrict(false, Permissions::PULL, |_| Permissions::NONE);
        assert_eq!(restricted.to_string(), "repository:*:pull");
        let restricted = scope.restrict(false, Permissions::NONE, |_| Permissions::ALL);
        assert_eq!(restricted.to_string(), "repository:a:push");
        assert!(Scope::parse(["repository:team/*:pull"]).unwrap().permissions("team/a").is_empty());
    }

    #[test]
    fn ten_thousand_scopes_are_refused() {
        let many = "repository:a:pull ".repeat(10_000);
        assert_eq!(Scope::parse([many.as_str()]), Err(TooManyScopes));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(texts in proptest::collection::vec("(repository|registry):[a-z:/0-9*]{0,12}:(pull|push|create|delete|[*]|,){0,4}", 0..9)) {
            let scope = Scope::parse(texts.iter().map(String::as_str)).unwrap();
            let scope = scope.restrict(true, Permissions::ALL, |_| Permissions::ALL);
            prop_assert_eq!(&Scope::from_access(&scope.to_access()), &scope);
            prop_assert_eq!(&Scope::parse([scope.to_string().as_str()]).unwrap(), &scope);
        }

        #[test]
        fn nothing_panics_on_any_text(text in ".*") {
            let _ = Scope::parse([text.as_str()]);
        }
    }
}
