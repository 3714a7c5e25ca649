//! The issuers as a black box: a small issuer on loopback, tokens made by hand, and what comes of them.

mod calls;
mod claims;
mod clusters;
mod forged;
mod harness;
mod rotation;
mod times;
