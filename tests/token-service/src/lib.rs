//! A stand-in for Berth's token service, for an identity provider and for the metadata servers of
//! clouds: for tests of those who talk to them.
//!
//! Each checks what it is sent. What should not have been sent is a complaint; a stand-in that is
//! dropped with complaints that nobody took fails the test.

mod authority;
mod complaints;
mod identity_provider;
mod metadata;
mod server;
mod token_service;

pub use authority::Authority;
pub use identity_provider::{IdentityProvider, Poll};
pub use metadata::Metadata;
pub use server::{Reply, Request};
pub use token_service::{Exchanged, TokenService};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A JWT with these claims, and a signature of the right shape.
pub fn jwt(claims: &serde_json::Value) -> String {
    let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = serde_json::json!({"alg": "RS256", "kid": "test", "typ": "JWT"});
    format!("{}.{}.{}", encode(&header), encode(claims), URL_SAFE_NO_PAD.encode([7; 64]))
}
