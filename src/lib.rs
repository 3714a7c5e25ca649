//! Berth, a private OCI container registry.
//!
//! The way of a request: [`http`] reads it and asks `berth-auth` for a permit; [`registry`] does what
//! a registry does, [`tokens`] who asks; [`db`] holds every fact and every line of SQL; `berth-storage` holds the bytes.
//! [`jobs`] do the work no request waits for. [`server`] puts them together from a [`config`];
//! [`cli`] is the command line. [`oci`] is the spec's vocabulary, and [`clock`] the time.
//!
//! ```text
//! main -> cli -> server -> { http, jobs } -> { registry, tokens } -> { db, storage }
//! ```

pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod http;
pub mod jobs;
pub mod oci;
pub mod registry;
pub mod server;
pub mod telemetry;
pub mod tokens;
