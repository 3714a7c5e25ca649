//! The other side of Berth's token service, for the small programs beside the server.
//!
//! A registry names its token service in a challenge ([`Service`]); an [`Exchange`] turns an identity
//! that already exists into a token of that service. Blocking, one connection, no runtime: the
//! kubelet starts a program for each answer, and waits for it.
//!
//! A token is a [`Secret`] from the moment it is read, and no error and no `Debug` shows one, not even
//! where a server sends it back.

mod challenge;
mod clock;
mod error;
mod exchange;
mod host;
mod http;
mod jwt;
mod metadata;
mod proxy;
mod secret;

pub use challenge::{Discovery, Service};
pub use clock::Clock;
pub use error::{Error, Result};
pub use exchange::{Exchange, Issued, Subject, Wanted, revoke};
pub use host::RegistryHost;
pub use http::{Answer, Http, Limit, Settings, Trust, query};
pub use jwt::Claims;
pub use metadata::{azure_identity, google_identity};
pub use secret::Secret;
