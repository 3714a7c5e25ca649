//! The policy: what each identity may do.

use crate::{Action, Identity, Permit};

/// Decides.
#[derive(Debug, Clone)]
pub struct Policy(Rules);

#[derive(Debug, Clone)]
enum Rules {
    /// Everyone may do everything. `berth serve` keeps such a registry on loopback unless told
    /// otherwise.
    Open,
}

/// The policy said no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{identity} may not {action} {resource}")]
pub struct Denied {
    /// Who asked.
    pub identity: String,
    /// What for.
    pub action: &'static str,
    /// On what.
    pub resource: String,
}

impl Policy {
    /// The policy of a registry without identities: everyone may do everything.
    pub fn open() -> Self {
        Self(Rules::Open)
    }

    /// Whether anyone who can reach the registry may use it.
    pub fn is_open(&self) -> bool {
        matches!(self.0, Rules::Open)
    }

    /// The permit of `identity` to do `A` with `resource`.
    pub fn permit<A: Action, R: AsRef<str>>(
        &self,
        identity: &Identity,
        resource: R,
    ) -> Result<Permit<A, R>, Denied> {
        match self.0 {
            Rules::Open => Ok(Permit::new(identity.clone(), resource)),
        }
    }
}
