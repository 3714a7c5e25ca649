//! From a request to a permit.
//!
//! Whoever says nothing of who they are is asked to (401), for names that exist and names that do not
//! alike. Whoever is known and may not read is told that there is nothing (404), before anything is looked
//! up; whoever may not write is told so, and by which rule (403).

use std::net::IpAddr;
use std::sync::Arc;

use berth_auth::book::Book;
use berth_auth::{
    Action, Caller, Denied, DeniedBy, Everything, Identity, List, Permission, Permissions, Policy, Scope,
};

use super::error::HttpError;
use crate::oci::RepositoryName;
use crate::registry::Permit;
use crate::tokens::Login;

/// Who asks, and the policy that says what they may.
pub(super) struct Access {
    /// Nobody has to say who they are where everybody may do everything.
    known: Option<Known>,
    anonymous: Identity,
    open: Policy,
}

struct Known {
    login: Login,
    book: Arc<Book>,
    client: Option<IpAddr>,
    now: i64,
}

impl Access {
    /// Everybody may do everything.
    pub(super) fn open() -> Self {
        Self { known: None, anonymous: Identity::anonymous(), open: Policy::open() }
    }

    /// What the rules of the book let somebody do.
    pub(super) fn of(login: Login, book: Arc<Book>, client: Option<IpAddr>, now: i64) -> Self {
        Self { known: Some(Known { login, book, client, now }), ..Self::open() }
    }

    /// Who asks.
    pub(super) fn identity(&self) -> &Identity {
        self.known.as_ref().map_or(&self.anonymous, |known| &known.login.identity)
    }

    fn policy(&self) -> &Policy {
        self.known.as_ref().map_or(&self.open, |known| &known.book.policy)
    }

    fn caller(&self) -> Caller<'_> {
        let known = self.known.as_ref();
        let (client, now) = (known.and_then(|known| known.client), known.map_or(0, |known| known.now));
        Caller { identity: self.identity(), client, now }
    }

    /// What a token is good for, where one came that says so.
    fn scope(&self) -> Option<&Scope> {
        self.known.as_ref()?.login.within.as_ref()
    }

    /// The right to do `A` with a repository, where it is no error not to have it.
    pub(super) fn may<A: Action>(&self, repository: RepositoryName) -> Result<Permit<A>, Denied> {
        let within = self.scope().map_or(Permissions::ALL, |scope| scope.permissions(repository.as_str()));
        self.policy().permit(&self.caller(), repository, within)
    }

    /// The right to do `A` with a repository, or the refusal.
    pub(super) fn permit<A: Action>(&self, repository: RepositoryName) -> Result<Permit<A>, HttpError> {
        let denied = match self.may(repository) {
            Ok(permit) => return Ok(permit),
            Err(denied) => denied,
        };
        let needs = A::NEEDS.unwrap_or_default();
        let reading = needs.contains(Permission::Pull);
        // Whoever pushes looks first.
        let push_and_pull = Permissions::PUSH.union(Permission::Pull.into());
        let asked = match needs {
            _ if reading => Permission::Pull.into(),
            Permissions::PUSH => push_and_pull,
            needs => needs,
        };
        let scope = Scope::of(&denied.resource, asked);
        Err(self.refused(denied, scope, reading))
    }

    fn refused(&self, denied: Denied, scope: Scope, reading: bool) -> HttpError {
        match denied.by {
            DeniedBy::Policy(_) if self.identity().is_anonymous() => {
                HttpError::Unauthorized { scope, error: None, reason: "log in to do this".to_owned() }
            }
            DeniedBy::Policy(_) if reading => HttpError::Hidden(denied),
            DeniedBy::Policy(_) => HttpError::Denied(denied),
            DeniedBy::Scope(_) => {
                let reason = format!("{denied}; get a token for {scope}");
                HttpError::Unauthorized { scope, error: Some("insufficient_scope"), reason }
            }
        }
    }

    /// Whether a repository is shown in a list.
    pub(super) fn shows(&self, repository: &str) -> bool {
        let Some(known) = &self.known else { return true };
        known.book.policy.allowed(&self.caller().about(repository)).contains(Permission::Pull)
    }

    /// The right to list repositories.
    pub(super) fn list(&self) -> Result<berth_auth::Permit<List, Everything>, HttpError> {
        let permit = self.policy().permit(&self.caller(), Everything, Permissions::ALL);
        let permit = permit.map_err(|denied| self.refused(denied, Scope::of_catalog(), false))?;
        if self.scope().is_some_and(|scope| !scope.has_catalog()) {
            let (scope, error) = (Scope::of_catalog(), Some("insufficient_scope"));
            let reason = format!("the token is not good for the catalog; get one for {scope}");
            return Err(HttpError::Unauthorized { scope, error, reason });
        }
        Ok(permit)
    }

    /// Why somebody may not do one thing with a repository that their permit leaves out.
    pub(super) fn why_not(&self, repository: &RepositoryName, permission: Permission) -> String {
        let question = self.caller();
        let reason = self.policy().refusal(&question.about(repository.as_str()), permission.into());
        if reason.is_empty() { "the token is not good for it".to_owned() } else { reason }
    }

    /// The rule that lets somebody do something they did; nothing where everybody may.
    pub(super) fn rule(&self, repository: &RepositoryName, done: Permissions) -> Option<String> {
        let question = self.caller();
        let question = question.about(repository.as_str());
        self.known.as_ref()?.book.policy.rule(&question, done).or(Some(String::new()))
    }

    /// Something whoever asks should know.
    pub(super) fn warning(&self) -> Option<&str> {
        self.known.as_ref()?.login.warning.as_deref()
    }
}
