//! `berth config`: shows or checks the configuration.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{Listening, Source};
use crate::server::check_certificates;

/// Show or check the configuration
#[derive(Debug, Args)]
pub(super) struct ConfigCommand {
    #[command(flatten)]
    source: Source,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the configuration as it is in force: file, BERTH_* variables and defaults
    Show(Listening),
    /// Read the configuration and say what is wrong with it
    Check(Listening),
    /// Print the reference of every setting, as Markdown
    #[command(hide = true)]
    Reference,
}

impl ConfigCommand {
    pub(super) async fn run(self) -> Result<ExitCode> {
        match self.what {
            What::Show(listening) => print!("{}", toml::to_string_pretty(&self.source.load(listening)?)?),
            What::Check(listening) => {
                let config = self.source.load(listening)?;
                check_certificates(&config).await?;
                println!("the configuration is good");
            }
            What::Reference => print!("{}", crate::config::reference()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
