//! Who is asking, and what may they do.
//!
//! A credential becomes an [`Identity`]; a [`Policy`] turns an identity, an action and a resource into a
//! [`Permit`]; what the registry does takes the permit. Only this crate can make one, so a handler
//! that forgets to ask does not compile.

pub mod book;
mod certificates;
mod identity;
mod issuers;
pub mod keys;
mod network;
mod permission;
mod permit;
mod policy;
pub mod robots;
pub mod scope;
pub mod token;
pub mod users;

pub use certificates::{
    Authority, AuthorityError, CertificateRefused, Certificates, CertificatesSettings, NameFrom,
    NodeAuthority,
};
pub use identity::{Identity, Kind};
pub use issuers::{
    Algorithm, Calls, Cluster, Issuer, Issuers, IssuersSettings, KeySource, KeysFrom, Preset, Proven,
    Refused, SettingsError, TokenReview, UnknownAlgorithm,
};
pub use network::Network;
pub use permission::{Permission, Permissions, UnknownAction};
pub use permit::{Action, Delete, Everything, List, Look, Permit, Pull, Push};
pub use policy::{
    Caller, Considered, Denied, DeniedBy, Effect, Explanation, Outcome, Policy, PolicyError, Question,
    Remark, Rule, Vouchers,
};
pub use scope::Scope;
pub use token::AccessToken;
