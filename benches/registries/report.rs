//! What a run ends in: Markdown, with its pictures and ratios beside it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Plan;
use crate::backing::Group;
use crate::limits::Limits;
use crate::loads::{Load, Unit};
use crate::measure::Sample;
use crate::pictures;
use crate::ratios::{self, Ratios};
use crate::servers::Kind;
use crate::table::{Row, Spread, Table, figure, ratio};

/// What one server did under one load, round by round.
pub struct Column {
    pub kind: Kind,
    pub samples: Vec<Sample>,
    pub remark: Option<String>,
    /// Whether it does not play this load.
    pub is_absent: bool,
}

/// One load at every server, in the order of [`Plan::servers`], then at what is its limit.
pub struct Outcome {
    pub load: Load,
    pub columns: Vec<Column>,
}

/// Everything a report says.
pub struct Report {
    pub plan: Plan,
    pub command: String,
    pub date: String,
    pub machine: String,
    /// The load average before the first run.
    pub busy: f64,
    pub versions: Vec<String>,
    /// Sync calls a small image, a server; empty if they were not counted.
    pub syncs: Vec<f64>,
    /// Resident memory of a server that nobody asks.
    pub idle: Vec<u64>,
    pub limits: Option<Limits>,
    pub outcomes: Vec<Outcome>,
    /// What is to be said of what is behind the servers.
    pub backing: Option<String>,
}

/// Rounds so long show whether memory grows.
const LONG: Duration = Duration::from_secs(30);

/// A figure of a round.
type Metric = fn(&Sample) -> Option<f64>;
/// What a load's figure is called, and is multiplied by.
type Scale = (&'static str, f64);

impl Column {
    /// Before its first round.
    pub fn new(kind: Kind) -> Self {
        Self { kind, samples: Vec::new(), remark: None, is_absent: false }
    }
}

impl Outcome {
    /// A figure of one server.
    pub fn spread(&self, kind: Kind, metric: Metric, factor: f64) -> Option<Spread> {
        let column = self.columns.iter().find(|column| column.kind == kind)?;
        Spread::of(column.samples.iter().filter_map(metric).map(|figure| figure * factor))
    }

    /// Its rate at one server.
    pub fn rate(&self, kind: Kind) -> Option<Spread> {
        self.spread(kind, RATE, 1.0)
    }
}

const RATE: Metric = |sample| Some(sample.units_per_second);
const CPU_SECONDS: Metric = |sample| Some(sample.server_cpu_seconds_per_unit);
const MEDIAN_SECONDS: Metric = |sample| Some(sample.latency?.median.as_secs_f64());
const MOST_SECONDS: Metric = |sample| Some(sample.latency?.most.as_secs_f64());
const PEAK: Metric = |sample| Some(mebibytes(sample.server_peak_bytes));

fn rate_scale(load: Load) -> Scale {
    match load.unit() {
        Unit::Images => ("images/s", 1.0),
        Unit::Mebibytes => ("MiB/s", 1.0),
        Unit::Requests => ("requests/s", 1.0),
        Unit::Starts => ("starts/s", 1.0),
    }
}

fn cpu_scale(load: Load) -> Scale {
    match load.unit() {
        Unit::Images => ("ms an image", 1e3),
        Unit::Mebibytes => ("s a GiB", 1024.0),
        Unit::Requests => ("µs a request", 1e6),
        Unit::Starts => ("ms a start", 1e3),
    }
}

impl Report {
    /// Writes the report to a file, and its pictures and ratios into the folder of the same name.
    pub fn write(&self, file: &Path) -> Result<()> {
        let folder = file.with_extension("");
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let stored = folder.join(ratios::FILE);
        let now = Ratios::of(&self.outcomes);
        let before = Ratios::read(&stored)?;
        let fallen = before.as_ref().map(|before| now.fallen(before));
        for line in fallen.iter().flatten() {
            eprintln!("slower than before: {line}");
        }
        let pictures = pictures::draw(self, &folder)?;
        let place = folder.file_name().and_then(|name| name.to_str()).context("a file without a name")?;
        let mut text = self.render(Some((place, &pictures)));
        if let Some(fallen) = fallen {
            text.push_str(&ratios::note(&fallen));
        }
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        now.over(before).write(&stored)
    }

    /// Writes the report as Markdown, with the pictures of a folder.
    pub fn render(&self, pictures: Option<(&str, &[pictures::Drawn])>) -> String {
        let mut text = format!("# {}\n\n", self.title());
        self.preamble(&mut text);
        for (place, drawn) in pictures.iter().flat_map(|(place, all)| all.iter().map(move |one| (place, one)))
        {
            let _ = writeln!(text, "![{}]({place}/{})\n", drawn.title, drawn.file);
        }
        self.table(&mut text, SPEED, rate_scale, RATE);
        self.limits(&mut text);
        self.pairs(&mut text);
        self.table(&mut text, MEDIAN, |_| ("ms", 1e3), MEDIAN_SECONDS);
        self.table(&mut text, MOST, |_| ("ms", 1e3), MOST_SECONDS);
        self.table(&mut text, COMMIT, |_| ("ms", 1e3), |sample| Some(sample.commit?.as_secs_f64()));
        self.table(&mut text, SERVER_TIME, cpu_scale, CPU_SECONDS);
        let mut memory = self.rows(|_| ("MiB", 1.0), PEAK);
        let idle = self.idle.iter().map(|bytes| Spread::of(std::iter::once(mebibytes(*bytes))));
        memory.insert(0, Row { label: "none: idle".to_owned(), unit: "MiB", figures: idle.collect() });
        MEMORY.render(&mut text, &self.plan.servers, &memory);
        self.over_time(&mut text);
        self.table(&mut text, CLIENT_TIME, |_| ("cores", 1.0), |sample| Some(sample.client_share));
        self.notes(&mut text);
        text
    }

    fn title(&self) -> &'static str {
        match self.plan.group {
            Group::Filesystem | Group::Growth => "Berth beside other registries",
            Group::Storage => "Berth beside other registries, over object storage",
            Group::Postgres => "Berth with SQLite and with PostgreSQL",
            Group::Replicas => "More replicas of Berth",
            Group::PostgresStorage => "Berth with SQLite and with PostgreSQL, over object storage",
        }
    }

    fn preamble(&self, text: &mut String) {
        let plan = &self.plan;
        let huge = match plan.group {
            Group::Storage => format!(", a huge one {} MiB and one round", plan.huge_bytes >> 20),
            _ => String::new(),
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

    /// The figures of all loads that have any.
    pub fn rows(&self, scale: impl Fn(Load) -> Scale, metric: Metric) -> Vec<Row> {
        let rows = self.outcomes.iter().map(|outcome| {
            let (unit, factor) = scale(outcome.load);
            let figures = self.plan.servers.iter().map(|kind| outcome.spread(*kind, metric, factor));
            Row { label: outcome.load.title().to_owned(), unit, figures: figures.collect() }
        });
        rows.filter(|row| row.figures.iter().any(Option::is_some)).collect()
    }

    fn table(&self, text: &mut String, table: Table, scale: impl Fn(Load) -> Scale, metric: Metric) {
        table.render(text, &self.plan.servers, &self.rows(scale, metric));
    }

    /// The rows of a picture: rates, those of bytes or the others.
    pub fn rate_rows(&self, of_bytes: bool) -> Vec<Row> {
        let mut rows = self.rows(rate_scale, RATE);
        rows.retain(|row| (row.unit == "MiB/s") == of_bytes);
        rows
    }

    /// The rows of a picture: processor time, of bytes or of the others.
    pub fn cpu_rows(&self, of_bytes: bool) -> Vec<Row> {
        let micros = |load: Load| match load.unit() {
            Unit::Mebibytes => cpu_scale(load),
            _ => ("µs", 1e6),
        };
        let mut rows = self.rows(micros, CPU_SECONDS);
        rows.retain(|row| (row.unit == "s a GiB") == of_bytes);
        rows
    }

    /// The rows of a picture: 99 of a hundred take no longer.
    pub fn latency_rows(&self) -> Vec<Row> {
        self.rows(|_| ("ms", 1e3), MOST_SECONDS)
    }

    /// The rows of a picture: peak memory.
    pub fn memory_rows(&self) -> Vec<Row> {
        self.rows(|_| ("MiB", 1.0), PEAK)
    }

    /// What a load cannot be faster than: its name and figure.
    pub fn limit_of(&self, load: Load) -> Option<(String, f64)> {
        let outcome = self.outcomes.iter().find(|outcome| outcome.load == load)?;
        if let Some(nginx) = outcome.rate(Kind::Nginx) {
            return Some((Kind::Nginx.name().to_owned(), nginx.median()));
        }
        let limits = self.limits.as_ref().filter(|_| load.unit() == Unit::Mebibytes)?;
        Some(("SHA-256 or disk".to_owned(), limits.push()))
    }

    fn limits(&self, text: &mut String) {
        let mut rows = String::new();
        for outcome in &self.outcomes {
            let load = outcome.load;
            let (Some(berth), Some((name, limit))) = (outcome.rate(Kind::Berth), self.limit_of(load)) else {
                continue;
            };
            let _ = writeln!(
                rows,
                "| {} | MiB/s | {} | {name} | {} | {} |",
                load.title(),
                berth.render(),
                figure(limit),
                figure(berth.median() / limit)
            );
            let (unit, factor) = cpu_scale(load);
            let [berth, nginx] =
                [Kind::Berth, Kind::Nginx].map(|kind| outcome.spread(kind, CPU_SECONDS, factor));
            if let (Some(berth), Some(nginx)) = (berth, nginx) {
                let ratio = ratio(Some(berth), Some(nginx)).map_or_else(|| "–".to_owned(), figure);
                let (berth, nginx) = (berth.render(), nginx.render());
                let _ = writeln!(
                    rows,
                    "| {}, processor | {unit} | {berth} | nginx | {nginx} | {ratio} |",
                    load.title()
                );
            }
        }
        if rows.is_empty() {
            return;
        }
        text.push_str(
            "## Limits\n\nWhat the same machine does without a registry: nginx with `sendfile on` for a pull; \
             for a push the slower of SHA-256 on one core and of a synced file.",
        );
        if let Some(limits) = &self.limits {
            let hashed = limits.sha256.map_or_else(|| "not measured".to_owned(), Spread::render);
            let _ = write!(
                text,
                " `openssl speed -evp sha256 -bytes 16384`: {hashed} MiB/s; `dd conv=fsync` of as much as a \
                 large layer: {} MiB/s.",
                limits.disk.render()
            );
        }
        let _ = write!(
            text,
            "\n\n| load | unit | Berth | limit | figure | Berth / limit |\n|---|---|---:|---|---:|---:|\n{rows}\n"
        );
    }

    fn pairs(&self, text: &mut String) {
        let mut rows = String::new();
        for outcome in &self.outcomes {
            let Some(with) = outcome.load.compared_with() else { continue };
            let other = self.outcomes.iter().find(|outcome| outcome.load == with);
            let (Some(one), Some(other)) =
                (outcome.rate(Kind::Berth), other.and_then(|other| other.rate(Kind::Berth)))
            else {
                continue;
            };
            let _ = writeln!(
                rows,
                "| {} | {} | {} | {} | {} |",
                outcome.load.title(),
                one.render(),
                with.title(),
                other.render(),
                figure(one.median() / other.median())
            );
        }
        if !rows.is_empty() {
            let _ = write!(
                text,
                "## One thing more\n\nBerth with itself, a second: what one thing more takes away.\n\n\
                 | load | rate | beside | rate | ratio |\n|---|---:|---|---:|---:|\n{rows}\n"
            );
        }
    }

    /// Whether memory grows while a load lasts, where it lasts long enough to see it.
    fn over_time(&self, text: &mut String) {
        if self.plan.lasting < LONG {
            return;
        }
        text.push_str("## Peak memory, round by round\n\nMiB, in the order of time.\n\n");
        for outcome in &self.outcomes {
            for column in outcome.columns.iter().filter(|column| !column.samples.is_empty()) {
                let peaks = column.samples.iter().filter_map(PEAK).map(figure).collect::<Vec<_>>();
                let _ = writeln!(
                    text,
                    "- {}, {}: {}",
                    outcome.load.title(),
                    column.kind.name(),
                    peaks.join(", ")
                );
            }
        }
        text.push('\n');
    }

    fn notes(&self, text: &mut String) {
        text.push_str("## Notes\n\n");
        text.push_str(match self.plan.group {
            Group::Storage => STORAGE_NOTES,
            Group::Postgres | Group::PostgresStorage => POSTGRES_NOTES,
            Group::Replicas => REPLICAS_NOTES,
            Group::Filesystem | Group::Growth => NOTES,
        });
        if let Some(said) = &self.backing {
            let _ = writeln!(text, "- {said}.");
        }
        let missing: Vec<_> = Kind::OPTIONAL
            .into_iter()
            .filter(|kind| !self.plan.servers.contains(kind))
            .map(Kind::name)
            .collect();
        if self.plan.group == Group::Filesystem && !missing.is_empty() {
            let _ = writeln!(
                text,
                "- **Not measured**, because no such program is on PATH: {}.",
                missing.join(", ")
            );
        }
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
        for column in self.outcomes.iter().flat_map(|outcome| &outcome.columns) {
            if let Some(remark) = &column.remark {
                let _ = writeln!(text, "- **{}**, {remark}.", column.kind.name());
            }
        }
    }
}

const SPEED: Table = Table {
    title: "Speed",
    introduction: "More is better. – is a load that is not for this server: see the notes.",
    compares: true,
};
const MEDIAN: Table = Table {
    title: "Time of one operation, median",
    introduction: "As its client saw it, among as many clients as the load has. Less is better.",
    compares: true,
};
const MOST: Table = Table {
    title: "Time of one operation, p99",
    introduction: "Of a hundred, 99 took no longer. Less is better.",
    compares: true,
};
const COMMIT: Table = Table {
    title: "Commit of a large layer",
    introduction: "Between the last byte of the layer and the last 201. Less is better.",
    compares: true,
};
const SERVER_TIME: Table =
    Table { title: "Processor time of the server", introduction: "Less is better.", compares: true };
const MEMORY: Table = Table {
    title: "Memory of the server",
    introduction: "Resident: after its start, then the peak in the run itself. Less is better.",
    compares: true,
};
const CLIENT_TIME: Table = Table {
    title: "Processor time of the load generator",
    introduction: "It is one thread on the same cores: near 1, it is the limit and not the server.",
    compares: false,
};

const NOTES: &str = include_str!("notes.md");
const STORAGE_NOTES: &str = include_str!("storage_notes.md");
const POSTGRES_NOTES: &str = include_str!("postgres_notes.md");
const REPLICAS_NOTES: &str = include_str!("replicas_notes.md");

/// Bytes in MiB.
pub fn mebibytes(value: u64) -> f64 {
    // Whole KiB, as the kernel counts them.
    f64::from(u32::try_from(value / 1024).unwrap_or(u32::MAX)) / 1024.0
}

fn seconds(value: f64) -> String {
    let text = figure(value);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} s")
}
