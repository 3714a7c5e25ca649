//! PostgreSQL with its defaults, started by hand for one run: a database for each server.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

const BINARIES: &str = "/usr/lib/postgresql";
/// Seven replicas are there at once.
const MOST_CONNECTIONS: &str = "max_connections=300";
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running cluster, which ends with this value.
pub struct Postgres {
    binaries: PathBuf,
    folder: TempDir,
    port: u16,
    databases: AtomicU32,
    child: Child,
}

impl Postgres {
    /// Starts it. Its data is on the disk under `parent`, as the servers' is.
    pub async fn start(parent: &Path) -> Result<Self> {
        let binaries = binaries().context("PostgreSQL is not installed: run scripts/install-bench-tools")?;
        let folder = tempfile::Builder::new().prefix("postgres-").tempdir_in(parent.canonicalize()?)?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
        let data = folder.path().join("data");
        let mut initdb = as_postgres(&binaries.join("initdb"), folder.path());
        initdb.arg("--pgdata").arg(&data).args(["--username=postgres", "--auth=trust", "--encoding=UTF8"]);
        run(initdb.arg("--locale=C.UTF-8"))?;

        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = as_postgres(&binaries.join("postgres"), folder.path());
        server.arg("-D").arg(&data).arg("-k").arg(folder.path());
        server.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-c", MOST_CONNECTIONS]);
        let said = File::create(folder.path().join("log"))?;
        let child = server.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said).spawn()?;
        let postgres = Self { binaries, folder, port, databases: AtomicU32::new(0), child };
        let started = Instant::now();
        while postgres.command("pg_isready").stdout(Stdio::null()).status()?.code() != Some(0) {
            ensure!(started.elapsed() < START_LIMIT, "PostgreSQL does not start: {}", postgres.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(postgres)
    }

    /// Makes an empty database; returns its URL.
    pub fn fresh_database(&self) -> Result<String> {
        let name = format!("berth_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        run(self.command("createdb").args(["--template=template0", &name]))?;
        Ok(format!("postgres://postgres@127.0.0.1:{}/{name}", self.port))
    }

    /// What it is, for the notes.
    pub fn describe(&self) -> String {
        let version = Command::new(self.binaries.join("postgres")).arg("--version").output();
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let version = version.unwrap_or_default();
        format!(
            "**PostgreSQL** ({version}) has the same cores and takes a part of them, which is in no table; its \
             settings are its defaults, but for {MOST_CONNECTIONS}"
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command
            .env("PGHOST", self.folder.path())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres");
        command
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once: the data goes too. It ends its own children where a kill of it alone would not.
        let mut stop = as_postgres(&self.binaries.join("pg_ctl"), self.folder.path());
        stop.arg("-D").arg(self.folder.path().join("data")).args(["-m", "immediate", "stop"]);
        let _ = stop.stdout(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A command as a user who is not root, because PostgreSQL refuses to run as root.
fn as_postgres(program: &Path, folder: &Path) -> Command {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let mut command = if is_root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir(folder);
    command
}

fn binaries() -> Option<PathBuf> {
    let versions = fs::read_dir(BINARIES).ok()?.filter_map(Result::ok);
    let newest = versions.max_by_key(|version| {
        version.file_name().to_str().and_then(|name| name.parse::<u32>().ok()).unwrap_or_default()
    })?;
    let folder = newest.path().join("bin");
    folder.join("postgres").is_file().then_some(folder)
}
