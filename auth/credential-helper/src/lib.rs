//! Credentials for Berth on a person's machine and in a CI job.
//!
//! A program that runs somewhere often has an identity there already: [`ambient`] finds it. A person has
//! none, and gets one from [`login`]; it is kept in [`Sessions`]. The two programs that use this are
//! `docker-credential-berth` and the server's own `berth login`.

pub mod ambient;
mod docker_config;
mod error;
mod login;
mod sessions;

pub use berth_token_client::{Clock, RegistryHost};
pub use docker_config::DockerConfig;
pub use error::{Error, Result};
pub use login::{Login, LoginToken, Prompt, login, logout};
pub use sessions::{Session, Sessions};

/// The user name that tells docker and its kin that the secret is a refresh token.
pub const TOKEN_USER: &str = "<token>";

/// The client that the token service sees.
const CLIENT: &str = "docker-credential-berth";
