//! A berth of the test's own: the real binary on a free port of 127.0.0.1, with data of its own.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    Repository,
    objects::{Objects, Storage},
    postgres::Postgres,
    process::{self, PATIENCE, Process},
    run,
    tls::Tls,
};

const LISTENING: &str = "Berth is listening on ";

/// Where the server under test keeps its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

impl Database {
    /// What `TEST_DATABASE` says, for a run of all tests over one of the two.
    pub fn of_the_run() -> Self {
        Self::chosen().unwrap_or(Self::Sqlite)
    }

    /// Both, for tests that are run over each; one where the run is about that one.
    pub fn each() -> Vec<Self> {
        Self::chosen().map_or(vec![Self::Sqlite, Self::Postgres], |one| vec![one])
    }

    fn chosen() -> Option<Self> {
        match env::var("TEST_DATABASE").as_deref() {
            Err(_) | Ok("") => None,
            Ok("sqlite") => Some(Self::Sqlite),
            Ok("postgres") => Some(Self::Postgres),
            Ok(other) => panic!("TEST_DATABASE is {other}, not sqlite or postgres"),
        }
    }
}

/// A running `berth serve`. It is killed when this value is dropped, and its data removed.
pub struct Server {
    setup: Builder,
    config: PathBuf,
    process: Process,
    host: String,
    objects: Objects,
    // Last, so that it goes after the process that writes into it.
    folder: TempDir,
}

/// What a server is started with.
pub struct Builder {
    config: String,
    tls: Option<Tls>,
    /// None where the configuration names one that is there already.
    database: Option<Database>,
    place: Place,
    environment: Vec<(OsString, OsString)>,
    arguments: Vec<OsString>,
}

/// Where a server's objects will be.
enum Place {
    Fresh(Storage),
    /// In a store that the configuration names.
    Given(Objects),
}

/// The command `berth`, with the run's environment, for its other subcommands.
pub fn berth() -> Command {
    run::command(env!("CARGO_BIN_EXE_berth"))
}

/// The command `berth-credential-provider`, which a build of the workspace leaves beside `berth`.
pub fn provider() -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_berth")).with_file_name("berth-credential-provider");
    assert!(program.exists(), "berth-credential-provider is missing (cargo build --workspace)");
    run::command(program)
}

impl Server {
    /// Starts a server without configuration.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    pub fn builder() -> Builder {
        Builder {
            config: String::new(),
            tls: None,
            database: Some(Database::of_the_run()),
            place: Place::Fresh(Storage::of_the_run()),
            environment: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// Another process on the same index and the same objects, with data of its own. Only for a server
    /// that has neither in its data folder.
    pub fn beside(&self) -> Builder {
        Builder {
            config: self.setup.config.clone(),
            tls: None,
            database: None,
            place: Place::Given(self.objects.clone()),
            environment: Vec::new(),
            arguments: self.setup.arguments.clone(),
        }
    }

    /// The address without a path: `http://127.0.0.1:PORT`, or `https://` of a server that speaks TLS.
    pub fn url(&self) -> String {
        let scheme = if self.setup.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.host)
    }

    /// The certificates of a server that speaks TLS.
    pub fn tls(&self) -> &Tls {
        self.setup.tls.as_ref().expect("the server speaks TLS")
    }

    /// A client of this server.
    pub fn client(&self) -> reqwest::Client {
        match &self.setup.tls {
            None => super::http(),
            Some(tls) => tls.client().build().expect("a client that trusts one authority"),
        }
    }

    /// The address as it stands in an image name: `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A repository of this server, for requests of the test's own.
    pub fn repository(&self, name: &str) -> Repository {
        Repository::through(self.client(), &self.url(), name)
    }

    /// The folder with the server's data.
    pub fn data(&self) -> PathBuf {
        data(&self.folder)
    }

    /// The server's objects, behind its back.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The configuration file the server was started with.
    pub fn config(&self) -> &Path {
        &self.config
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Everything the server has printed and logged since it was last started.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// Waits until the server has printed or logged a text.
    pub async fn until_said(&self, text: &str) {
        self.process.until(text, |said| said.contains(text).then_some(())).await;
    }

    /// Memory the server holds now, from the kernel.
    pub fn rss_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory the server has ever held, from the kernel.
    pub fn peak_rss_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Ends the server at once, as a crash would (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks the server to stop (SIGTERM) and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.process.terminate().await
    }

    /// Sends a signal by its name and does not wait, for example `TERM`.
    pub fn signal(&mut self, name: &str) {
        self.process.signal(name);
    }

    /// Waits until the server ends by itself.
    pub async fn end(&mut self) -> ExitStatus {
        self.process.end(PATIENCE).await
    }

    /// Starts the server again on the same data, as it was started first but for the port; kills it
    /// before, if it still runs.
    pub async fn restart(&mut self) {
        self.kill();
        (self.process, self.host) = self.setup.launch(&data(&self.folder), &self.config).await;
    }

    /// As [`Self::restart`], with another environment from now on.
    pub async fn restart_with(&mut self, environment: &[(&str, &str)]) {
        self.setup.environment =
            environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        self.restart().await;
    }

    fn memory(&self, field: &str) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server is running");
        let line =
            status.lines().find(|line| line.starts_with(field)).expect("the kernel says how much memory");
        let kibibytes = line.split_whitespace().nth(1).expect("a number follows");
        kibibytes.parse::<u64>().expect("it is a number") * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            eprintln!("{} said:\n{}", self.host, self.process.said());
        }
    }
}

impl Builder {
    /// Appends to the text of the configuration file. Without any text there is no file.
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// Where the index is kept; PostgreSQL is a database of the server's own in the run's cluster.
    pub fn database(mut self, database: Database) -> Self {
        self.database = Some(database);
        self
    }

    /// Keeps the index in a database that is there already.
    pub fn index(mut self, url: &str) -> Self {
        self.database = None;
        self.config(&format!("[database]\nurl = \"{url}\""))
    }

    /// Where the objects are kept, whatever the run says; a bucket is the server's own.
    pub fn storage(mut self, storage: Storage) -> Self {
        self.place = Place::Fresh(storage);
        self
    }

    /// Keeps index and objects in the data folder, whatever the run says: for tests of just that.
    pub fn on_disk(self) -> Self {
        self.database(Database::Sqlite).storage(Storage::Filesystem)
    }

    /// Keeps the objects in a store that the test has at hand, and this configuration names.
    pub fn objects(self, objects: Objects, config: &str) -> Self {
        let mut builder = self.config(config);
        builder.place = Place::Given(objects);
        builder
    }

    /// Speaks TLS, with a certificate of a new authority.
    pub fn tls(mut self) -> Self {
        let tls = Tls::new();
        self = self.config(&tls.config());
        self.tls = Some(tls);
        self
    }

    /// Has a clock of its own, as faketime words it: `+45s`, `@2026-11-27 02:30:00`, or `+0 x60` for one that runs
    /// fast. What is timed by how long it takes is timed as always.
    ///
    /// Tests that use it begin with `workbench!("faketime")`.
    pub async fn clock(self, clock: &str) -> Self {
        static LIBRARY: OnceCell<String> = OnceCell::const_new();
        let library = async || {
            let mut list = Command::new("dpkg");
            list.args(["-L", "libfaketime"]);
            let listed = process::run(list).await.text();
            let library = listed.lines().find(|line| line.ends_with("/libfaketimeMT.so.1"));
            library.expect("its library").to_owned()
        };
        let preload = self.env("LD_PRELOAD", LIBRARY.get_or_init(library).await);
        preload.env("TZ", "UTC").env("FAKETIME", clock).env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts the server and waits until it listens.
    pub async fn start(mut self) -> Server {
        if self.database == Some(Database::Postgres) {
            self = self.index(&Postgres::of_the_run().await.fresh_database().await);
        }
        let folder = run::folder("server");
        let objects = match &self.place {
            Place::Given(objects) => objects.clone(),
            Place::Fresh(storage) => {
                let (objects, config) = storage.fresh(&data(&folder)).await;
                if !config.is_empty() {
                    self = self.config(&config);
                }
                objects
            }
        };
        let config = folder.path().join("berth.toml");
        if !self.config.is_empty() {
            fs::write(&config, &self.config).expect("write the configuration");
        }
        let (process, host) = self.launch(&data(&folder), &config).await;
        Server { setup: self, config, process, host, objects, folder }
    }

    async fn launch(&self, data: &Path, config: &Path) -> (Process, String) {
        let mut command = berth();
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        if !self.config.is_empty() {
            command.arg("--config").arg(config);
        }
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        let process = Process::start(command);
        let host = process
            .until("it listens", |said| {
                let line = said.split_once(LISTENING)?.1;
                let address = line.split_once(char::is_whitespace)?.0.trim_end_matches('/');
                Some(address.split_once("://").expect("an address has a scheme").1.to_owned())
            })
            .await;
        (process, host)
    }
}

fn data(folder: &TempDir) -> PathBuf {
    folder.path().join("data")
}
