//! A Markdown table of figures, a column a server, with Berth set against the others.

use std::fmt::Write as _;

use crate::servers::Kind;

/// What stands around the rows.
#[derive(Clone, Copy)]
pub struct Table {
    pub title: &'static str,
    pub introduction: &'static str,
    /// Whether columns follow with Berth's figure divided by each other server's.
    pub compares: bool,
}

/// One load.
pub struct Row {
    pub label: String,
    pub unit: &'static str,
    /// A figure a server, where it was measured.
    pub figures: Vec<Option<Spread>>,
}

/// The figures of several rounds.
#[derive(Clone, Copy)]
pub struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Table {
    /// Appends the table; nothing if it has no rows.
    pub fn render(self, text: &mut String, servers: &[Kind], rows: &[Row]) {
        if rows.is_empty() {
            return;
        }
        let berth = servers.iter().position(|kind| *kind == Kind::Berth).filter(|_| self.compares);
        let others = |berth: usize| (0..servers.len()).filter(move |index| *index != berth);
        let _ = write!(text, "## {}\n\n{}\n\n| load | unit |", self.title, self.introduction);
        let mut rule = "|---|---|".to_owned();
        for kind in servers {
            let _ = write!(text, " {} |", kind.name());
            rule.push_str("---:|");
        }
        for other in berth.into_iter().flat_map(others) {
            let _ = write!(text, " Berth / {} |", servers[other].name());
            rule.push_str("---:|");
        }
        let _ = writeln!(text, "\n{rule}");
        for row in rows {
            let _ = write!(text, "| {} | {} |", row.label, row.unit);
            for spread in &row.figures {
                let _ = write!(text, " {} |", spread.map_or_else(|| "–".to_owned(), Spread::render));
            }
            for other in berth.into_iter().flat_map(others) {
                let ratio = berth.and_then(|berth| ratio(row.figures[berth], row.figures[other]));
                let _ = write!(text, " {} |", ratio.map_or_else(|| "–".to_owned(), figure));
            }
            text.push('\n');
        }
        text.push('\n');
    }
}

/// One median divided by another.
pub fn ratio(one: Option<Spread>, other: Option<Spread>) -> Option<f64> {
    Some(one?.median / other?.median).filter(|ratio| ratio.is_finite())
}

impl Spread {
    /// Sums up figures, if there are any.
    pub fn of(figures: impl Iterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<_> = figures.collect();
        figures.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*figures.first()?, *figures.last()?);
        let (lower, upper) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
        Some(Self { median: f64::midpoint(lower, upper), least, most })
    }

    /// Half of the figures are no greater.
    pub fn median(self) -> f64 {
        self.median
    }

    /// The figures in another unit.
    pub fn times(self, factor: f64) -> Self {
        Self { median: self.median * factor, least: self.least * factor, most: self.most * factor }
    }

    /// The figures as a table has them.
    pub fn render(self) -> String {
        format!("**{}** ({}–{})", figure(self.median), figure(self.least), figure(self.most))
    }
}

/// Writes a figure with three digits that mean something, and commas between thousands.
pub fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value < 1.0 {
        return format!("{value:.3}");
    }
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
