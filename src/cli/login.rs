//! `berth login` and `berth logout`: what `docker-credential-berth` does, for those who have `berth` at hand.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use berth_credential_helper::{
    Clock, DockerConfig, Login as Wanted, LoginToken, RegistryHost, Sessions, login, logout,
};
use clap::Args;

/// Log in to a registry, with a code that you enter in a browser.
///
/// The session is kept in ~/.config/berth. For docker to find it, docker-credential-berth has to be
/// on the PATH, and the registry among the credHelpers of docker's configuration.
#[derive(Debug, Args)]
pub(super) struct Login {
    #[command(flatten)]
    target: Target,
    /// Also write into docker's config.json that docker-credential-berth has the credentials
    #[arg(long)]
    configure_docker: bool,
    /// Send the identity provider's access token, instead of its ID token
    #[arg(long)]
    access_token: bool,
}

/// Log out of a registry: the session is forgotten here, and revoked there.
#[derive(Debug, Args)]
pub(super) struct Logout {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Args)]
struct Target {
    /// The registry, HOST or HOST:PORT
    registry: RegistryHost,
    /// Trust the certificates in this file, PEM, beside the system's
    #[arg(long, value_name = "FILE", env = "BERTH_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Speak HTTP without TLS: for a test on one machine
    #[arg(long, env = "BERTH_PLAIN_HTTP")]
    plain_http: bool,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Login {
    pub(super) async fn run(self) -> Result<ExitCode> {
        // It waits for a person, on a blocking client.
        tokio::task::spawn_blocking(move || self.run_blocking()).await?
    }

    fn run_blocking(self) -> Result<ExitCode> {
        let Target { registry, ca_file, plain_http } = self.target;
        let token = if self.access_token { LoginToken::Access } else { LoginToken::Id };
        let wanted = Wanted { registry: registry.clone(), ca_file, plain_http, token };
        login(&wanted, &Sessions::of_user(variable)?, &Clock::System, &mut |prompt| eprintln!("{prompt}"))?;
        eprintln!("Logged in to {registry}.");
        if self.configure_docker {
            let path = DockerConfig::of_user(variable)?.use_helper_for(&registry)?;
            eprintln!("docker takes its credentials from docker-credential-berth: see {}", path.display());
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Logout {
    pub(super) async fn run(self) -> Result<ExitCode> {
        tokio::task::spawn_blocking(move || self.run_blocking()).await?
    }

    fn run_blocking(self) -> Result<ExitCode> {
        let Target { registry, ca_file, plain_http } = self.target;
        let sessions = Sessions::of_user(variable)?;
        let was = logout(registry.as_str(), &sessions, ca_file, plain_http, &Clock::System)?;
        eprintln!("{} {registry}.", if was { "Logged out of" } else { "Nobody was logged in to" });
        Ok(ExitCode::SUCCESS)
    }
}
