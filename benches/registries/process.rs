//! What the kernel says a process used.

use anyhow::{Context, Result};

// USER_HZ: the unit of /proc/PID/stat, 100 on every architecture Linux still runs registries on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process by its id.
#[derive(Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// This program.
    pub fn current() -> Self {
        Self(std::process::id())
    }

    /// The processes that its main thread has started.
    pub fn children(self) -> Vec<Self> {
        let children = self.read(&format!("task/{}/children", self.0)).unwrap_or_default();
        children.split_whitespace().filter_map(|id| Some(Self(id.parse().ok()?))).collect()
    }

    /// User and system time of all its threads so far.
    pub fn cpu_seconds(self) -> Result<f64> {
        let stat = self.read("stat")?;
        // The second field is the program's name in brackets and may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat without a name")?;
        let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<f64>);
        let user = ticks.next().context("/proc/PID/stat without utime")??;
        let system = ticks.next().context("/proc/PID/stat without stime")??;
        Ok((user + system) / TICKS_PER_SECOND)
    }

    /// The most memory it had resident since [`Process::forget_peak`], in bytes.
    pub fn peak_bytes(self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// The memory it has resident, in bytes.
    pub fn resident_bytes(self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    fn status_bytes(self, field: &str) -> Result<u64> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let line = line.with_context(|| format!("no {field}"))?;
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim_end().parse()?;
        Ok(kibibytes * 1024)
    }

    /// Starts the measurement of the peak anew from what is resident now.
    pub fn forget_peak(self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.0);
        std::fs::write(&path, "5").with_context(|| format!("write {path}"))
    }

    fn read(self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }
}
