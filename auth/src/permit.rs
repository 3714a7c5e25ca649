//! Permits: proof that the policy was asked, carried in the type.

use std::fmt;
use std::marker::PhantomData;

use crate::Identity;

/// Something one may be allowed to do. Sealed: the actions are the ones below.
pub trait Action: sealed::Sealed {
    /// The word for it in scopes and logs.
    const NAME: &'static str;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub enum $name {}
        impl sealed::Sealed for $name {}
        impl Action for $name {
            const NAME: &'static str = $word;
        }
    )*};
}

actions! {
    /// Reads blobs, manifests, tags and referrers of a repository.
    Pull = "pull";
    /// Uploads blobs and puts manifests and tags; whoever may push may also pull.
    Push = "push";
    /// Deletes tags, manifests and blobs.
    Delete = "delete";
    /// Lists the repositories of the registry.
    List = "list";
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
pub struct Permit<A, R> {
    identity: Identity,
    resource: R,
    action: PhantomData<fn() -> A>,
}

impl<A: Action, R> Permit<A, R> {
    pub(crate) fn new(identity: Identity, resource: R) -> Self {
        Self { identity, resource, action: PhantomData }
    }

    /// What the permit is for.
    pub fn resource(&self) -> &R {
        &self.resource
    }

    /// Who holds it.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl<R: Clone> Permit<Push, R> {
    /// Whoever may push may see what they push onto.
    pub fn pull(&self) -> Permit<Pull, R> {
        Permit::new(self.identity.clone(), self.resource.clone())
    }
}

impl<A, R: Clone> Clone for Permit<A, R> {
    fn clone(&self) -> Self {
        Self { identity: self.identity.clone(), resource: self.resource.clone(), action: PhantomData }
    }
}

impl<A: Action, R: fmt::Debug> fmt::Debug for Permit<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit<{}>({}, {:?})", A::NAME, self.identity, self.resource)
    }
}
