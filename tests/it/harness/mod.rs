//! What the tests stand on: a berth of their own, real clients, real databases, content made by hand.
//!
//! Everything a test starts or writes belongs to the [`run`], which cleans up whichever way the
//! tests end. Every wait has a time limit and shows what the program said.

pub mod content;
pub mod docker;
pub mod layout;
pub mod objects;
pub mod postgres;
pub mod repository;
mod self_test;
pub mod server;
pub mod tools;

pub use berth_test_stores::{process, run};
pub use layout::Layout;
pub use objects::{Objects, Storage};
pub use repository::Repository;
pub use server::{Database, Server};

/// A client that goes straight to the server, whatever proxy the environment names.
pub fn http() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().timeout(process::PATIENCE);
    client.build().expect("a client without TLS has nothing to load")
}
