//! How what Berth does grows with what it holds: each load at three sizes, ten times apart, and the exponent.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::backing::Backing;
use crate::loads::{Load, Scene};
use crate::machine;
use crate::measure::count;
use crate::pictures;
use crate::plan::Plan;
use crate::run;
use crate::servers::Kind;
use crate::table::{Spread, figure};

const MEBIBYTE: u64 = 1 << 20;
const SIZES: usize = 3;
const PICTURE: &str = "growth.svg";

/// A load that is given more and more.
struct Series {
    load: Load,
    /// What there is more and more of.
    what: &'static str,
    smallest: u64,
    /// Whether a client that asks is given all of it.
    asks_for_all: bool,
    set: fn(&mut Plan, u64),
}

const SERIES: [Series; 9] = [
    Series {
        load: Load::ManifestGetTag,
        what: "images",
        smallest: 10_000,
        asks_for_all: false,
        set: |plan, size| plan.images = Some(items(size)),
    },
    Series {
        load: Load::PushSmall1,
        what: "images",
        smallest: 10_000,
        asks_for_all: false,
        set: |plan, size| plan.images = Some(items(size)),
    },
    Series {
        load: Load::TagPages,
        what: "tags",
        smallest: 10_000,
        asks_for_all: false,
        set: |plan, size| plan.tags = items(size),
    },
    Series {
        load: Load::Catalog,
        what: "repositories",
        smallest: 1000,
        asks_for_all: false,
        set: |plan, size| plan.repositories = items(size),
    },
    Series {
        load: Load::ReferrersAll,
        what: "referrers",
        smallest: 100,
        asks_for_all: true,
        set: |plan, size| plan.referrers = items(size),
    },
    Series {
        load: Load::PushLarge,
        what: "MiB",
        smallest: 16,
        asks_for_all: true,
        set: |plan, size| plan.large_bytes = size * MEBIBYTE,
    },
    Series {
        load: Load::PushLargePut,
        what: "MiB",
        smallest: 16,
        asks_for_all: true,
        set: |plan, size| plan.large_bytes = size * MEBIBYTE,
    },
    Series {
        load: Load::PullLarge1,
        what: "MiB",
        smallest: 16,
        asks_for_all: true,
        set: |plan, size| plan.large_bytes = size * MEBIBYTE,
    },
    Series {
        load: Load::StartMillion,
        what: "manifests",
        smallest: 10_000,
        asks_for_all: false,
        set: |plan, size| plan.manifests = items(size),
    },
];

fn items(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// What a series came to.
struct Grown {
    series: &'static Series,
    sizes: [u64; SIZES],
    /// Seconds an operation, at each size.
    times: Vec<Spread>,
}

/// The Markdown of a run, and its picture.
pub struct Report {
    text: String,
    picture: String,
}

/// Measures all series whose load is in the plan.
pub async fn run(plan: &Plan, command: &str) -> Result<Report> {
    let busy = machine::load_average()?;
    let backing = Backing::start(plan.group, &[Kind::Berth], &plan.directory).await?;
    let mut all = Vec::new();
    for series in SERIES.iter().filter(|series| plan.loads.contains(&series.load)) {
        all.push(measure(series, plan, &backing).await?);
    }
    let lines: Vec<_> = all.iter().map(Grown::line).collect();
    let picture = pictures::lines("Milliseconds an operation, as what there is grows", &lines)?;
    Ok(Report { text: render(&all, plan, command, busy)?, picture })
}

async fn measure(series: &'static Series, plan: &Plan, backing: &Backing) -> Result<Grown> {
    let smallest = match series.smallest {
        // Still more than a few pages of what is listed.
        smallest if plan.quick && !series.asks_for_all => (smallest / 20).max(400),
        smallest if plan.quick => smallest.div_ceil(20),
        smallest => smallest,
    };
    let sizes = [smallest, smallest * 10, smallest * 100];
    let mut scenes: Vec<Scene> = Vec::new();
    for size in sizes {
        // One client: what is looked for is how long one operation takes.
        let mut plan = Plan { concurrency: 1, ..plan.clone() };
        (series.set)(&mut plan, size);
        scenes.push(run::prepare(series.load, Kind::Berth, &plan, backing).await?);
    }
    let mut times = vec![Vec::new(); SIZES];
    for round in 0..plan.rounds as usize {
        for place in 0..SIZES {
            let index = (place + round) % SIZES;
            let sample = run::one_round(&mut scenes[index], plan).await?;
            let took = sample.latency.context("a round without an operation")?.median.as_secs_f64();
            eprintln!("{}: {} {}: {took:.6} s", series.load.title(), sizes[index], series.what);
            times[index].push(took);
        }
    }
    let times = times.into_iter().map(|times| Spread::of(times.into_iter()).context("no rounds"));
    Ok(Grown { series, sizes, times: times.collect::<Result<_>>()? })
}

impl Grown {
    /// Its name and milliseconds, for the picture.
    fn line(&self) -> (String, Vec<f64>) {
        let label = format!("{} ({:.2})", self.series.load.title(), self.exponent());
        (label, self.times.iter().map(|time| time.median() * 1e3).collect())
    }

    /// The slope of time over size, both as logarithms: 0 does not grow, 1 grows as its size does.
    fn exponent(&self) -> f64 {
        let points: Vec<_> = self
            .sizes
            .iter()
            .zip(&self.times)
            .map(|(size, time)| (count(*size).log10(), time.median().max(1e-9).log10()))
            .collect();
        let middle = |values: &[f64]| values.iter().sum::<f64>() / count(values.len() as u64);
        let (sizes, times): (Vec<_>, Vec<_>) = points.into_iter().unzip();
        let (size, time) = (middle(&sizes), middle(&times));
        let together = sizes.iter().zip(&times).map(|(one, other)| (one - size) * (other - time));
        together.sum::<f64>() / sizes.iter().map(|one| (one - size).powi(2)).sum::<f64>()
    }
}

fn render(all: &[Grown], plan: &Plan, command: &str, busy: f64) -> Result<String> {
    let mut text = format!(
        "# How Berth grows\n\nMade by `{command}` on {}, on one machine of {}; its load average before was {busy}.\n\n\
         Each load by one client at three sizes, in turn, {} rounds of {} s; figures are the median operation, in \
         ms, of the median round (least–most). The **exponent** is the slope of time over size, both as \
         logarithms: 0 does not grow, 1 grows as the size does. Where the client asks for all of it, what counts is \
         time for each part of what was asked: that exponent is one less, and above 0 means worse than linear.\n\n\
         | load | what grows | small | ten times | a hundred times | exponent | exponent for what was asked |\n\
         |---|---|---:|---:|---:|---:|---:|\n",
        machine::date()?,
        machine::describe(&plan.directory)?,
        plan.rounds,
        figure(plan.lasting.as_secs_f64()),
    );
    for grown in all {
        let series = grown.series;
        let [small, _, large] = grown.sizes;
        let range = format!("{} to {} {}", figure(count(small)), figure(count(large)), series.what);
        let _ = write!(text, "| {} | {range} |", series.load.title());
        for spread in &grown.times {
            let _ = write!(text, " {} |", spread.times(1e3).render());
        }
        let exponent = grown.exponent();
        let asked = if series.asks_for_all { exponent - 1.0 } else { exponent };
        let _ = writeln!(text, " {exponent:.2} | {asked:.2} |");
    }
    text.push_str(
        "\nImages, tags, repositories, referrers and manifests are written into the SQLite file of a Berth that is \
         stopped; layers are pushed. A page has 100 names from the middle; of referrers all pages are read.\n",
    );
    Ok(text)
}

impl Report {
    /// Writes the Markdown to a file and the picture into the folder of the same name, or prints the Markdown.
    pub fn write(&self, file: Option<&Path>) -> Result<()> {
        let Some(file) = file else {
            print!("{}", self.text);
            return Ok(());
        };
        let folder = file.with_extension("");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(PICTURE), &self.picture)?;
        let place = folder.file_name().and_then(|name| name.to_str()).context("a file without a name")?;
        let text = format!("{}\n![How each load grows]({place}/{PICTURE})\n", self.text);
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }
}
