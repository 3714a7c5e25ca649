//! PostgreSQL: one cluster for the run, started by the first test that asks, a database for each.
//!
//! Its own collation is a language's, so that a column which does not say `COLLATE "C"` sorts
//! wrongly here, as it would for users. Nothing is synced to disk: the data ends with the run.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    process::{self, Process},
    run,
};

const BINARIES: &str = "/usr/lib/postgresql";

/// The run's cluster.
pub struct Postgres {
    binaries: PathBuf,
    folder: TempDir,
    port: u16,
    databases: AtomicU32,
    // Never dropped, as this lives in a static: the run's watcher ends it.
    _process: Process,
}

impl Postgres {
    /// Whether PostgreSQL is installed.
    pub fn is_installed() -> bool {
        binaries().is_some()
    }

    /// The cluster that all tests of the run share.
    pub async fn of_the_run() -> &'static Self {
        static CLUSTER: OnceCell<Postgres> = OnceCell::const_new();
        CLUSTER.get_or_init(Self::start).await
    }

    /// Makes an empty database and returns its `postgres://` URL.
    pub async fn fresh_database(&self) -> String {
        let name = format!("berth_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut createdb = self.command("createdb");
        // template1 is what other connections may be using.
        createdb.args(["--template=template0", &name]);
        process::run(createdb).await;
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    /// Runs one SQL statement in a database that [`Self::fresh_database`] has made.
    pub async fn query(&self, url: &str, sql: &str) -> String {
        let mut psql = self.command("psql");
        psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", sql, url]);
        process::run(psql).await.text()
    }

    async fn start() -> Self {
        let binaries = binaries().expect("PostgreSQL is missing (scripts/install-test-tools)");
        let folder = run::folder("postgres");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))
            .expect("open PostgreSQL's folder");
        let data = folder.path().join("data");
        let mut initdb = as_postgres(&binaries.join("initdb"), folder.path());
        initdb.arg("--pgdata").arg(&data).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--locale-provider=icu",
            "--icu-locale=en-US",
            "--no-sync",
        ]);
        process::run(initdb).await;

        let port = free_port();
        let mut server = as_postgres(&binaries.join("postgres"), folder.path());
        server.arg("-D").arg(&data).arg("-k").arg(folder.path());
        server.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-N", "500", "-F"]);
        server.args(["-c", "full_page_writes=off", "-c", "synchronous_commit=off"]);
        let process = Process::start(server);
        let is_ready = |said: &str| said.contains("ready to accept connections").then_some(());
        process.until("it accepts connections", is_ready).await;
        Self { binaries, folder, port, databases: AtomicU32::new(0), _process: process }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = run::command(self.binaries.join(program));
        command
            .env("PGHOST", self.folder.path())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres");
        command
    }
}

/// A command as a user who is not root, because PostgreSQL refuses to run as root.
fn as_postgres(program: &Path, folder: &Path) -> Command {
    let me = fs::metadata("/proc/self").map(|process| std::os::unix::fs::MetadataExt::uid(&process));
    let mut command = if me.is_ok_and(|uid| uid == 0) {
        let mut command = run::command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
        command
    } else {
        run::command(program)
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

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port of 127.0.0.1");
    listener.local_addr().expect("a bound listener has an address").port()
}
