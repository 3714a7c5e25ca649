//! `berth gc`: collects now what nothing needs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use indicatif::{HumanBytes, ProgressBar};

use super::{Listening, Source};
use crate::server::{self, Binding};
use crate::{config::Span, jobs};

/// Collect now what nothing needs.
///
/// Expires upload sessions, collects blobs that no manifest has needed for `gc.min_age`, and deletes
/// their objects. `berth serve` does the same every `gc.interval`; there is no need for a window
/// without pushes. On SQLite, stop `berth serve` first.
#[derive(Debug, Args)]
pub(super) struct Gc {
    #[command(flatten)]
    source: Source,
    /// Collect what has been idle for so long, instead of `gc.min_age`; less than a push takes breaks
    /// pushes that are running
    #[arg(long, value_name = "SPAN", value_parser = super::span)]
    min_age: Option<Span>,
}

impl Gc {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let config = self.source.load(Listening::default())?;
        let mut context = server::open(&config, Binding::Check).await?;
        if let Some(min_age) = self.min_age {
            context.collect_min_age = min_age.get();
        }
        let spinner = ProgressBar::new_spinner();
        spinner.enable_steady_tick(Duration::from_millis(100));
        let report = jobs::round(&context, &mut |report| spinner.set_message(summary(report))).await?;
        spinner.finish_and_clear();
        context.db.close().await;
        println!("{}", summary(&report));
        Ok(if report.objects_failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn summary(report: &jobs::Report) -> String {
    format!(
        "expired {} upload sessions, collected {} blobs ({}), deleted {} objects, {} failed",
        report.uploads_expired,
        report.blobs_collected,
        HumanBytes(report.bytes_collected),
        report.objects_deleted,
        report.objects_failed
    )
}
