//! The command line: one file a subcommand.

mod config;
mod fsck;
mod gc;
mod login;
mod migrate;
mod policy;
mod robot;
mod serve;
mod token;
mod user;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Overrides, Span};
use crate::telemetry;

/// A private OCI container registry.
///
/// `berth serve` needs no configuration: it keeps everything in ./berth-data and listens on
/// 127.0.0.1:5000.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // No comments here: they would take the place of what each command says of itself.
    Serve(serve::Serve),
    Config(config::ConfigCommand),
    Migrate(migrate::Migrate),
    Gc(gc::Gc),
    Fsck(fsck::Fsck),
    Policy(policy::PolicyCommand),
    User(user::UserCommand),
    Robot(robot::RobotCommand),
    Token(token::TokenCommand),
    Login(login::Login),
    Logout(login::Logout),
}

/// Threads for what blocks, files above all; the rest waits its turn. Each keeps some memory of its own: when
/// a thousand nodes pull at once, hundreds would be made for some milliseconds of work.
const BLOCKING_THREADS: usize = 64;

/// Where the configuration comes from.
#[derive(Debug, Clone, Args)]
struct Source {
    /// The configuration file, TOML; docs/reference/configuration.md has every setting
    #[arg(long, value_name = "FILE", env = "BERTH_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// The folder for whatever is not put elsewhere [default: ./berth-data]
    #[arg(long, value_name = "FOLDER", env = "BERTH_DATA", global = true)]
    data: Option<PathBuf>,
}

/// Flags of those who listen.
#[derive(Debug, Clone, Copy, Default, Args)]
struct Listening {
    /// The address and port to listen on; port 0 takes a free one [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDRESS", env = "BERTH_LISTEN")]
    listen: Option<SocketAddr>,
    /// Let everyone who reaches an address that is not loopback read, push and delete
    #[arg(long, env = "BERTH_ALLOW_ANONYMOUS")]
    allow_anonymous: bool,
}

impl Source {
    fn load(&self, listening: Listening) -> Result<Config> {
        let Listening { listen, allow_anonymous } = listening;
        let overrides = Overrides { data: self.data.clone(), listen, allow_anonymous };
        // A variable that is no UTF-8 is none of ours.
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let config = Config::load(self.config.as_deref(), variables, overrides)?;
        telemetry::check(&config.log.level).with_context(|| format!("log.level {:?}", config.log.level))?;
        Ok(config)
    }
}

/// Reads a span of time as the configuration has it.
fn span(text: &str) -> Result<Span, String> {
    toml::Value::String(text.to_owned())
        .try_into()
        .map_err(|error: toml::de::Error| error.message().to_owned())
}

/// An error and its causes, without those that it has already named.
pub fn said_once(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .reduce(|said, cause| if said.contains(&cause) { said } else { said + ": " + &cause })
        .unwrap_or_default()
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<ExitCode> {
        let command = self.command;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        runtime.block_on(async {
            match command {
                Command::Serve(serve) => Box::pin(serve.run()).await,
                Command::Config(config) => config.run().await,
                Command::Migrate(migrate) => migrate.run().await,
                Command::Gc(gc) => gc.run().await,
                Command::Fsck(fsck) => fsck.run().await,
                Command::Policy(policy) => policy.run(),
                Command::User(user) => user.run(),
                Command::Robot(robot) => robot.run(),
                Command::Token(token) => token.run().await,
                Command::Login(login) => login.run().await,
                Command::Logout(logout) => logout.run().await,
            }
        })
    }
}
