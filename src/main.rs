//! The `berth` program: reads the command line, runs it, turns an error into an exit code.

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    berth::cli::Cli::parse().run().unwrap_or_else(|error| {
        eprintln!("berth: {}", berth::cli::said_once(&error));
        ExitCode::from(2)
    })
}
