//! What no registry on this machine is faster than.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::measure::count;
use crate::table::Spread;
use crate::{Plan, machine};

const MEBIBYTE: u64 = 1024 * 1024;
const TIMES: usize = 3;

/// The limits of a push: a byte has to be hashed and to be on the disk.
pub struct Limits {
    /// SHA-256 on one core, in MiB a second, where openssl is there.
    pub sha256: Option<Spread>,
    /// A file written and synced, in MiB a second.
    pub disk: Spread,
}

impl Limits {
    /// Measures them, each a few times.
    pub fn measure(plan: &Plan) -> Result<Self> {
        let times = if plan.quick { 1 } else { TIMES };
        let hashed: Option<Vec<_>> = (0..times).map(|_| sha256().ok()).collect();
        let written = (0..times).map(|_| disk(plan)).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            sha256: hashed.and_then(|figures| Spread::of(figures.into_iter())),
            disk: Spread::of(written.into_iter()).context("no figures")?,
        })
    }

    /// What both allow: the slower of the two.
    pub fn push(&self) -> f64 {
        let disk = self.disk.median();
        self.sha256.map_or(disk, |spread| spread.median().min(disk))
    }
}

fn sha256() -> Result<f64> {
    let arguments = ["speed", "-evp", "sha256", "-bytes", "16384", "-seconds", "1"];
    let output = Command::new("openssl").args(arguments).output().context("start openssl")?;
    let said = String::from_utf8_lossy(&output.stdout);
    // The last line: the name, and thousands of bytes a second with a k.
    let figure = said.split_whitespace().last().and_then(|word| word.strip_suffix('k'));
    let thousands: f64 = figure.context("openssl speed: no figure")?.parse()?;
    Ok(thousands * 1000.0 / count(MEBIBYTE))
}

fn disk(plan: &Plan) -> Result<f64> {
    let folder = tempfile::Builder::new().prefix("disk-").tempdir_in(&plan.directory)?;
    let mebibytes = plan.large_bytes / MEBIBYTE;
    machine::have_memory_at_hand(&plan.directory, plan.large_bytes * 3 / 2)?;
    let started = Instant::now();
    let status = Command::new("dd")
        .args(["if=/dev/zero", "bs=1M", "conv=fsync", &format!("count={mebibytes}")])
        .arg(format!("of={}", folder.path().join("file").display()))
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "dd: {status}");
    Ok(count(mebibytes) / started.elapsed().as_secs_f64())
}
