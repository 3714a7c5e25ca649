//! Who is asking.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// How somebody has shown who they are, which is the first word of their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Nobody said who they are.
    Anonymous,
    /// A person with a password here.
    User,
    /// A program with a key of its own.
    Robot,
    /// A Kubernetes service account: `CLUSTER/NAMESPACE/NAME`.
    ServiceAccount,
    /// A Kubernetes node: `CLUSTER/NAME`.
    Node,
    /// Whoever an OIDC issuer vouches for, a CI job or a person: `ISSUER/SUBJECT`.
    Oidc,
    /// The holder of a client certificate, by its SPIFFE id or another name in it.
    Certificate,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Anonymous,
        Self::User,
        Self::Robot,
        Self::ServiceAccount,
        Self::Node,
        Self::Oidc,
        Self::Certificate,
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::User => "user",
            Self::Robot => "robot",
            Self::ServiceAccount => "serviceaccount",
            Self::Node => "node",
            Self::Oidc => "oidc",
            Self::Certificate => "certificate",
        }
    }
}

/// The one a request comes from. A clone shares all that is known of it, until it is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(Arc<Known>);

/// What is known of an [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    kind: Kind,
    name: String,
    /// The groups whoever vouches for it says it is in.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What else is known of it, which rules can use: `namespace`, `repository_owner`, …
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

impl Identity {
    /// An identity by kind and name, without groups and attributes.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        let name = if kind == Kind::Anonymous { String::new() } else { name.into() };
        Self(Arc::new(Known { kind, name, groups: Vec::new(), attributes: BTreeMap::new() }))
    }

    /// Nobody said who they are.
    pub fn anonymous() -> Self {
        Self::new(Kind::Anonymous, "")
    }

    /// Reads what [`Display`](fmt::Display) writes: `user:alice`, `anonymous`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == Kind::Anonymous.as_str() {
            return Some(Self::anonymous());
        }
        let (word, name) = text.split_once(':')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == word)?;
        (kind != Kind::Anonymous && !name.is_empty()).then(|| Self::new(kind, name))
    }

    /// Adds something that is known of it.
    #[must_use]
    pub fn with(mut self, attribute: &str, value: impl Into<String>) -> Self {
        self.attributes.insert(attribute.to_owned(), value.into());
        self
    }

    /// Its text in tokens and rows, where anonymous is nobody's.
    pub fn subject(&self) -> String {
        if self.is_anonymous() { String::new() } else { self.to_string() }
    }

    /// Reads a [`subject`](Self::subject).
    pub fn of_subject(text: &str) -> Option<Self> {
        if text.is_empty() {
            Some(Self::anonymous())
        } else {
            Self::parse(text).filter(|it| !it.is_anonymous())
        }
    }

    /// How it has shown who it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name among those of its kind; empty for anonymous.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether nobody said who they are.
    pub fn is_anonymous(&self) -> bool {
        self.kind == Kind::Anonymous
    }
}

impl Deref for Identity {
    type Target = Known;

    fn deref(&self) -> &Known {
        &self.0
    }
}

impl DerefMut for Identity {
    fn deref_mut(&mut self) -> &mut Known {
        Arc::make_mut(&mut self.0)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if self.is_anonymous() { Ok(()) } else { write!(f, ":{}", self.name) }
    }
}
