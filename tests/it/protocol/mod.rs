//! The protocol, request by request: what clients of good will send, and what others do.

mod bad_bodies;
mod bad_input;
mod folder;
mod listings;
mod lists;
mod plans;
mod pull;
mod push;
mod push_manifests;
mod redirect;
mod referrers;
mod resume;
mod sessions;
pub mod wire;
