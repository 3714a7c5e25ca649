//! How soon a server answers after its start.

use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;

use super::{Play, Stage, fill};
use crate::measure::{Latency, Tally, count};
use crate::process::Process;

/// A server that is started again and again.
pub struct Starts;

impl Starts {
    /// With so many manifests.
    pub async fn filled(stage: &mut Stage, manifests: usize) -> Result<Self> {
        fill::images(stage, manifests).await?;
        Ok(Self)
    }
}

#[async_trait]
impl Play for Starts {
    async fn run(&mut self, stage: &mut Stage, lasting: Duration) -> Result<Tally> {
        let began = Instant::now();
        let (mut times, mut cpu_seconds) = (Vec::new(), 0.0);
        while times.is_empty() || began.elapsed() < lasting {
            stage.server.stop();
            let started = Instant::now();
            stage.server.launch().await?;
            times.push(started.elapsed());
            let used = stage.server.processes().into_iter().map(Process::cpu_seconds);
            cpu_seconds += used.sum::<Result<f64>>()?;
        }
        let mut tally = Tally::new(count(times.len() as u64), times.iter().sum(), Latency::of(&times));
        tally.server_cpu_seconds = Some(cpu_seconds);
        Ok(tally)
    }
}
