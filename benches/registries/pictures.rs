//! The figures as bars, one SVG a kind of figure: a row a load, a bar a server, a line for a limit.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::{
    Color as _, DrawingArea, IntoDrawingArea as _, IntoFont as _, PathElement, RGBColor, Rectangle,
    SVGBackend, Text, WHITE,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::loads::Load;
use crate::report::Report;
use crate::servers::Kind;
use crate::table::{Row, figure};

const WIDTH: i32 = 960;
const LABELS: i32 = 330;
const FIGURES: i32 = 80;
const TOP: i32 = 74;
const BAR: i32 = 11;
const GAP: i32 = 9;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x24, 0x29, 0x2f);
const FAINT: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
const LIMIT: RGBColor = RGBColor(0xcf, 0x22, 0x2e);
/// Of the servers, in their order; the first is Berth's.
const COLORS: [RGBColor; 6] = [
    RGBColor(0x1f, 0x6f, 0xeb),
    RGBColor(0x9a, 0xa4, 0xaf),
    RGBColor(0xe3, 0xa0, 0x3c),
    RGBColor(0x5b, 0xa4, 0x6c),
    RGBColor(0xa3, 0x71, 0xc7),
    RGBColor(0x3f, 0xb2, 0xb8),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A picture that was drawn.
pub struct Drawn {
    pub title: &'static str,
    pub file: &'static str,
}

/// Draws all pictures that have rows into a folder.
pub fn draw(report: &Report, folder: &Path) -> Result<Vec<Drawn>> {
    let all = [
        ("Operations a second, more is better", "rates.svg", report.rate_rows(false)),
        ("MiB a second, more is better; the line is the limit", "throughput.svg", report.rate_rows(true)),
        (
            "Milliseconds that 99 of 100 operations take at most, less is better",
            "p99.svg",
            report.latency_rows(),
        ),
        (
            "Processor time of the server, µs an operation, less is better",
            "processor.svg",
            report.cpu_rows(false),
        ),
        (
            "Processor time of the server, s a GiB, less is better",
            "processor-bytes.svg",
            report.cpu_rows(true),
        ),
        ("Peak memory of the server, MiB, less is better", "memory.svg", report.memory_rows()),
    ];
    let mut drawn = Vec::new();
    for (title, file, rows) in all {
        // What was drawn for other loads does not belong to this report.
        let path = folder.join(file);
        if rows.is_empty() {
            let _ = fs::remove_file(&path);
            continue;
        }
        let has_limits = file == "throughput.svg";
        let limit = |row: &Row| {
            let load = report.outcomes.iter().find(|outcome| outcome.load.title() == row.label)?.load;
            limit_of(report, load).filter(|_| has_limits)
        };
        let limits: Vec<_> = rows.iter().map(limit).collect();
        let svg = picture(title, &report.plan.servers, &rows, &limits)?;
        fs::write(&path, svg).with_context(|| format!("write {}", path.display()))?;
        drawn.push(Drawn { title, file });
    }
    Ok(drawn)
}

fn limit_of(report: &Report, load: Load) -> Option<f64> {
    Some(report.limit_of(load)?.1)
}

/// A logarithmic axis between two powers of ten.
struct Axis {
    first: i32,
    last: i32,
}

impl Axis {
    fn over(figures: impl Iterator<Item = f64> + Clone) -> Self {
        let positive = figures.filter(|figure| *figure > 0.0 && figure.is_finite());
        let lowest = positive.clone().fold(f64::INFINITY, f64::min).min(1e12);
        let most = positive.fold(0.0, f64::max).max(lowest);
        let (first, last) = (whole(lowest.log10().floor()), whole(most.log10().ceil()));
        Self { first, last: last.max(first + 1) }
    }

    fn place(&self, figure: f64) -> i32 {
        let share = (figure.max(1e-12).log10() - f64::from(self.first)) / f64::from(self.last - self.first);
        let room = f64::from(WIDTH - LABELS - FIGURES);
        LABELS + whole(room * share.clamp(0.0, 1.0))
    }
}

/// The nearest whole number.
fn whole(value: f64) -> i32 {
    // Pixels and powers of ten: far inside of what both types hold.
    format!("{value:.0}").parse().unwrap_or_default()
}

fn picture(title: &str, servers: &[Kind], rows: &[Row], limits: &[Option<f64>]) -> Result<String> {
    let shown: Vec<Vec<(usize, f64)>> = rows
        .iter()
        .map(|row| {
            let figures = row.figures.iter().enumerate();
            figures.filter_map(|(index, spread)| Some((index, spread.as_ref()?.median()))).collect()
        })
        .collect();
    let bars = shown.iter().map(|bars| i32::try_from(bars.len()).unwrap_or_default() * BAR + GAP);
    let height = TOP + bars.sum::<i32>() + 24;
    let figures = shown.iter().flatten().map(|(_, figure)| *figure).chain(limits.iter().flatten().copied());
    let axis = Axis::over(figures);
    let mut svg = String::new();
    {
        let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(broken)?;
        write(&area, title, (12, 20), 16, HPos::Left)?;
        legend(&area, servers, limits.iter().any(Option::is_some))?;
        grid(&area, &axis, height)?;
        let mut top = TOP;
        for ((row, bars), limit) in rows.iter().zip(&shown).zip(limits) {
            let count = i32::try_from(bars.len()).unwrap_or_default();
            let middle = top + count * BAR / 2;
            write(&area, &row.label, (LABELS - 8, middle), 12, HPos::Right)?;
            for (place, (server, value)) in bars.iter().enumerate() {
                let y = top + i32::try_from(place).unwrap_or_default() * BAR;
                let end = axis.place(*value).max(LABELS + 1);
                let color = COLORS[server % COLORS.len()];
                area.draw(&Rectangle::new([(LABELS, y), (end, y + BAR - 2)], color.filled()))
                    .map_err(broken)?;
                write(&area, &figure(*value), (end + 4, y + BAR / 2 - 1), 10, HPos::Left)?;
            }
            if let Some(limit) = limit {
                let (x, bottom) = (axis.place(*limit), top + count * BAR);
                let line = PathElement::new(vec![(x, top - 3), (x, bottom + 1)], LIMIT.stroke_width(2));
                area.draw(&line).map_err(broken)?;
            }
            top += count * BAR + GAP;
        }
        area.present().map_err(broken)?;
    }
    Ok(svg)
}

fn legend(area: &Area<'_>, servers: &[Kind], has_limits: bool) -> Result<()> {
    let mut x = 12;
    for (index, kind) in servers.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        area.draw(&Rectangle::new([(x, 36), (x + 10, 46)], color.filled())).map_err(broken)?;
        write(area, kind.name(), (x + 15, 41), 12, HPos::Left)?;
        x += 36 + 7 * i32::try_from(kind.name().len()).unwrap_or_default();
    }
    if has_limits {
        area.draw(&PathElement::new(vec![(x, 35), (x, 47)], LIMIT.stroke_width(2))).map_err(broken)?;
        write(area, "limit", (x + 8, 41), 12, HPos::Left)?;
    }
    Ok(())
}

fn grid(area: &Area<'_>, axis: &Axis, height: i32) -> Result<()> {
    for power in axis.first..=axis.last {
        let value = 10_f64.powi(power);
        let x = axis.place(value);
        let line = PathElement::new(vec![(x, TOP - 8), (x, height - 20)], FAINT.stroke_width(1));
        area.draw(&line).map_err(broken)?;
        write(area, &power_of_ten(power), (x, height - 10), 10, HPos::Center)?;
    }
    Ok(())
}

/// Draws what grew: a line a load over sizes that are ten times apart, both axes logarithmic.
pub fn lines(title: &str, all: &[(String, Vec<f64>)]) -> Result<String> {
    const HEIGHT: i32 = 560;
    const LEFT: i32 = 70;
    const STEP: i32 = 250;
    const BOTTOM: i32 = HEIGHT - 50;
    const LINE: i32 = 16;
    let axis = Axis::over(all.iter().flat_map(|(_, figures)| figures.iter().copied()));
    let height_of = |figure: f64| {
        let share = f64::from(axis.place(figure) - LABELS) / f64::from(WIDTH - LABELS - FIGURES);
        BOTTOM - whole(f64::from(BOTTOM - TOP) * share)
    };
    let mut svg = String::new();
    {
        let size = (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs());
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(broken)?;
        write(&area, title, (12, 20), 16, HPos::Left)?;
        write(&area, "the exponent in brackets", (12, 42), 12, HPos::Left)?;
        for power in axis.first..=axis.last {
            let value = 10_f64.powi(power);
            let y = height_of(value);
            let line = PathElement::new(vec![(LEFT, y), (LEFT + 2 * STEP, y)], FAINT.stroke_width(1));
            area.draw(&line).map_err(broken)?;
            write(&area, &power_of_ten(power), (LEFT - 8, y), 10, HPos::Right)?;
        }
        for (x, label) in
            [(LEFT, "smallest"), (LEFT + STEP, "ten times"), (LEFT + 2 * STEP, "a hundred times")]
        {
            write(&area, label, (x, BOTTOM + 20), 12, HPos::Center)?;
        }
        // From the top down, so that no two labels are in one place.
        let mut order: Vec<_> = (0..all.len()).collect();
        let end = |index: usize| all[index].1.last().copied().unwrap_or_default();
        order.sort_by(|one, other| end(*other).total_cmp(&end(*one)));
        let mut free_from = TOP;
        for index in order {
            let (label, figures) = &all[index];
            let xs = (0..).map(|step| LEFT + step * STEP);
            let points: Vec<_> = xs.zip(figures.iter().map(|figure| height_of(*figure))).collect();
            let color = COLORS[index % COLORS.len()];
            let Some((x, y)) = points.last().copied() else { continue };
            area.draw(&PathElement::new(points, color.stroke_width(2))).map_err(broken)?;
            let place = y.max(free_from);
            free_from = place + LINE;
            let leader = PathElement::new(vec![(x, y), (x + 14, place)], color.stroke_width(1));
            area.draw(&leader).map_err(broken)?;
            write(&area, label, (x + 18, place), 12, HPos::Left)?;
        }
        area.present().map_err(broken)?;
    }
    Ok(svg)
}

fn power_of_ten(power: i32) -> String {
    let value = 10_f64.powi(power);
    let text = if power < 0 { format!("{value}") } else { figure(value) };
    text.trim_end_matches(".00").trim_end_matches(".0").to_owned()
}

fn write(area: &Area<'_>, text: &str, place: (i32, i32), points: i32, side: HPos) -> Result<()> {
    let style = (FONT, points).into_font().color(&INK).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), place, style)).map_err(broken)
}

fn broken(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("draw: {error}")
}
