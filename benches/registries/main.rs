//! Berth beside other registries: the same load at each of them, in one run.
//!
//! Run by `cargo bench --bench registries`; benches/README.md says how. For each load every server is
//! started with fresh data, and the rounds of measurement go from server to server, so that a machine that
//! becomes slower becomes slower for all of them. Any wrong answer ends the run: an erring server is not a
//! fast one.

mod backing;
mod client;
mod flame;
mod flows;
mod growth;
mod idle;
mod images;
mod limits;
mod loads;
mod machine;
mod measure;
mod payload;
mod pictures;
mod plan;
mod postgres;
mod process;
mod ratios;
mod report;
mod run;
mod servers;
mod share;
mod syncs;
mod table;

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser as _;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::backing::Group;
use crate::plan::{Options, Plan};

/// More than a thousand clients and what else is open.
const OPEN_FILES: u64 = 16_384;

/// The command that makes the same run again, without what names a place on this machine.
fn command() -> String {
    let mut shown = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--directory" | "--flame" => drop(arguments.next()),
            "--bench" | "--no-install" => {}
            other if other.starts_with("--directory=") || other.starts_with("--flame=") => {}
            _ => shown.push(argument),
        }
    }
    // The folder that cargo built into is the profile's.
    let folder = Path::new(env!("CARGO_BIN_EXE_berth")).parent().and_then(Path::file_name);
    let profile = match folder.and_then(std::ffi::OsStr::to_str) {
        None | Some("release") => String::new(),
        Some("debug") => " --profile dev".to_owned(),
        Some(profile) => format!(" --profile {profile}"),
    };
    let program = std::env::var("BERTH").map(|program| format!("BERTH={program} ")).unwrap_or_default();
    let separator = if shown.is_empty() { "" } else { " -- " };
    format!("{program}cargo bench --bench registries{profile}{separator}{}", shown.join(" "))
}

/// Asks ext4 to put what is in the folders of a folder far apart, each as if it were at the top. Without a journal
/// it makes no file where one has just been deleted, and searches past all of these: a server that removes many
/// would slow down those beside it.
fn keep_apart(folder: &Path) -> Result<()> {
    let folder = File::open(folder)?;
    if let Ok(flags) = ioctl_getflags(&folder) {
        // Another file system has its own ways.
        let _ = ioctl_setflags(&folder, flags | IFlags::TOPDIR);
    }
    Ok(())
}

fn main() -> Result<()> {
    let options = Options::parse();
    if !options.bench {
        // Nothing is timed in tests, and `cargo test --all-targets` starts this program too.
        eprintln!("nothing measured: run `cargo bench --bench registries`");
        return Ok(());
    }
    if !options.no_install {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install-bench-tools");
        let status = Command::new(&script).status().with_context(|| format!("run {}", script.display()))?;
        ensure!(status.success(), "{}: {status}; --no-install does without it", script.display());
    }
    rlimit::increase_nofile_limit(OPEN_FILES)?;
    let plan = Plan::new(&options)?;
    std::fs::create_dir_all(&plan.directory)?;
    keep_apart(&plan.directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if plan.group == Group::Growth {
        let report = runtime.block_on(growth::run(&plan, &command()))?;
        return report.write(options.write.as_deref());
    }
    let (report, servers) = runtime.block_on(run::run(&plan, command(), options.count_syncs))?;
    match &options.write {
        Some(file) => report.write(file)?,
        None => print!("{}", report.render(None)),
    }
    eprintln!("removing what the servers wrote");
    drop(servers);
    Ok(())
}
