//! The run: one folder for all that this test process writes, and a watcher that outlives it.
//!
//! A test that is killed runs no destructor. The watcher holds the reading end of a pipe which
//! closes when this process ends, however it ends: it then stops every process that carries the
//! run's mark in its environment, takes down what they mounted, and removes the folder.

use std::{
    env, fs,
    io::Write as _,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

use tempfile::TempDir;

const MARK: &str = "TEST_RUN";

/// Ports that the kernel does not give to outgoing connections by itself.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

const WATCHER: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for signal in TERM TERM TERM TERM TERM TERM TERM TERM TERM TERM KILL; do
  found=false
  for process in $(grep -lazxF -- "$2" /proc/[0-9]*/environ 2>/dev/null); do
    process=${process#/proc/}
    kill -$signal "${process%/environ}" 2>/dev/null && found=true
  done
  if ! $found; then break; fi
  sleep 0.5
done
while read -r _ mount _; do
  case $mount in "$1"/*) umount -l "$mount" ;; esac
done </proc/mounts
while read -r file; do rm -f "$file"; done 2>/dev/null <"$1/outside"
rm -rf "$1"
"#;

static RUN: LazyLock<Run> = LazyLock::new(Run::start);

struct Run {
    folder: PathBuf,
    mark: String,
    // Owns the writing end of the watcher's pipe. Statics are not dropped: it closes with the process.
    _watcher: Child,
}

impl Run {
    fn start() -> Self {
        // Short, because unix sockets below it may have no more than 107 characters.
        let folder =
            tempfile::Builder::new().prefix("berth-").tempdir().expect("make the run's folder").keep();
        // PostgreSQL runs as another user, who has to get through.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("open the run's folder");
        let mark = folder.file_name().expect("a temporary folder has a name").to_string_lossy().into_owned();
        let watcher = Command::new("sh")
            .args(["-c", WATCHER, "watcher"])
            .arg(&folder)
            .arg(format!("{MARK}={mark}"))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the run's watcher");
        Self { folder, mark, _watcher: watcher }
    }
}

/// Makes a folder that goes away with the returned value, or else with the run.
pub fn folder(name: &str) -> TempDir {
    let prefix = format!("{name}-");
    tempfile::Builder::new()
        .prefix(&prefix)
        .rand_bytes(4)
        .tempdir_in(&RUN.folder)
        .expect("make a folder in the run's")
}

/// Has the watcher remove a file that a program insists on writing outside of the run's folder.
pub fn remove_at_the_end(file: &Path) {
    let list = fs::OpenOptions::new().create(true).append(true).open(RUN.folder.join("outside"));
    writeln!(list.expect("open the run's list"), "{}", file.display()).expect("write the run's list");
}

/// Finds a port of 127.0.0.1 on which nobody listens, for a program that cannot choose one itself.
///
/// The run gives no port twice, and none that an outgoing connection could take in the meantime.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Runs beside this one begin elsewhere.
    let first = u16::try_from(std::process::id() * 61 % u32::from(count)).expect("it is below the count");
    for _ in PORTS {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % count;
        let port = PORTS.start + (first + next) % count;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of 127.0.0.1 in {PORTS:?} is free");
}

/// A command that belongs to the run, free of the proxies and of the settings of whoever runs the tests.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy().to_ascii_uppercase();
        if text.starts_with("BERTH_") || text.ends_with("_PROXY") {
            command.env_remove(&name);
        }
    }
    command.env(MARK, &RUN.mark).stdin(Stdio::null());
    command
}
