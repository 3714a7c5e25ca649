//! Servers under load: started with fresh data, asked whether they are there, ended with their data.

mod identities;
mod kinds;
mod settings;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use tempfile::TempDir;

pub use self::identities::{AUDIENCE, Identities};
pub use self::kinds::{Kind, in_path};
use crate::backing::Place;
use crate::client::Connection;
use crate::payload::Payload;
use crate::process::Process;
use crate::share::Share;

const START_LIMIT: Duration = Duration::from_secs(30);
/// How often a server that starts is asked whether it is there.
const ASKED_EVERY: Duration = Duration::from_millis(1);
const SYNC_CALLS: &str = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync";

/// A running server with data of its own; both end with this value.
pub struct Server {
    pub kind: Kind,
    /// Of each replica.
    pub addresses: Vec<SocketAddr>,
    /// Who may ask it, if not everybody.
    pub identities: Option<Identities>,
    place: Place,
    children: Vec<Child>,
    shares: Vec<Share>,
    directory: TempDir,
}

impl Server {
    /// Starts a server with empty data under `parent`, and the rest of its data in `place`, and waits until
    /// it answers.
    pub async fn start(kind: Kind, parent: &Path, place: Place, with_identities: bool) -> Result<Self> {
        let mut server = Self::prepare(kind, parent, place, with_identities)?;
        server.launch().await?;
        Ok(server)
    }

    /// As [`Server::start`], with its sync calls recorded by strace.
    pub async fn start_traced(kind: Kind, parent: &Path) -> Result<Self> {
        ensure!(in_path("strace").is_some(), "strace is not installed: run scripts/install-bench-tools");
        let mut server = Self::prepare(kind, parent, Place::default(), false)?;
        let (command, address) = settings::command(kind, server.directory.path(), &server.place, None)?;
        let command = under_strace(&command, &server.directory.path().join("syncs"));
        server.spawn(command, address).await?;
        Ok(server)
    }

    fn prepare(kind: Kind, parent: &Path, place: Place, with_identities: bool) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("registry-").tempdir_in(parent)?;
        let identities = with_identities.then(|| Identities::write(directory.path())).transpose()?;
        Ok(Self {
            kind,
            addresses: Vec::new(),
            identities,
            place,
            children: Vec::new(),
            shares: Vec::new(),
            directory,
        })
    }

    /// Starts its processes, which do not run, over the data that is there.
    pub async fn launch(&mut self) -> Result<()> {
        for _ in 0..self.kind.replicas() {
            let (command, address) =
                settings::command(self.kind, self.directory.path(), &self.place, self.identities.as_ref())?;
            self.spawn(command, address).await?;
        }
        Ok(())
    }

    /// Ends its processes; the data stays. What they have not written by now, they lose.
    pub fn stop(&mut self) {
        for child in &mut self.children {
            // nginx ends its workers at this signal, and leaves them behind at the other; and a program that records
            // what it does writes that down when it ends by itself.
            if self.kind == Kind::Nginx || std::env::var_os("LLVM_PROFILE_FILE").is_some() {
                let _ = Command::new("kill").arg(child.id().to_string()).status();
            } else {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
        self.children.clear();
        self.shares.clear();
        self.addresses.clear();
    }

    async fn spawn(&mut self, mut command: Command, address: Option<SocketAddr>) -> Result<()> {
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(self.output("stdout", self.children.len()))?)
            .stderr(File::create(self.output("stderr", self.children.len()))?)
            .spawn()
            .with_context(|| format!("start {}", self.kind.name()))?;
        let share = self.place.share.map(|percent| Share::limit(child.id(), percent));
        self.children.push(child);
        self.shares.extend(share.transpose()?);
        self.addresses.push(address.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
        self.await_answer().await
    }

    /// The address of the first replica.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Its processes, and those they have started.
    pub fn processes(&self) -> Vec<Process> {
        let with_children = |child: &Child| {
            let process = Process(child.id());
            std::iter::once(process).chain(process.children())
        };
        self.children.iter().flat_map(with_children).collect()
    }

    /// The name of its bucket, if it has one.
    pub fn bucket(&self) -> Option<String> {
        self.place.bucket.as_ref().map(|bucket| bucket.name.clone())
    }

    /// The folder with its data.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
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
        let said = (0..self.children.len().max(1))
            .map(|index| std::fs::read_to_string(self.output("stderr", index)).unwrap_or_default());
        let said = said.collect::<String>();
        let lines: Vec<_> = said.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn output(&self, name: &str, index: usize) -> PathBuf {
        self.directory.path().join(format!("{name}-{index}"))
    }

    async fn await_answer(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if self.is_ready().await.is_ok() {
                return Ok(());
            }
            let last = self.children.len() - 1;
            if let Some(status) = self.children[last].try_wait()? {
                bail!("{} ended with {status}: {}", self.kind.name(), self.last_words());
            }
            if started.elapsed() > START_LIMIT {
                bail!("{} does not answer: {}", self.kind.name(), self.last_words());
            }
            tokio::time::sleep(ASKED_EVERY).await;
        }
    }

    async fn is_ready(&mut self) -> Result<()> {
        let last = self.children.len() - 1;
        if self.addresses[last].port() == 0 {
            self.addresses[last] = announced_address(&self.output("stdout", last))?;
        }
        let mut connection = Connection::open(self.addresses[last]).await?;
        let answer = connection.send(Method::GET, "/v2/", None, Payload::empty()).await?;
        answer.require(if self.identities.is_some() { 401 } else { 200 })?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its data goes too: there is nothing to shut down in order for.
        self.stop();
    }
}

fn announced_address(stdout: &Path) -> Result<SocketAddr> {
    let said = std::fs::read_to_string(stdout)?;
    let (_, rest) = said.split_once("listening on http://").context("not listening yet")?;
    let (address, _) = rest.split_once(char::is_whitespace).context("a line not yet written")?;
    Ok(address.trim_end_matches('/').parse()?)
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
