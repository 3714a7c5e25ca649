//! Permits: proof that the policy was asked, carried in the type.

use std::fmt;
use std::marker::PhantomData;

use crate::{Identity, Permission, Permissions};

/// Something one may be allowed to do. Sealed: the actions are the ones below.
pub trait Action: sealed::Sealed {
    /// The word for it in scopes and logs.
    const NAME: &'static str;
    /// The permissions of which one is needed; none for what is not about one repository.
    const NEEDS: Option<Permissions>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $needs:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub enum $name {}
        impl sealed::Sealed for $name {}
        impl Action for $name {
            const NAME: &'static str = $word;
            const NEEDS: Option<Permissions> = $needs;
        }
    )*};
}

actions! {
    /// Reads blobs, manifests, tags and referrers of a repository.
    Pull = "pull", Some(Permissions::PULL);
    /// Knows whether something is there: whoever may push asks before they send it.
    Look = "look into", Some(Permissions::PULL.union(Permissions::PUSH));
    /// Uploads blobs and puts manifests and tags: creates, overwrites or both, as the permit says. Whoever
    /// may push may not pull by that.
    Push = "push", Some(Permissions::PUSH);
    /// Deletes tags, manifests and blobs.
    Delete = "delete", Some(Permissions::DELETE);
    /// Lists the repositories of the registry.
    List = "list", None;
}

/// The whole registry, where a permit is not about one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Everything;

impl AsRef<str> for Everything {
    fn as_ref(&self) -> &'static str {
        "*"
    }
}

/// The right of an identity to do `A` with a resource. Made by [`crate::Policy::permit`] alone.
///
/// Nobody else can make one, so what takes a permit cannot be called by who has not asked:
///
/// ```compile_fail,E0624
/// use berth_auth::{Identity, Permissions, Permit, Pull};
///
/// let mine: Permit<Pull, &str> = Permit::new(Identity::anonymous(), "team/app", Permissions::ALL);
/// ```
///
/// And a permit for one thing is none for another:
///
/// ```compile_fail,E0308
/// use berth_auth::{Delete, Permit, Pull};
///
/// fn delete(permit: &Permit<Delete, String>) {}
///
/// fn handle(permit: &Permit<Pull, String>) {
///     delete(permit);
/// }
/// ```
pub struct Permit<A, R> {
    identity: Identity,
    resource: R,
    permissions: Permissions,
    action: PhantomData<fn() -> A>,
}

impl<A: Action, R> Permit<A, R> {
    pub(crate) fn new(identity: Identity, resource: R, permissions: Permissions) -> Self {
        Self { identity, resource, permissions, action: PhantomData }
    }

    /// What the permit is for.
    pub fn resource(&self) -> &R {
        &self.resource
    }

    /// Who holds it.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether its holder may also do this with the resource: what both policy and token say.
    ///
    /// Whether a push creates a tag or overwrites one is known in the transaction that sees its row, so
    /// that is where a permit to push is asked for the one it needs.
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(permission)
    }
}

impl<A, R: Clone> Clone for Permit<A, R> {
    fn clone(&self) -> Self {
        let Self { identity, resource, permissions, action } = self;
        let (identity, resource) = (identity.clone(), resource.clone());
        Self { identity, resource, permissions: *permissions, action: *action }
    }
}

impl<A: Action, R: fmt::Debug> fmt::Debug for Permit<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit<{}>({}, {:?})", A::NAME, self.identity, self.resource)
    }
}
