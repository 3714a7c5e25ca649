//! The Markdown that a run ends in.

use std::fmt::Write as _;

use crate::Plan;
use crate::backing::Group;
use crate::loads::{Load, Unit};
use crate::measure::Sample;
use crate::servers::Kind;
use crate::table::{Row, Spread, Table, figure};

/// What one server did under one load, round by round.
pub struct Column {
    pub kind: Kind,
    pub samples: Vec<Sample>,
    pub remark: Option<String>,
}

/// One load at every server, in the order of [`Plan::servers`].
pub struct Outcome {
    pub load: Load,
    pub columns: Vec<Column>,
}

/// Everything a report says.
pub struct Report<'a> {
    pub plan: &'a Plan,
    pub command: String,
    pub date: String,
    pub machine: String,
    /// The load average before the first run.
    pub busy: f64,
    pub versions: Vec<String>,
    /// Sync calls a small image, a server; empty if they were not counted.
    pub syncs: Vec<f64>,
    pub outcomes: Vec<Outcome>,
}

type Metric = fn(&Sample) -> Option<f64>;

impl Report<'_> {
    /// Writes the report as Markdown.
    pub fn render(&self) -> String {
        let mut text = String::from(match self.plan.group {
            Group::Filesystem => "# Berth beside other registries\n\n",
            Group::Storage => "# Berth beside other registries, over object storage\n\n",
        });
        self.preamble(&mut text);
        self.table(&mut text, SPEED, |load| {
            let unit = match load.unit() {
                Unit::Images => "images/s",
                Unit::Mebibytes => "MiB/s",
                Unit::Requests => "requests/s",
            };
            (unit, 1.0, |sample| Some(sample.units_per_second))
        });
        self.table(&mut text, COMMIT, |_| ("ms", 1e3, |sample| Some(sample.commit?.as_secs_f64())));
        self.table(&mut text, SERVER_TIME, |load| {
            let (unit, factor) = match load.unit() {
                Unit::Images => ("ms an image", 1e3),
                Unit::Mebibytes => ("s a GiB", 1024.0),
                Unit::Requests => ("µs a request", 1e6),
            };
            (unit, factor, |sample| Some(sample.server_cpu_seconds_per_unit))
        });
        self.table(&mut text, MEMORY, |_| {
            ("MiB", 1.0 / f64::from(1 << 20), |sample| Some(bytes(sample.server_peak_bytes)))
        });
        self.table(&mut text, CLIENT_TIME, |_| ("cores", 1.0, |sample| Some(sample.client_share)));
        self.notes(&mut text);
        text
    }

    fn preamble(&self, text: &mut String) {
        let plan = self.plan;
        let huge = match plan.group {
            Group::Filesystem => String::new(),
            Group::Storage => format!(", a huge one {} MiB and one round", plan.huge_bytes >> 20),
        };
        let _ = write!(
            text,
            "Made by `{}` on {}, on one machine of {}; its load average before was {}.\n\n\
             Figures are **median** (least–most) of the rounds, {} in number. In a round each server in turn is \
             under load for {}, after a quarter of that as warm-up. {} concurrent clients where nothing else is \
             said; a large layer has {} MiB{}.\n\n",
            self.command,
            self.date,
            self.machine,
            self.busy,
            plan.rounds,
            seconds(plan.lasting.as_secs_f64()),
            plan.concurrency,
            plan.large_bytes >> 20,
            huge,
        );
        for (kind, version) in plan.servers.iter().zip(&self.versions) {
            let _ = writeln!(text, "- **{}** {version}: {}.", kind.name(), kind.settings(plan.group));
        }
        text.push('\n');
    }

    fn table(&self, text: &mut String, table: Table, metric: impl Fn(Load) -> (&'static str, f64, Metric)) {
        let rows = self.outcomes.iter().filter_map(|outcome| {
            let (unit, factor, metric) = metric(outcome.load);
            let spread = |column: &Column| {
                Spread::of(column.samples.iter().filter_map(metric).map(|figure| figure * factor))
            };
            let figures = outcome.columns.iter().map(spread).collect::<Option<_>>()?;
            Some(Row { label: outcome.load.title(), unit, figures })
        });
        table.render(text, &self.plan.servers, &rows.collect::<Vec<_>>());
    }

    fn notes(&self, text: &mut String) {
        text.push_str("## Notes\n\n");
        text.push_str(match self.plan.group {
            Group::Filesystem => NOTES,
            Group::Storage => STORAGE_NOTES,
        });
        if !self.syncs.is_empty() {
            let counts = self.plan.servers.iter().zip(&self.syncs);
            let counts: Vec<_> = counts.map(|(kind, calls)| format!("{} {calls:.1}", kind.name())).collect();
            let _ = writeln!(
                text,
                "- **Sync calls** (fsync and its kin) a small image, one pushed after the other as docker \
                 does, counted by strace in this run: {}.",
                counts.join(", ")
            );
        }
        for outcome in &self.outcomes {
            for column in &outcome.columns {
                if let Some(remark) = &column.remark {
                    let _ = writeln!(text, "- **{}**, {remark}.", column.kind.name());
                }
            }
        }
    }
}

const SPEED: Table = Table { title: "Speed", introduction: "More is better.", compares: true };
const COMMIT: Table = Table {
    title: "Commit of a large layer",
    introduction: "Between the last byte of the PATCH and the 201 of the PUT. Less is better.",
    compares: true,
};
const SERVER_TIME: Table =
    Table { title: "Processor time of the server", introduction: "Less is better.", compares: true };
const MEMORY: Table = Table {
    title: "Peak memory of the server",
    introduction: "Resident, in the run itself. Less is better.",
    compares: true,
};
const CLIENT_TIME: Table = Table {
    title: "Processor time of the load generator",
    introduction: "It is one thread on the same cores: near 1, it is the limit and not the server.",
    compares: false,
};

const NOTES: &str = include_str!("notes.md");
const STORAGE_NOTES: &str = include_str!("storage_notes.md");

fn bytes(value: u64) -> f64 {
    // Whole KiB, as the kernel counts them.
    f64::from(u32::try_from(value / 1024).unwrap_or(u32::MAX)) * 1024.0
}

fn seconds(value: f64) -> String {
    format!("{} s", figure(value).trim_end_matches('0').trim_end_matches('.'))
}
