//! Berth beside other registries: the same load at each of them, in one run.
//!
//! Run by `cargo bench --bench registries`; benches/README.md says how. For each load every server is
//! started with fresh data, and the rounds of measurement go from server to server, so that a machine that
//! becomes slower becomes slower for all of them. Any wrong answer ends the run: an erring server is not a
//! fast one.

mod backing;
mod client;
mod flows;
mod images;
mod loads;
mod machine;
mod measure;
mod payload;
mod process;
mod report;
mod servers;
mod syncs;
mod table;
mod tag_pages;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::backing::{Backing, Bucket, Group};
use crate::loads::{Load, Scene};
use crate::measure::Meter;
use crate::report::{Column, Outcome, Report};
use crate::servers::{Kind, Server};

/// No run takes this much longer than it was meant to, unless a server hangs.
const PATIENCE: Duration = Duration::from_mins(10);
/// The share of a round that the warm-up before it lasts.
const WARM_UP: f64 = 0.25;

/// Measures Berth and other registries under the same load.
#[derive(Parser)]
#[command(name = "registries", bin_name = "cargo bench --bench registries --")]
struct Options {
    /// What the servers keep their blobs in
    #[arg(long, value_enum, default_value = "filesystem")]
    group: Group,
    /// Servers to measure, comma-separated [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Kind>,
    /// Loads to run, comma-separated [default: all of the group]
    #[arg(long, value_enum, value_delimiter = ',')]
    loads: Vec<Load>,
    /// Rounds of each load at each server [default: 5; with --quick 1]
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds that a round lasts [default: 4; with --quick 1]
    #[arg(long)]
    seconds: Option<f64>,
    /// Clients at a time, of loads that do not say otherwise
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Size of the large layer [default: 1 GiB; with --quick 64 MiB]
    #[arg(long)]
    large_bytes: Option<u64>,
    /// Size of the huge layer [default: 8 GiB; with --quick 256 MiB]
    #[arg(long)]
    huge_bytes: Option<u64>,
    /// Tags in the repository whose pages are asked for [default: 10000; with --quick 1000]
    #[arg(long)]
    tags: Option<usize>,
    /// One short round of small things, to see that it works
    #[arg(long)]
    quick: bool,
    /// Counts the servers' sync calls with strace
    #[arg(long)]
    count_syncs: bool,
    /// Folder for the servers' data, which is on the disk that is measured [default: in target/]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// File to write the tables to instead of printing them
    #[arg(long)]
    write: Option<PathBuf>,
    /// What cargo passes to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a run does, defaults filled in.
struct Plan {
    group: Group,
    servers: Vec<Kind>,
    loads: Vec<Load>,
    rounds: u32,
    lasting: Duration,
    concurrency: usize,
    large_bytes: u64,
    huge_bytes: u64,
    tags: usize,
    directory: PathBuf,
}

impl Plan {
    fn new(options: &Options) -> Result<Self> {
        let quick = options.quick;
        let lasting = Duration::try_from_secs_f64(options.seconds.unwrap_or(if quick { 1.0 } else { 4.0 }))?;
        let all_if_none = |chosen: &[Kind]| {
            if chosen.is_empty() { Kind::USUAL.to_vec() } else { chosen.to_vec() }
        };
        let plan = Self {
            group: options.group,
            servers: all_if_none(&options.servers),
            loads: if options.loads.is_empty() {
                options.group.loads().to_vec()
            } else {
                options.loads.clone()
            },
            rounds: options.rounds.unwrap_or(if quick { 1 } else { 5 }),
            lasting,
            concurrency: options.concurrency,
            large_bytes: options.large_bytes.unwrap_or(if quick { 64 << 20 } else { 1 << 30 }),
            huge_bytes: options.huge_bytes.unwrap_or(if quick { 256 << 20 } else { 8 << 30 }),
            tags: options.tags.unwrap_or(if quick { 1000 } else { 10_000 }),
            directory: options
                .directory
                .clone()
                .unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR"))),
        };
        ensure!(plan.rounds > 0 && plan.concurrency > 0, "at least one round and one client");
        Ok(plan)
    }
}

/// The command that makes the same run again, without what names a place on this machine.
fn command() -> String {
    let mut shown = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--directory" => drop(arguments.next()),
            "--bench" => {}
            other if other.starts_with("--directory=") => {}
            _ => shown.push(argument),
        }
    }
    // The folder that cargo built into is the profile's.
    let folder = Path::new(env!("CARGO_BIN_EXE_berth")).parent().and_then(Path::file_name);
    let profile = match folder.and_then(std::ffi::OsStr::to_str) {
        None | Some("release") => String::new(),
        Some(profile) => format!(" --profile {profile}"),
    };
    let separator = if shown.is_empty() { "" } else { " -- " };
    format!("cargo bench --bench registries{profile}{separator}{}", shown.join(" "))
}

fn main() -> Result<()> {
    let options = Options::parse();
    if !options.bench {
        // Nothing is timed in tests, and `cargo test --all-targets` starts this program too.
        eprintln!("nothing measured: run `cargo bench --bench registries`");
        return Ok(());
    }
    let plan = Plan::new(&options)?;
    std::fs::create_dir_all(&plan.directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(measure(&plan, options.count_syncs))?;
    match &options.write {
        Some(file) => std::fs::write(file, report).with_context(|| format!("write {}", file.display()))?,
        None => print!("{report}"),
    }
    Ok(())
}

async fn measure(plan: &Plan, count_syncs: bool) -> Result<String> {
    let busy = machine::load_average()?;
    if busy > 0.5 {
        eprintln!("the machine is busy (load average {busy}): these figures will be noise");
    }
    let versions = plan.servers.iter().map(|kind| kind.version()).collect::<Result<_>>()?;
    let mut syncs = Vec::new();
    if count_syncs {
        for kind in &plan.servers {
            syncs.push(syncs::per_image(*kind, &plan.directory).await?);
        }
    }
    let backing = Backing::start(plan.group, &plan.directory).await?;
    let mut outcomes = Vec::new();
    for load in &plan.loads {
        outcomes.push(Outcome { load: *load, columns: compare(*load, plan, &backing).await? });
    }
    let report = Report {
        plan,
        command: command(),
        date: machine::date()?,
        machine: machine::describe(&plan.directory)?,
        busy,
        versions,
        syncs,
        outcomes,
    };
    Ok(report.render())
}

/// A scene, and the bucket it plays over if it does over one.
type Set = (Scene, Option<Bucket>);

async fn compare(load: Load, plan: &Plan, backing: &Backing) -> Result<Vec<Column>> {
    // A round over a bucket has a new server and a new bucket: the disk holds only one of them.
    let keeps = plan.group == Group::Filesystem;
    let mut sets = Vec::new();
    let mut columns = Vec::new();
    for kind in &plan.servers {
        sets.push(if keeps { Some(prepare(load, *kind, plan, backing).await?) } else { None });
        columns.push(Column { kind: *kind, samples: Vec::new(), remark: None });
    }
    let rounds = load.rounds(plan);
    for round in 0..rounds as usize {
        for place in 0..sets.len() {
            // Everyone is once the first and once the last.
            let index = (place + round) % sets.len();
            let column = &mut columns[index];
            let (mut scene, bucket) = match sets[index].take() {
                Some(set) => set,
                None => prepare(load, column.kind, plan, backing).await?,
            };
            let sample = one_round(&mut scene).await;
            let sample = sample.with_context(|| {
                format!("{}: {} ({})", column.kind.name(), load.title(), scene.server.last_words())
            })?;
            eprintln!(
                "{}: round {} of {rounds}: {:.1} a second at {}",
                load.title(),
                round + 1,
                sample.units_per_second,
                column.kind.name()
            );
            column.samples.push(sample);
            column.remark = scene.remark();
            if keeps {
                sets[index] = Some((scene, bucket));
            } else {
                drop(scene);
                backing.remove(bucket).await;
            }
        }
    }
    Ok(columns)
}

async fn prepare(load: Load, kind: Kind, plan: &Plan, backing: &Backing) -> Result<Set> {
    eprintln!("{}: preparing {}", load.title(), kind.name());
    let what = || format!("{}: {}", kind.name(), load.title());
    let bucket = backing.bucket().await;
    let server = Server::start(kind, &plan.directory, bucket.as_ref()).await.with_context(what)?;
    let prepared = tokio::time::timeout(PATIENCE, Scene::prepare(load, server, plan)).await;
    Ok((prepared?.with_context(what)?, bucket))
}

async fn one_round(scene: &mut Scene) -> Result<measure::Sample> {
    scene.stock(WARM_UP);
    tokio::time::timeout(PATIENCE, scene.run(WARM_UP)).await??;
    scene.stock(1.0);
    scene.server.settle()?;
    let meter = Meter::start(&scene.server)?;
    let tally = tokio::time::timeout(PATIENCE, scene.run(1.0)).await??;
    let sample = meter.stop(&tally)?;
    tokio::time::timeout(PATIENCE, scene.check()).await??;
    Ok(sample)
}
