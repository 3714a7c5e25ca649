//! What the tests stand on: a berth of their own, real clients, real databases, content made by hand.
//!
//! Everything a test starts or writes belongs to the [`run`], which cleans up whichever way the
//! tests end. Every wait has a time limit and shows what the program said.

pub mod content;
pub mod docker;
pub mod kubernetes;
pub mod layout;
pub mod objects;
pub mod oidc;
pub mod postgres;
pub mod repository;
mod self_test;
pub mod server;
pub mod tls;
pub mod tools;

pub use berth_test_stores::{process, run};
pub use kubernetes::Cluster;
pub use layout::Layout;
pub use objects::{Objects, Storage};
pub use repository::Repository;
pub use server::{Database, Server};
pub use tls::Tls;

/// A client that goes straight to the server, whatever proxy the environment names.
pub fn http() -> reqwest::Client {
    client().tls_certs_only([]).build().expect("a client that trusts nobody has nothing to load")
}

/// What every client of ours begins with.
fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().timeout(process::PATIENCE)
}
