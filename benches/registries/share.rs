//! A share of a core for each process: whether more replicas do more shows on few cores only if each of them
//! has less than one. Linux control groups keep it to that, the first or the second kind; only root may.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const FIRST: &str = "/sys/fs/cgroup/cpu";
const SECOND: &str = "/sys/fs/cgroup";
/// The time of which each has its share, in microseconds: so short that a request waits little.
const PERIOD_US: u32 = 10_000;

/// What a process is kept to, for as long as this lives; the process must end before.
pub struct Share(PathBuf);

impl Share {
    /// Keeps a process to so many percent of a core.
    pub fn limit(process: u32, percent: u32) -> Result<Self> {
        let (period, quota) = (PERIOD_US.to_string(), (PERIOD_US / 100 * percent).to_string());
        let name = format!("berth-bench-{process}");
        let is_first = Path::new(FIRST).join("cpu.cfs_quota_us").is_file();
        let folder = Path::new(if is_first { FIRST } else { SECOND }).join(name);
        fs::create_dir(&folder).context("a share of a core takes root, and control groups")?;
        let share = Self(folder);
        if is_first {
            share.write("cpu.cfs_period_us", &period)?;
            share.write("cpu.cfs_quota_us", &quota)?;
        } else {
            ensure!(share.0.join("cpu.max").is_file(), "control groups here have no processor time to share");
            share.write("cpu.max", &format!("{quota} {period}"))?;
        }
        share.write("cgroup.procs", &process.to_string())?;
        Ok(share)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let file = self.0.join(file);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
