//! Blobs of one repository, mounted into others.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use http::Method;

use super::ask::{self, Body, Question};
use super::{Play, Stage};
use crate::Plan;
use crate::client::request_bytes;
use crate::images::Blob;
use crate::measure::Tally;

const SOURCE: &str = "bench/base";
const MOST: usize = 200_000;

/// Blobs that are there, and the last run's mounts of them.
pub struct Mounts {
    blobs: Vec<Blob>,
    always_new: bool,
    targets: usize,
    questions: Arc<[Question]>,
    per_second: f64,
}

impl Mounts {
    pub async fn prepare(always_new: bool, stage: &mut Stage, plan: &Plan) -> Result<Self> {
        let blobs = ask::push_blobs(stage, SOURCE, plan.prepared * 2).await?;
        let per_second = if plan.quick { 4000.0 } else { 20_000.0 };
        Ok(Self { blobs, always_new, targets: 0, questions: Arc::new([]), per_second })
    }

    /// Mounts of every blob into a repository that has none of them.
    fn mounts(&mut self, stage: &Stage) -> Result<Vec<Question>> {
        self.targets += 1;
        let question = |blob: &Blob| {
            let path = format!(
                "/v2/bench/target-{:05}/blobs/uploads/?mount={}&from={SOURCE}",
                self.targets, blob.digest
            );
            Ok(Question {
                request: request_bytes(stage.server.address(), &Method::POST, &path, None)?,
                status: 201,
                digest: Some(blob.digest.clone()),
                body: Body::Any,
            })
        };
        self.blobs.iter().map(question).collect()
    }
}

#[async_trait]
impl Play for Mounts {
    async fn stock(&mut self, stage: &mut Stage, share: f64) -> Result<()> {
        if !self.always_new {
            if self.questions.is_empty() {
                self.questions = self.mounts(stage)?.into();
            }
            return Ok(());
        }
        let wanted = (self.per_second * stage.lasting.mul_f64(share).as_secs_f64() * 1.5).ceil();
        let wanted = format!("{wanted:.0}").parse().unwrap_or(MOST).min(MOST);
        let mut questions = Vec::new();
        while questions.len() < wanted.max(stage.clients) {
            questions.append(&mut self.mounts(stage)?);
        }
        self.questions = questions.into();
        Ok(())
    }

    async fn run(&mut self, stage: &mut Stage, lasting: Duration) -> Result<Tally> {
        let tally = if self.always_new {
            ask::ask_once(stage, &self.questions, lasting).await?
        } else {
            ask::ask(stage, &self.questions, lasting).await?
        };
        self.per_second = tally.units / tally.lasted.as_secs_f64();
        Ok(tally)
    }
}
