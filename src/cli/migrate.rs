//! `berth migrate`: brings the database up to this version.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{Listening, Source};
use crate::db::Db;

/// Bring the database up to this version of berth.
///
/// `berth serve` does it by itself before it is ready. This is for those who want it done before,
/// as in a job that runs ahead of a rolling update. A migration that is killed is as if it had not
/// begun.
#[derive(Debug, Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    source: Source,
}

impl Migrate {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let config = self.source.load(Listening::default())?;
        let db = Db::open(&config.database.location(&config.data)?).await?;
        let spinner = indicatif::ProgressBar::new_spinner().with_message("migrating the database");
        spinner.enable_steady_tick(std::time::Duration::from_millis(100));
        db.migrate().await?;
        spinner.finish_and_clear();
        db.close().await;
        println!("the database is up to date");
        Ok(ExitCode::SUCCESS)
    }
}
