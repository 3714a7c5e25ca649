//! What the figures were measured on. Says nothing that names the machine.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Today in UTC, as `date` writes it.
pub fn date() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().context("run date")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Processor, memory, kernel and the file system that `directory` is on.
pub fn describe(directory: &Path) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let processor = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = field(&processor, "model name").unwrap_or("unknown processor");
    let sha = if processor.contains(" sha_ni") { "with" } else { "without" };
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kibibytes = kibibytes(&memory, "MemTotal")?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    // The version alone: what follows the dash may name a farm.
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    let file_system = file_system(directory)?;
    Ok(format!(
        "{cores} cores ({model}, {sha} SHA instructions), {} GiB of memory, Linux {kernel}, data on \
         {file_system}",
        kibibytes.div_ceil(1024 * 1024)
    ))
}

/// Writes a file of so many bytes, and deletes it: what is written next gets the same memory.
///
/// A virtual machine may give free memory back to its host, and has to wait for it page by page when it is used
/// again. Files were written at a fifth of the speed where the page cache had to grow by such memory, by whichever
/// server came then.
pub fn have_memory_at_hand(directory: &Path, size_bytes: u64) -> Result<()> {
    let some = vec![1; 1024 * 1024];
    let mut file = tempfile::tempfile_in(directory)?;
    for _ in 0..size_bytes.div_ceil(some.len() as u64) {
        file.write_all(&some)?;
    }
    Ok(())
}

fn kibibytes(memory: &str, name: &str) -> Result<u64> {
    Ok(field(memory, name).unwrap_or("0").trim_end_matches(" kB").parse()?)
}

/// How many processes wanted to run, on average over the last minute.
pub fn load_average() -> Result<f64> {
    let averages = std::fs::read_to_string("/proc/loadavg")?;
    Ok(averages.split(' ').next().unwrap_or_default().parse()?)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

fn file_system(directory: &Path) -> Result<String> {
    let directory = directory.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((Path::new(fields.next()?), fields.next()?))
    });
    let (_, kind) = mounted
        .filter(|(point, _)| directory.starts_with(point))
        .max_by_key(|(point, _)| point.components().count())
        .context("no mounted file system")?;
    Ok(kind.to_owned())
}
