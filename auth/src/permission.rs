//! What one may do with a repository: the one set of words that policy, tokens and handlers share.

use std::fmt;
use std::str::FromStr;

/// One thing one may do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Reads blobs, manifests, tags and referrers.
    Pull = 1,
    /// Uploads blobs, puts manifests, and sets tags that are not there yet.
    Create = 2,
    /// Uploads blobs, puts manifests, and moves tags that are there.
    Overwrite = 4,
    /// Deletes tags, manifests and blobs.
    Delete = 8,
}

/// A set of permissions.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Permissions(u8);

/// A word that is none of the permissions'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no action; there are pull, push (create and overwrite), create, overwrite, delete and *")]
pub struct UnknownAction(pub String);

impl Permission {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pull, Self::Create, Self::Overwrite, Self::Delete];

    /// Its word in policies, messages and the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Create => "create",
            Self::Overwrite => "overwrite",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Permissions {
    /// None.
    pub const NONE: Self = Self(0);
    /// All.
    pub const ALL: Self = Self(15);
    /// To pull.
    pub const PULL: Self = Self(Permission::Pull as u8);
    /// To delete.
    pub const DELETE: Self = Self(Permission::Delete as u8);
    /// What the protocol calls push.
    pub const PUSH: Self = Self(Permission::Create as u8 | Permission::Overwrite as u8);

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether one is among them.
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & permission as u8 != 0
    }

    /// Whether any of the others is among them.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Those of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those the other has not.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.contains(*permission))
    }

    /// What a word of a policy or a scope means: `push` is to create and to overwrite, `*` everything.
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "pull" => Permission::Pull.into(),
            "push" => Self::PUSH,
            "create" => Permission::Create.into(),
            "overwrite" => Permission::Overwrite.into(),
            "delete" => Permission::Delete.into(),
            "*" => Self::ALL,
            _ => return None,
        })
    }

    /// The words for them, as few as say it, in the order pull, push, delete.
    pub fn words(self) -> Vec<&'static str> {
        let push = match self.intersection(Self::PUSH) {
            Self::PUSH => Some("push"),
            some if some.contains(Permission::Create) => Some("create"),
            some if some.contains(Permission::Overwrite) => Some("overwrite"),
            _ => None,
        };
        let word = |permission: Permission| self.contains(permission).then_some(permission.as_str());
        [word(Permission::Pull), push, word(Permission::Delete)].into_iter().flatten().collect()
    }
}

impl From<Permission> for Permissions {
    fn from(permission: Permission) -> Self {
        Self(permission as u8)
    }
}

impl FromIterator<Self> for Permissions {
    fn from_iter<I: IntoIterator<Item = Self>>(sets: I) -> Self {
        sets.into_iter().fold(Self::NONE, Self::union)
    }
}

impl FromStr for Permissions {
    type Err = UnknownAction;

    fn from_str(word: &str) -> Result<Self, UnknownAction> {
        Self::of_word(word).ok_or_else(|| UnknownAction(word.to_owned()))
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { f.write_str("nothing") } else { f.write_str(&self.words().join(", ")) }
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permissions({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_what_its_words_say() {
        for bits in 0..16 {
            let set = Permissions(bits);
            let read: Permissions = set.words().into_iter().filter_map(Permissions::of_word).collect();
            assert_eq!(read, set);
        }
    }
}
