//! One repository with many tags, and the page in its middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::Plan;
use crate::client::Connection;
use crate::flows::{self, Pusher};
use crate::images::{Factory, Image};
use crate::measure::{Worker, drive};
use crate::payload::Payload;
use crate::servers::Server;

const PAGE: usize = 100;
const FILL_LIMIT: Duration = Duration::from_mins(3);

/// A page of tags, and the body it was answered with once that was found right.
pub struct TagPage {
    path: String,
    body: Bytes,
    tags: usize,
    wanted_tags: usize,
    is_paged: bool,
}

#[derive(Deserialize)]
struct TagList {
    tags: Vec<String>,
}

impl TagPage {
    /// Tags one image many times and asks for the page once.
    pub async fn prepare(server: &Server, factory: &mut Factory, plan: &Plan) -> Result<Self> {
        let image = Arc::new(factory.image());
        let mut connection = Connection::open(server.address).await?;
        flows::push_image(&mut connection, &Image { tag: tag(0), ..(*image).clone() }, Pusher::Containerd)
            .await?;
        let next = Arc::new(AtomicUsize::new(1));
        let wanted_tags = plan.tags.max(4 * PAGE);
        let work = |worker| fill(worker, Arc::clone(&image), Arc::clone(&next), wanted_tags);
        drive(server.address, plan.concurrency, FILL_LIMIT, work).await?;
        let tags = next.load(Ordering::Relaxed).min(wanted_tags);
        ensure!(tags >= 4 * PAGE, "only {tags} tags could be pushed in {FILL_LIMIT:?}");

        let middle = tags / 2;
        let path = format!("/v2/{}/tags/list?n={PAGE}&last={}", image.repository, tag(middle));
        let answer = connection.send(Method::GET, &path, None, Payload::empty()).await?;
        let body = answer.require(StatusCode::OK)?.body;
        let list: TagList = serde_json::from_slice(&body)?;
        let is_paged = list.tags.len() == PAGE;
        let first = if is_paged { middle + 1 } else { 0 };
        let expected = if is_paged { PAGE } else { tags };
        let mut found = list.tags;
        if !is_paged {
            found.sort_unstable();
        }
        if !found.iter().cloned().eq((first..first + expected).map(tag)) {
            bail!("GET {path}: {} tags that are neither the page nor all tags", found.len());
        }
        Ok(Self { path, body, tags, wanted_tags, is_paged })
    }

    /// Asks for the page until the time is up.
    pub async fn ask(self: Arc<Self>, mut worker: Worker) -> Result<u64> {
        let mut answered = 0;
        while worker.goes_on() {
            let answer = worker.connection.send(Method::GET, &self.path, None, Payload::empty()).await?;
            let answer = answer.require(StatusCode::OK)?;
            // A list that is not paged need not be sorted either.
            if self.is_paged {
                answer.require_body(&self.body)?;
            } else {
                ensure!(answer.body.len() == self.body.len(), "GET {}: another length", self.path);
            }
            answered += 1;
        }
        Ok(answered)
    }

    /// What is unusual about this server's answer.
    pub fn remark(&self) -> Option<String> {
        let mut remarks = Vec::new();
        if !self.is_paged {
            remarks.push(format!("it ignores `n` and `last` and answers with all {} tags", self.tags));
        }
        if self.tags < self.wanted_tags {
            remarks.push(format!("{} tags only, as many as {FILL_LIMIT:?} allowed to push", self.tags));
        }
        (!remarks.is_empty()).then(|| remarks.join("; "))
    }
}

async fn fill(mut worker: Worker, image: Arc<Image>, next: Arc<AtomicUsize>, tags: usize) -> Result<u64> {
    let mut pushed = 0;
    while worker.goes_on() {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= tags {
            break;
        }
        let path = format!("/v2/{}/manifests/{}", image.repository, tag(number));
        flows::put_manifest(&mut worker.connection, &path, &image.manifest).await?;
        pushed += 1;
    }
    Ok(pushed)
}

fn tag(number: usize) -> String {
    format!("build-{number:06}")
}
