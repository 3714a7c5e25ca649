//! Pages of long lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::ask::{Body, Question, Questions};
use super::{Play, Stage, fill};
use crate::client::{Connection, request_bytes};
use crate::flows::{self, Pusher};
use crate::images::{Blob, Image, MANIFEST_TYPE};
use crate::measure::{Tally, Worker, drive};
use crate::payload::Payload;

const PAGE: usize = 100;
/// How long it may take to push a list.
const FILL_LIMIT: Duration = Duration::from_mins(1);

#[derive(Deserialize)]
struct Names {
    #[serde(alias = "tags", alias = "repositories")]
    names: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

/// A page of tags from the middle of one repository's.
pub async fn tags(stage: &mut Stage, count: usize) -> Result<Questions> {
    let can_be_filled = stage.server.kind.is_berth() || stage.server.kind.is_distribution();
    let count = if can_be_filled {
        fill::tags(stage, count).await?;
        count
    } else {
        push_tags(stage, count).await?
    };
    let last = fill::tag(count / 2);
    let path = format!("/v2/{}/tags/list?n={PAGE}&last={last}", fill::REPOSITORY);
    page(stage, &path, count, fill::tag).await
}

/// A page of repositories from the middle of all.
pub async fn catalog(stage: &mut Stage, count: usize) -> Result<Questions> {
    fill::repositories(stage, count).await?;
    let path = format!("/v2/_catalog?n={PAGE}&last={}", fill::repository(count / 2));
    page(stage, &path, count, fill::repository).await
}

/// Asks for the page after the middle once; it is then asked for again and again.
async fn page(stage: &Stage, path: &str, count: usize, name: fn(usize) -> String) -> Result<Questions> {
    let address = stage.server.address();
    let mut connection = Connection::open(address).await?;
    let answer = connection.send(Method::GET, path, None, Payload::empty()).await?.require(200)?;
    let body = Bytes::copy_from_slice(answer.body);
    let mut found = serde_json::from_slice::<Names>(&body)?.names;
    let is_paged = found.len() == PAGE;
    let expected = if is_paged { count / 2 + 1..=count / 2 + PAGE } else { 1..=count };
    if !is_paged {
        found.sort_unstable();
    }
    if !found.iter().cloned().eq(expected.map(name)) {
        bail!("GET {path}: {} names that are neither the page nor all", found.len());
    }
    // A list that is not paged need not be sorted either.
    let body = if is_paged { Body::Exactly(body) } else { Body::Any };
    let request = request_bytes(address, &Method::GET, path, None)?;
    let question = Question { request, status: 200, digest: None, body };
    let remark = format!("it ignores `n` and `last` and answers with all {count}");
    Ok(Questions::new(vec![question], (!is_paged).then_some(remark)))
}

/// Tags one image many times; returns how many tags there are.
async fn push_tags(stage: &mut Stage, count: usize) -> Result<usize> {
    let image = Image { repository: fill::REPOSITORY.to_owned(), tag: fill::tag(1), ..stage.factory.image() };
    let mut connection = Connection::open(stage.server.address()).await?;
    flows::push_image(&mut connection, &image, Pusher::Containerd).await?;
    let manifests = (2..=count).map(|number| (fill::tag(number), image.manifest.clone())).collect();
    push_manifests(stage, manifests).await?;
    Ok(count)
}

async fn push_manifests(stage: &Stage, manifests: Vec<(String, Blob)>) -> Result<()> {
    let (manifests, next) = (Arc::new(manifests), Arc::new(AtomicUsize::new(0)));
    let work = |mut worker: Worker| {
        let (manifests, next) = (Arc::clone(&manifests), Arc::clone(&next));
        async move {
            while worker.goes_on()
                && let Some((reference, manifest)) = manifests.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let path = flows::manifest_path(fill::REPOSITORY, reference);
                flows::put_manifest(&mut worker.connection, &path, manifest).await?;
            }
            Ok(0)
        }
    };
    drive(&stage.server.addresses, stage.clients, FILL_LIMIT, work).await?;
    let pushed = next.load(Ordering::Relaxed).min(manifests.len());
    ensure!(pushed == manifests.len(), "only {pushed} of {} are pushed in {FILL_LIMIT:?}", manifests.len());
    Ok(())
}

/// Pages of the referrers of one manifest.
pub struct Referrers {
    pages: Arc<[Question]>,
}

impl Referrers {
    pub async fn prepare(stage: &mut Stage, count: usize, all: bool) -> Result<Self> {
        let subject = if stage.server.kind.is_berth() {
            fill::referrers(stage, count).await?;
            fill::SUBJECT.to_owned()
        } else {
            push_referrers(stage, count).await?
        };
        let address = stage.server.address();
        let mut connection = Connection::open(address).await?;
        let (mut pages, mut digests) = (Vec::new(), Vec::new());
        let mut next = Some(format!("/v2/{}/referrers/{subject}", fill::REPOSITORY));
        while let Some(path) = next {
            let answer = connection.send(Method::GET, &path, None, Payload::empty()).await?.require(200)?;
            let body = Bytes::copy_from_slice(answer.body);
            next = answer.next_page()?;
            let index: Index = serde_json::from_slice(&body)?;
            digests.extend(index.manifests.into_iter().map(|descriptor| descriptor.digest));
            let request = request_bytes(address, &Method::GET, &path, None)?;
            pages.push(Question { request, status: 200, digest: None, body: Body::Exactly(body) });
        }
        digests.sort_unstable();
        digests.dedup();
        ensure!(digests.len() == count, "{} of {count} referrers were listed", digests.len());
        pages.truncate(if all { usize::MAX } else { 1 });
        Ok(Self { pages: pages.into() })
    }
}

#[async_trait]
impl Play for Referrers {
    async fn run(&mut self, stage: &mut Stage, lasting: Duration) -> Result<Tally> {
        let work = |mut worker: Worker| {
            let pages = Arc::clone(&self.pages);
            async move {
                let mut done = 0;
                while worker.goes_on() {
                    for page in pages.iter() {
                        page.check(worker.connection.ask(&page.request).await?)?;
                    }
                    done += 1;
                }
                Ok(done)
            }
        };
        drive(&stage.server.addresses, stage.clients, lasting, work).await
    }
}

/// Pushes an image and manifests whose subject it is; returns its digest.
async fn push_referrers(stage: &mut Stage, count: usize) -> Result<String> {
    let image = Image { repository: fill::REPOSITORY.to_owned(), ..stage.factory.image() };
    let mut connection = Connection::open(stage.server.address()).await?;
    flows::push_image(&mut connection, &image, Pusher::Containerd).await?;
    let config = Blob::new(Bytes::from_static(b"{}"));
    flows::push_blob(&mut connection, fill::REPOSITORY, &config, Pusher::Containerd).await?;
    let empty = json!({
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": config.digest,
        "size": config.bytes.len(),
    });
    let referrer = |number: usize| {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": "application/vnd.dev.cosign.artifact.sig.v1+json",
            "config": empty,
            "layers": [empty],
            "subject": {
                "mediaType": MANIFEST_TYPE,
                "digest": image.manifest.digest,
                "size": image.manifest.bytes.len(),
            },
            "annotations": { "number": number.to_string() },
        });
        let blob = Blob::new(Bytes::from(manifest.to_string()));
        (blob.digest.clone(), blob)
    };
    push_manifests(stage, (0..count).map(referrer).collect()).await.context("referrers")?;
    Ok(image.manifest.digest)
}
