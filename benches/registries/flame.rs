//! Flame graphs of Berth under load: where its processor time goes, recorded by perf.
//!
//! Width is time, and a function stands on the one that called it. The names need a build that was not
//! stripped: any profile but `dist`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::loads::Load;
use crate::plan::name_of;
use crate::servers::{Server, in_path};

/// Samples a second: no multiple of what a timer in the server might do.
const FREQUENCY: &str = "397";
/// Until perf is attached.
const ATTACHED_AFTER: Duration = Duration::from_millis(300);
const WIDTH: f64 = 1200.0;
const LINE: f64 = 16.0;
/// What is narrower is not drawn.
const LEAST: f64 = 0.4;
const LETTER: f64 = 6.6;

/// perf at work.
pub struct Recording {
    perf: Child,
    data: PathBuf,
    svg: PathBuf,
    title: String,
}

/// Time that was spent in one place, and in what that called.
#[derive(Default)]
struct Node {
    samples: u32,
    called: BTreeMap<String, Node>,
}

impl Recording {
    /// Begins to record processes.
    pub async fn start(folder: &Path, load: Load, server: &Server) -> Result<Self> {
        ensure!(in_path("perf").is_some(), "perf is not on PATH, which --flame needs");
        fs::create_dir_all(folder)?;
        let name = format!("{}-{}", name_of(&load), name_of(&server.kind));
        let title = format!("{}: {}", server.kind.name(), load.title());
        let processes = server.processes();
        let data = folder.join(format!("{name}.data"));
        let ids: Vec<_> = processes.iter().map(|process| process.0.to_string()).collect();
        let perf = Command::new("perf")
            .args(["record", "--quiet", "--call-graph", "dwarf,16384", "-F", FREQUENCY, "-p", &ids.join(",")])
            .arg("-o")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        tokio::time::sleep(ATTACHED_AFTER).await;
        Ok(Self { perf, data, svg: folder.join(format!("{name}.svg")), title })
    }

    /// Ends it, and draws what was recorded.
    pub fn finish(mut self) -> Result<()> {
        // perf writes the rest at this signal, and only then.
        let told = Command::new("kill").args(["-INT", &self.perf.id().to_string()]).status()?;
        ensure!(told.success(), "kill: {told}");
        self.perf.wait()?;
        let mut script = Command::new("perf")
            .args(["script", "--no-inline", "-F", "comm,ip,sym", "-i"])
            .arg(&self.data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = BufReader::new(script.stdout.take().context("perf script without output")?).lines();
        let root = read(lines.map_while(Result::ok));
        script.wait()?;
        fs::remove_file(&self.data)?;
        ensure!(root.samples > 0, "perf recorded nothing");
        fs::write(&self.svg, draw(&root, &self.title))
            .with_context(|| format!("write {}", self.svg.display()))
    }
}

/// Samples as perf writes them: a line of whom, the frames from the innermost on, an empty line.
fn read(lines: impl Iterator<Item = String>) -> Node {
    let mut root = Node::default();
    let mut frames = Vec::new();
    for line in lines.chain(std::iter::once(String::new())) {
        if line.starts_with(char::is_whitespace) && !line.trim().is_empty() {
            let name = line.trim().split_once(' ').map_or("?", |(_, name)| name.trim());
            frames.push(short(name).to_owned());
        } else if !frames.is_empty() {
            root.add(frames.drain(..).rev());
        }
    }
    root
}

/// A name without the hash that the compiler adds.
fn short(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name,
        _ => name,
    }
}

impl Node {
    fn add(&mut self, frames: impl Iterator<Item = String>) {
        self.samples += 1;
        let mut node = self;
        for frame in frames {
            node = node.called.entry(frame).or_default();
            node.samples += 1;
        }
    }

    fn depth(&self) -> u32 {
        self.called.values().map(Self::depth).max().map_or(0, |depth| depth + 1)
    }
}

fn draw(root: &Node, title: &str) -> String {
    let height = f64::from(root.depth()) * LINE + 50.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"20\" font-size=\"14\">{}, {} samples</text>\n",
        escaped(title),
        root.samples
    );
    let scale = WIDTH / f64::from(root.samples);
    draw_called(&mut svg, root, 0.0, height - LINE - 4.0, scale, root.samples);
    svg.push_str("</svg>\n");
    svg
}

fn draw_called(svg: &mut String, node: &Node, left: f64, y: f64, scale: f64, all: u32) {
    let mut x = left;
    for (name, called) in &node.called {
        let width = f64::from(called.samples) * scale;
        if width >= LEAST {
            let percent = f64::from(called.samples) / f64::from(all) * 100.0;
            let room = format!("{:.0}", (width / LETTER - 1.0).max(0.0)).parse().unwrap_or(0);
            let text: String = if room < 3 { String::new() } else { name.chars().take(room).collect() };
            let _ = writeln!(
                svg,
                "<g><title>{full} ({percent:.1} %)</title><rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" \
                 height=\"{:.0}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{}\">{}</text></g>",
                LINE - 1.0,
                color(name),
                x + 2.0,
                y + 12.0,
                escaped(&text),
                full = escaped(name),
            );
            draw_called(svg, called, x, y - LINE, scale, all);
        }
        x += width;
    }
}

/// The same function has the same color wherever it stands.
fn color(name: &str) -> String {
    let sum = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    format!("hsl({},70%,{}%)", 20 + sum % 35, 62 + sum / 64 % 14)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
