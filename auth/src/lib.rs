//! Who is asking, and what may they do.
//!
//! A credential becomes an [`Identity`]; a [`Policy`] turns an identity, an action and a resource into a
//! [`Permit`]; what the registry does takes the permit. Only this crate can make one, so a handler
//! that forgets to ask does not compile.

mod identity;
pub mod keys;
mod permission;
mod permit;
mod policy;
pub mod scope;
pub mod token;

pub use identity::{Identity, Kind};
pub use permission::{Permission, Permissions, UnknownAction};
pub use permit::{Action, Delete, Everything, List, Permit, Pull, Push};
pub use policy::{Denied, Policy};
pub use scope::Scope;
pub use token::AccessToken;
