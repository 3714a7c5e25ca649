//! The registries under load: how each is started with fresh data, and what is said about its settings.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use http::{Method, StatusCode};
use tempfile::TempDir;

use crate::backing::{Bucket, Group};
use crate::client::Connection;
use crate::payload::Payload;
use crate::process::Process;

const START_LIMIT: Duration = Duration::from_secs(30);
const SYNC_CALLS: &str = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync";

/// A registry that can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    /// This repository's, as cargo built it for the benchmark
    Berth,
    /// Debian's package docker-registry (distribution 2)
    DockerRegistry,
    /// CNCF distribution 3
    Distribution,
    /// Another build of Berth, which `BERTH_BEFORE` names: only if asked for
    Before,
}

impl Kind {
    /// Those that are measured if nothing else is said.
    pub const USUAL: [Self; 3] = [Self::Berth, Self::DockerRegistry, Self::Distribution];

    /// The name of its column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Berth => "Berth",
            Self::DockerRegistry => "docker-registry",
            Self::Distribution => "distribution",
            Self::Before => "before",
        }
    }

    /// How it was set up, in words.
    pub fn settings(self, group: Group) -> &'static str {
        match (self, group) {
            (Self::Before, _) => "another build of Berth, set up the same",
            (Self::Berth, Group::Storage) => {
                "`berth serve --listen 127.0.0.1:0 --data DIR`, logs at error level, `storage.kind = \"s3\"` \
                 with address, bucket and keys, otherwise its defaults: SQLite, parts of 8 MiB"
            }
            (Self::DockerRegistry, Group::Storage) => {
                "s3 driver with address, bucket and keys, `v4auth: true` and `secure: false` (plain HTTP), \
                 `storage.redirect.disable: true`, so that pulls go through it as they do through Berth, \
                 `log.level: error`, access log off, `storage.cache.blobdescriptor: inmemory`, \
                 `storage.delete.enabled: true`, no authentication, otherwise defaults: parts of 10 MiB, \
                 copied in parts of 32 MiB"
            }
            (Self::Berth, Group::Filesystem) => {
                "`berth serve --listen 127.0.0.1:0 --data DIR`, logs at error level, otherwise its defaults: \
                 SQLite and the filesystem store"
            }
            (Self::DockerRegistry, Group::Filesystem) => {
                "filesystem driver, `log.level: error`, access log off, `storage.cache.blobdescriptor: \
                 inmemory` (as in the packaged configuration), `storage.delete.enabled: true`, no \
                 authentication, otherwise defaults"
            }
            (Self::Distribution, _) => {
                "the same as docker-registry, and `OTEL_TRACES_EXPORTER=none`: by default it tells a collector \
                 of every request"
            }
        }
    }

    /// What it calls its version.
    pub fn version(self) -> Result<String> {
        let program = self.program()?;
        let output = Command::new(&program).arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version =
            text.split_whitespace().last().with_context(|| format!("{}: no version", self.name()))?;
        Ok(version.trim_start_matches('v').trim_end_matches("+unknown").to_owned())
    }

    fn program(self) -> Result<PathBuf> {
        let found = match self {
            Self::Berth => Some(PathBuf::from(env!("CARGO_BIN_EXE_berth"))),
            Self::DockerRegistry => in_path("docker-registry"),
            Self::Before => std::env::var_os("BERTH_BEFORE").map(PathBuf::from),
            Self::Distribution => {
                Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/bin/registry"))
            }
        };
        found.filter(|program| program.is_file()).with_context(|| {
            format!(
                "{} is not installed: run scripts/install-bench-tools, or leave it out with --servers",
                self.name()
            )
        })
    }

    fn command(self, directory: &Path, bucket: Option<&Bucket>) -> Result<(Command, Option<SocketAddr>)> {
        let mut command = Command::new(self.program()?);
        for (name, _) in std::env::vars_os() {
            // All of them take settings from variables, and a benchmark's are its own.
            let text = name.to_string_lossy().to_ascii_uppercase();
            let prefixes = ["BERTH_", "REGISTRY_", "OTEL_", "AWS_"];
            if prefixes.iter().any(|prefix| text.starts_with(prefix)) || text.ends_with("_PROXY") {
                command.env_remove(name);
            }
        }
        let data = directory.join("data");
        if matches!(self, Self::Berth | Self::Before) {
            command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
            command.env("BERTH_LOG__LEVEL", "error");
            if let Some(bucket) = bucket {
                command.env("BERTH_STORAGE__KIND", "s3");
                command.env("BERTH_STORAGE__S3__ENDPOINT", &bucket.endpoint);
                command.env("BERTH_STORAGE__S3__REGION", bucket.region);
                command.env("BERTH_STORAGE__S3__BUCKET", &bucket.name);
                command.env("BERTH_STORAGE__S3__ACCESS_KEY_ID", &bucket.access_key);
                command.env("BERTH_STORAGE__S3__SECRET_ACCESS_KEY", &bucket.secret_key);
            }
            return Ok((command, None));
        }
        std::fs::create_dir(&data)?;
        let address = free_address()?;
        let config = directory.join("config.yml");
        std::fs::write(&config, distribution_config(&data, address, bucket))?;
        command.arg("serve").arg(config).env("OTEL_TRACES_EXPORTER", "none");
        Ok((command, Some(address)))
    }
}

/// A running server with data of its own; both end with this value.
pub struct Server {
    pub kind: Kind,
    pub address: SocketAddr,
    child: Child,
    directory: TempDir,
}

impl Server {
    /// Starts a server with empty data under `parent`, and its blobs in the bucket if there is one, and
    /// waits until it answers.
    pub async fn start(kind: Kind, parent: &Path, bucket: Option<&Bucket>) -> Result<Self> {
        Self::launch(kind, parent, bucket, false).await
    }

    /// As [`Server::start`], with its sync calls recorded by strace.
    pub async fn start_traced(kind: Kind, parent: &Path) -> Result<Self> {
        ensure!(in_path("strace").is_some(), "strace is not installed: run scripts/install-bench-tools");
        Self::launch(kind, parent, None, true).await
    }

    async fn launch(kind: Kind, parent: &Path, bucket: Option<&Bucket>, traced: bool) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("registry-").tempdir_in(parent)?;
        let (mut command, known_address) = kind.command(directory.path(), bucket)?;
        if traced {
            command = under_strace(&command, &directory.path().join("syncs"));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(directory.path().join("stdout"))?)
            .stderr(File::create(directory.path().join("stderr"))?)
            .spawn()
            .with_context(|| format!("start {}", kind.name()))?;
        let address = known_address.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let mut server = Self { kind, address, child, directory };
        server.await_answer().await?;
        Ok(server)
    }

    /// The server's process.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// How many calls that sync a file strace has recorded so far.
    pub fn syncs(&self) -> Result<usize> {
        let calls = std::fs::read_to_string(self.directory.path().join("syncs"))?;
        // A call that another thread interrupts is written as two lines.
        Ok(calls.lines().filter(|line| line.contains("sync") && !line.contains("resumed>")).count())
    }

    /// Writes back what is still dirty in the page cache, so that nobody pays for another's writes.
    pub fn settle(&self) -> Result<()> {
        let status = Command::new("sync").arg("-f").arg(self.directory.path()).status()?;
        ensure!(status.success(), "sync failed: {status}");
        Ok(())
    }

    /// The last of what the server said, for an error message.
    pub fn last_words(&self) -> String {
        let said = std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default();
        let lines: Vec<_> = said.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    async fn await_answer(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if self.is_ready().await.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.kind.name(), self.last_words());
            }
            if started.elapsed() > START_LIMIT {
                bail!("{} does not answer: {}", self.kind.name(), self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn is_ready(&mut self) -> Result<()> {
        if self.address.port() == 0 {
            self.address = announced_address(&self.directory.path().join("stdout"))?;
        }
        let mut connection = Connection::open(self.address).await?;
        let answer = connection.send(Method::GET, "/v2/", None, Payload::empty()).await?;
        answer.require(StatusCode::OK)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its data goes too: there is nothing to shut down in order for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn distribution_config(data: &Path, address: SocketAddr, bucket: Option<&Bucket>) -> String {
    let driver = match bucket {
        None => format!("  filesystem:\n    rootdirectory: {}\n", data.display()),
        Some(bucket) => format!(
            "  s3:\n    regionendpoint: {}\n    region: {}\n    bucket: {}\n    accesskey: {}\n    \
             secretkey: {}\n    secure: false\n    v4auth: true\n    forcepathstyle: true\n  \
             redirect:\n    disable: true\n",
            bucket.endpoint, bucket.region, bucket.name, bucket.access_key, bucket.secret_key
        ),
    };
    format!(
        "version: 0.1\n\
         log:\n  level: error\n  accesslog:\n    disabled: true\n\
         storage:\n  cache:\n    blobdescriptor: inmemory\n{driver}  delete:\n    enabled: true\n\
         http:\n  addr: {address}\n"
    )
}

fn announced_address(stdout: &Path) -> Result<SocketAddr> {
    let said = std::fs::read_to_string(stdout)?;
    let (_, rest) = said.split_once("listening on http://").context("not listening yet")?;
    let (address, _) = rest.split_once(char::is_whitespace).context("a line not yet written")?;
    Ok(address.trim_end_matches('/').parse()?)
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

fn under_strace(command: &Command, record: &Path) -> Command {
    let mut traced = Command::new("strace");
    // -D keeps the server our child, so that ending it works as without strace.
    traced.args(["-D", "-f", "-q", "-e", SYNC_CALLS, "-e", "signal=none", "-o"]).arg(record);
    traced.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    traced
}
