//! From a request to a permit.

use berth_auth::{Action, Everything, Identity, List, Policy, Pull};

use super::error::HttpError;
use crate::oci::RepositoryName;
use crate::registry::Permit;

/// Who asks, and the policy that says what they may.
pub(super) struct Access {
    policy: Policy,
    identity: Identity,
}

impl Access {
    /// Nobody can say yet who they are.
    pub(super) fn of(policy: &Policy) -> Self {
        Self { policy: policy.clone(), identity: Identity::anonymous() }
    }

    /// The right to do `A` with a repository, or the refusal.
    pub(super) fn permit<A: Action>(&self, repository: RepositoryName) -> Result<Permit<A>, HttpError> {
        Ok(self.policy.permit(&self.identity, repository)?)
    }

    /// The right to pull from a repository, where it is no error not to have it.
    pub(super) fn may_pull(&self, repository: RepositoryName) -> Option<Permit<Pull>> {
        self.policy.permit(&self.identity, repository).ok()
    }

    /// The right to list repositories.
    pub(super) fn list(&self) -> Result<berth_auth::Permit<List, Everything>, HttpError> {
        Ok(self.policy.permit(&self.identity, Everything)?)
    }
}
