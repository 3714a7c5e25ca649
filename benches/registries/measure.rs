//! Workers that repeat one thing until the time is up, and what that took.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::client::Connection;
use crate::process::Process;
use crate::servers::Server;

/// The longest that is told apart, in microseconds.
const LONGEST_US: u64 = 600_000_000;

type Record = Arc<Mutex<Histogram<u32>>>;

/// One of the concurrent clients of a load.
pub struct Worker {
    pub connection: Connection,
    ends_at: Instant,
    begun: Option<Instant>,
    record: Record,
}

impl Worker {
    /// Whether there is time for another round of work. What was done since the last call is one operation.
    pub fn goes_on(&mut self) -> bool {
        let now = Instant::now();
        if let Some(begun) = self.begun.take() {
            record(&self.record, now - begun);
        }
        self.begun = (now < self.ends_at).then_some(now);
        self.begun.is_some()
    }
}

/// How long one operation took.
#[derive(Clone, Copy)]
pub struct Latency {
    /// Half of them took no longer.
    pub median: Duration,
    /// Of a hundred, 99 took no longer.
    pub most: Duration,
}

impl Latency {
    /// Where all took the same.
    pub fn of_one(took: Duration) -> Self {
        Self { median: took, most: took }
    }

    /// Sums up operations.
    pub fn of(times: &[Duration]) -> Option<Self> {
        let histogram = histogram().ok()?;
        for took in times {
            record(&histogram, *took);
        }
        Self::read(&histogram)
    }

    fn read(histogram: &Record) -> Option<Self> {
        let histogram = histogram.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Self { median: at(0.5), most: at(0.99) })
    }
}

fn histogram() -> Result<Record> {
    Ok(Arc::new(Mutex::new(Histogram::new_with_bounds(1, LONGEST_US, 2)?)))
}

fn record(histogram: &Record, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST_US);
    histogram.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
}

/// What a run of a load did.
#[derive(Clone, Copy)]
pub struct Tally {
    pub units: f64,
    pub lasted: Duration,
    pub latency: Option<Latency>,
    /// From the last byte of a large push to its 201.
    pub commit: Option<Duration>,
    /// The servers' processor time, where the run itself has to count it.
    pub server_cpu_seconds: Option<f64>,
}

impl Tally {
    /// What was done in a time.
    pub fn new(units: f64, lasted: Duration, latency: Option<Latency>) -> Self {
        Self { units, lasted, latency, commit: None, server_cpu_seconds: None }
    }
}

/// A run of a load and what it took.
#[derive(Clone, Copy)]
pub struct Sample {
    pub units_per_second: f64,
    pub server_cpu_seconds_per_unit: f64,
    pub server_peak_bytes: u64,
    /// The load generator's processor time over the run's time: near 1, it was itself the limit.
    pub client_share: f64,
    pub latency: Option<Latency>,
    pub commit: Option<Duration>,
}

/// Has `workers` clients do `work` for about `lasting`: what was begun is finished and counted. Where there
/// are several addresses, the clients are spread over them.
pub async fn drive<Work, Done>(
    addresses: &[SocketAddr],
    workers: usize,
    lasting: Duration,
    work: Work,
) -> Result<Tally>
where
    Work: Fn(Worker) -> Done,
    Done: Future<Output = Result<u64>> + Send + 'static,
{
    let mut connections = Vec::new();
    for address in addresses.iter().cycle().take(workers) {
        connections.push(Connection::open(*address).await?);
    }
    let record = histogram()?;
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for connection in connections {
        let record = Arc::clone(&record);
        tasks.spawn(work(Worker { connection, ends_at: started + lasting, begun: None, record }));
    }
    let mut units = 0.0;
    while let Some(done) = tasks.join_next().await {
        units += count(done??);
    }
    Ok(Tally::new(units, started.elapsed(), Latency::read(&record)))
}

/// What a server and this program had used when a run began.
pub struct Meter {
    server: Vec<Process>,
    server_cpu: f64,
    client_cpu: f64,
}

impl Meter {
    /// Reads the counters before a run.
    pub fn start(server: &Server) -> Result<Self> {
        let server = server.processes();
        for process in &server {
            process.forget_peak()?;
        }
        let server_cpu = cpu_seconds(&server)?;
        Ok(Self { server, server_cpu, client_cpu: Process::current().cpu_seconds()? })
    }

    /// Reads them again after it.
    pub fn stop(self, server: &Server, tally: &Tally) -> Result<Sample> {
        let server_cpu = match tally.server_cpu_seconds {
            Some(counted) => counted,
            None => cpu_seconds(&self.server)? - self.server_cpu,
        };
        let client_cpu = Process::current().cpu_seconds()? - self.client_cpu;
        let seconds = tally.lasted.as_secs_f64();
        let peaks = server.processes().into_iter().map(Process::peak_bytes);
        Ok(Sample {
            units_per_second: tally.units / seconds,
            server_cpu_seconds_per_unit: server_cpu / tally.units,
            server_peak_bytes: peaks.sum::<Result<_>>()?,
            client_share: client_cpu / seconds,
            latency: tally.latency,
            commit: tally.commit,
        })
    }
}

fn cpu_seconds(processes: &[Process]) -> Result<f64> {
    processes.iter().map(|process| process.cpu_seconds()).sum()
}

/// A count as a figure to divide by.
pub fn count(units: u64) -> f64 {
    // Counts of a run are far below 2^32.
    f64::from(u32::try_from(units).unwrap_or(u32::MAX))
}
