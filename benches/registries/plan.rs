//! What a run does, from its flags.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use crate::backing::Group;
use crate::loads::Load;
use crate::servers::Kind;

/// Measures Berth and other registries under the same load.
#[derive(Parser)]
#[command(name = "registries", bin_name = "cargo bench --bench registries --")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct Options {
    /// What the servers keep their data in, or what else is compared
    #[arg(long, value_enum, default_value = "filesystem")]
    pub group: Group,
    /// Servers to measure, comma-separated [default: all that are installed]
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Kind>,
    /// Loads to run, comma-separated [default: all of the group]
    #[arg(long, value_enum, value_delimiter = ',')]
    loads: Vec<Load>,
    /// Rounds of each load at each server [default: 3; with --quick 1]
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds that a round lasts [default: 3; with --quick 0.2]
    #[arg(long)]
    seconds: Option<f64>,
    /// Clients at a time, of loads that do not say otherwise
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Size of the large layer [default: 1 GiB; with --quick 16 MiB]
    #[arg(long)]
    large_bytes: Option<u64>,
    /// Size of the huge layer [default: 8 GiB; with --quick 64 MiB]
    #[arg(long)]
    huge_bytes: Option<u64>,
    /// One short round of small things, to see that it works
    #[arg(long)]
    pub quick: bool,
    /// Counts the servers' sync calls with strace
    #[arg(long)]
    pub count_syncs: bool,
    /// Folder for the servers' data, which is on the disk that is measured [default: in target/]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// File to write the tables to instead of printing them; pictures and ratios are put beside it
    #[arg(long)]
    pub write: Option<PathBuf>,
    /// Folder for flame graphs of Berth in each load: needs perf, and makes it slower
    #[arg(long)]
    flame: Option<PathBuf>,
    /// Does not look whether the other servers are installed
    #[arg(long)]
    pub no_install: bool,
    /// What cargo passes to a benchmark
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// What a load or a server is called on the command line.
pub fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What a run does, defaults filled in.
#[derive(Clone)]
pub struct Plan {
    pub group: Group,
    pub servers: Vec<Kind>,
    pub loads: Vec<Load>,
    pub rounds: u32,
    pub lasting: Duration,
    pub concurrency: usize,
    pub large_bytes: u64,
    pub huge_bytes: u64,
    /// Images, and half as many blobs, that are there before a run.
    pub prepared: usize,
    pub tags: usize,
    pub many_tags: usize,
    pub repositories: usize,
    pub referrers: usize,
    /// Manifests of the registry that is started.
    pub manifests: usize,
    /// Images among which manifests are asked for, where they are not the prepared ones.
    pub images: Option<usize>,
    pub half_open: usize,
    pub nodes: usize,
    pub directory: PathBuf,
    pub flame: Option<PathBuf>,
    pub quick: bool,
}

impl Plan {
    /// Fills in defaults.
    pub fn new(options: &Options) -> Result<Self> {
        let quick = options.quick;
        let lasting = Duration::try_from_secs_f64(options.seconds.unwrap_or(if quick { 0.2 } else { 3.0 }))?;
        let or = |value: usize, quickly: usize| if quick { quickly } else { value };
        let plan = Self {
            group: options.group,
            servers: if options.servers.is_empty() {
                Kind::usual(options.group)
            } else {
                options.servers.clone()
            },
            loads: if options.loads.is_empty() { Load::usual(options.group) } else { options.loads.clone() },
            rounds: options.rounds.unwrap_or(if quick { 1 } else { 3 }),
            lasting,
            concurrency: options.concurrency,
            large_bytes: options.large_bytes.unwrap_or(if quick { 16 << 20 } else { 1 << 30 }),
            huge_bytes: options.huge_bytes.unwrap_or(if quick { 64 << 20 } else { 8 << 30 }),
            prepared: or(128, 16),
            tags: or(10_000, 1000),
            many_tags: or(1_000_000, 100_000),
            repositories: or(100_000, 2000),
            referrers: or(10_000, 1000),
            manifests: or(1_000_000, 20_000),
            images: None,
            half_open: or(1000, 100),
            nodes: or(1000, 100),
            directory: options
                .directory
                .clone()
                .unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR"))),
            flame: options.flame.clone(),
            quick,
        };
        ensure!(plan.rounds > 0 && plan.concurrency > 0, "at least one round and one client");
        Ok(plan)
    }
}
