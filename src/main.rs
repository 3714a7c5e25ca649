//! The `berth` program: reads the command line, runs it, turns an error into an exit code.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    berth::cli::Cli::parse().run().unwrap_or_else(|error| {
        eprintln!("berth: {}", said_once(error.chain()));
        ExitCode::from(2)
    })
}

/// An error and its causes, without those that it has already named.
fn said_once<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    chain
        .map(ToString::to_string)
        .reduce(|said, cause| if said.contains(&cause) { said } else { said + ": " + &cause })
        .unwrap_or_default()
}
