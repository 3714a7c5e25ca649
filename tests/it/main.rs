//! Black-box tests: the real binary, the real clients, the real databases.

mod architecture;
mod bad_bodies;
mod bad_input;
mod clients;
mod harness;
mod listings;
mod plans;
mod pull;
mod push;
mod push_manifests;
mod referrers;
mod resume;
mod sessions;
mod wire;
