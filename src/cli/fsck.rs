//! `berth fsck`: compares the index with the store.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{Listening, Source};
use crate::jobs::fsck::{self, Finding, Options};
use crate::server::{self, Binding};

/// Compare the index with the store, and mend what does not match.
///
/// Reports blobs whose object is missing or of the wrong size, and objects that nothing in the
/// index knows. Changes nothing unless told to. Exit code 0: all is well or was mended; 1: something
/// is wrong; 2: the check itself failed. On SQLite, stop `berth serve` first.
#[derive(Debug, Args)]
pub(super) struct Fsck {
    #[command(flatten)]
    source: Source,
    /// Hash every object and compare it with its digest; reads the whole store
    #[arg(long)]
    verify: bool,
    /// Mend: lost blobs are no longer said to be there, so that the next push restores them; objects
    /// that nothing knows are deleted
    #[arg(long)]
    repair: bool,
    /// Make an index of the blobs of a store whose database is lost: hashes the objects nothing
    /// knows. Repositories, tags and manifests are not in the store and must be pushed again within
    /// `gc.min_age`; a push of bytes that are there stores nothing twice
    #[arg(long)]
    rebuild: bool,
}

impl Fsck {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let config = self.source.load(Listening::default())?;
        let binding = if self.rebuild { Binding::Adopt } else { Binding::Check };
        let context = server::open(&config, binding).await?;
        let style = ProgressStyle::with_template("{bar:32} {percent}% of the store, {msg}, {eta} left")?;
        let bar = ProgressBar::new(fsck::STEPS).with_style(style);
        let options = Options { verify: self.verify, repair: self.repair, rebuild: self.rebuild };
        let summary = fsck::check(&context, options, &mut |event| match event {
            fsck::Event::Step { bytes } => {
                bar.inc(1);
                bar.set_message(HumanBytes(bytes).to_string());
            }
            fsck::Event::Found(finding) => bar.suspend(|| println!("{}", line(&finding))),
        })
        .await?;
        bar.finish_and_clear();
        context.db.close().await;
        println!(
            "{} blobs, {} objects ({}): {} problems, {} mended, {} blobs restored to the index",
            summary.blobs,
            summary.objects,
            HumanBytes(summary.bytes),
            summary.problems,
            summary.mended,
            summary.restored
        );
        if summary.problems > summary.mended {
            println!(
                "{}",
                if self.repair { LOST } else { "run `berth fsck --repair` to mend what can be mended" }
            );
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What no repair brings back.
const LOST: &str = "what was not mended is lost: push it again, or put its objects back";

fn line(finding: &Finding) -> String {
    match finding {
        Finding::MissingObject { digest, key } => format!("missing object   {digest} (object {key})"),
        Finding::WrongSize { digest, key, expected, actual } => {
            format!("wrong size       {digest} (object {key} has {actual} bytes, not {expected})")
        }
        Finding::Damaged { digest, key, actual } => {
            format!("damaged object   {digest} (object {key} hashes to {actual})")
        }
        Finding::UnknownObject { key, size_bytes } => format!("unknown object   {key} ({size_bytes} bytes)"),
        Finding::Restored { digest, key } => format!("restored         {digest} (object {key})"),
        Finding::OpenMultipart { key } => format!("open multipart   object {key}"),
        Finding::Found { digest, key } => format!("found again      {digest} (object {key})"),
    }
}
