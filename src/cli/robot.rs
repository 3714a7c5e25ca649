//! `berth robot`: programs with a key of Berth's own.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use berth_auth::robots::{self, Moment};
use clap::{Args, Subcommand};

use crate::clock::Clock;
use crate::config::Span;

/// Make what the configuration has of robots
#[derive(Debug, Args)]
pub(super) struct RobotCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a key, and print it once with the `[[robot]]` block for it
    ///
    /// The key goes to the standard error and the block to the standard output, so that the output can
    /// be written to a file. To change a key, put the new one's `{ hash = … }` beside the old one's: a
    /// robot may have two.
    New {
        /// The name of the robot, of a-z 0-9 . _ -
        name: String,
        /// How long the key is good; if not given, until it is taken out
        #[arg(long, value_name = "SPAN", value_parser = super::span)]
        expires: Option<Span>,
    },
}

impl RobotCommand {
    pub(super) fn run(self) -> Result<ExitCode> {
        let What::New { name, expires } = self.what;
        robots::check_name(&name).map_err(anyhow::Error::msg)?;
        let mut random = [0; 32];
        getrandom::fill(&mut random).context("the system has no random numbers")?;
        let (key, hash) = robots::generate(&random);
        // To the second: nobody wants to read milliseconds in a file.
        let moment = expires.map(|span| Moment::of(Clock::System.after(span.get()) / 1_000 * 1_000));
        let expires = moment.map(|moment| format!(", expires = {moment}")).unwrap_or_default();
        eprintln!("The key of robot {name}, which is not shown again:\n{key}");
        println!("[[robot]]\nname = \"{name}\"\nsecrets = [{{ hash = \"{hash}\"{expires} }}]");
        Ok(ExitCode::SUCCESS)
    }
}
