//! Object stores that the tests start: real ones, stand-ins for what cannot be had, and one that is
//! hostile on purpose.
//!
//! Each is an address on 127.0.0.1 with what a client needs to know, and a [`Backdoor`]: what a test
//! sees and does behind the back of the client that it tests. What is started here ends with the
//! test process, however that ends; the [`run`] sees to it.

mod azurite;
mod backdoor;
mod bucket;
mod client;
mod discard;
mod google;
mod hostile;
mod issuer;
pub mod process;
mod proxy;
pub mod run;
mod s3_account;
mod s3s_fs;
mod seaweedfs;
mod server;
mod tls;
pub mod tools;
mod xml;

pub use azurite::Azurite;
pub use backdoor::Backdoor;
pub use discard::Discard;
pub use google::Google;
pub use hostile::{Hostile, Lie, Requests, Stall};
pub use issuer::Issuer;
pub use proxy::{Kind, Passed, Proxy};
pub use s3s_fs::S3sFs;
pub use seaweedfs::SeaweedFs;
pub use xml::Operation;
