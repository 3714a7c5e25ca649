//! A normal load beside uploads of which nothing more comes.

use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use http::Method;

use super::ask::{self, Questions};
use super::{Load, Play, Stage};
use crate::Plan;
use crate::client::Connection;
use crate::flows;
use crate::images::Blob;
use crate::measure::Tally;
use crate::payload::Payload;

const REPOSITORY: &str = "bench/silent";
/// What each has sent before it falls silent.
const SENT_BYTES: usize = 64 * 1024;
const CHECKED: usize = 16;

/// Requests, and clients that are in the middle of a PATCH.
pub struct HalfOpen {
    asked: Questions,
    blob: Blob,
    wanted: usize,
    silent: Vec<Connection>,
}

impl HalfOpen {
    pub async fn prepare(stage: &mut Stage, plan: &Plan) -> Result<Self> {
        let asked = ask::manifests(Load::ManifestGetTag, stage, plan).await?;
        let blob = Blob::new(stage.factory.noise(SENT_BYTES));
        Ok(Self { asked, blob, wanted: plan.half_open, silent: Vec::new() })
    }
}

#[async_trait]
impl Play for HalfOpen {
    async fn stock(&mut self, stage: &mut Stage, share: f64) -> Result<()> {
        // The warm-up is of the normal load alone; a round begins with new ones, before any is given up.
        self.silent.clear();
        if share < 1.0 {
            return Ok(());
        }
        for _ in 0..self.wanted {
            let mut connection = Connection::open(stage.server.address()).await?;
            let location = flows::open_upload(&mut connection, REPOSITORY).await?;
            let body = Payload::open(self.blob.bytes.clone());
            connection.send_only(&Method::PATCH, &location, flows::BYTES_TYPE, body).await?;
            self.silent.push(connection);
        }
        Ok(())
    }

    async fn run(&mut self, stage: &mut Stage, lasting: Duration) -> Result<Tally> {
        self.asked.run(stage, lasting).await
    }

    async fn check(&mut self, _stage: &mut Stage) -> Result<()> {
        // They were alive all the time: some of them end as any other upload.
        for connection in self.silent.iter_mut().take(CHECKED) {
            connection.send_raw(b"0\r\n\r\n").await?;
            let answer = connection.answer(false).await?;
            let location = flows::closing(&answer.require(202)?.location()?, &self.blob.digest);
            let answer = connection.send(Method::PUT, &location, None, Payload::whole(Bytes::new())).await?;
            answer.require(201)?.require_digest(&self.blob.digest).context("a silent upload")?;
        }
        self.silent.clear();
        Ok(())
    }
}
