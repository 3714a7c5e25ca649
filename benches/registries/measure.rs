//! Workers that repeat one thing until the time is up, and what that took.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::client::Connection;
use crate::process::Process;
use crate::servers::Server;

/// One of the concurrent clients of a load.
pub struct Worker {
    pub connection: Connection,
    ends_at: Instant,
}

impl Worker {
    /// Whether there is time for another round of work.
    pub fn goes_on(&self) -> bool {
        Instant::now() < self.ends_at
    }
}

/// What a run of a load did.
#[derive(Clone, Copy)]
pub struct Tally {
    pub units: f64,
    pub lasted: Duration,
    /// From the last byte of a large push to its 201.
    pub commit: Option<Duration>,
}

/// A run of a load and what it took.
#[derive(Clone, Copy)]
pub struct Sample {
    pub units_per_second: f64,
    pub server_cpu_seconds_per_unit: f64,
    pub server_peak_bytes: u64,
    /// The load generator's processor time over the run's time: near 1, it was itself the limit.
    pub client_share: f64,
    pub commit: Option<Duration>,
}

/// Has `workers` clients do `work` for about `lasting`: what was begun is finished and counted.
pub async fn drive<Work, Done>(
    address: SocketAddr,
    workers: usize,
    lasting: Duration,
    work: Work,
) -> Result<Tally>
where
    Work: Fn(Worker) -> Done,
    Done: Future<Output = Result<u64>> + Send + 'static,
{
    let mut connections = Vec::new();
    for _ in 0..workers {
        connections.push(Connection::open(address).await?);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn(work(Worker { connection, ends_at: started + lasting }));
    }
    let mut units = 0.0;
    while let Some(done) = tasks.join_next().await {
        units += count(done??);
    }
    Ok(Tally { units, lasted: started.elapsed(), commit: None })
}

/// What a server and this program had used when a run began.
pub struct Meter {
    server: Process,
    server_cpu: f64,
    client_cpu: f64,
}

impl Meter {
    /// Reads the counters before a run.
    pub fn start(server: &Server) -> Result<Self> {
        let server = server.process();
        server.forget_peak()?;
        Ok(Self { server, server_cpu: server.cpu_seconds()?, client_cpu: Process::current().cpu_seconds()? })
    }

    /// Reads them again after it.
    pub fn stop(self, tally: &Tally) -> Result<Sample> {
        let server_cpu = self.server.cpu_seconds()? - self.server_cpu;
        let client_cpu = Process::current().cpu_seconds()? - self.client_cpu;
        let seconds = tally.lasted.as_secs_f64();
        Ok(Sample {
            units_per_second: tally.units / seconds,
            server_cpu_seconds_per_unit: server_cpu / tally.units,
            server_peak_bytes: self.server.peak_bytes()?,
            client_share: client_cpu / seconds,
            commit: tally.commit,
        })
    }
}

/// A count as a figure to divide by.
pub fn count(units: u64) -> f64 {
    // Counts of a run are far below 2^32.
    f64::from(u32::try_from(units).unwrap_or(u32::MAX))
}
