//! The loads: what each prepares at a fresh server, what it repeats, and how its outcome is checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use http::{Method, StatusCode};

use crate::Plan;
use crate::client::Connection;
use crate::flows::{self, Pusher};
use crate::images::{Factory, Image, LargeBlob};
use crate::measure::{Tally, Worker, count, drive};
use crate::payload::Payload;
use crate::servers::Server;
use crate::tag_pages::TagPage;

const LARGE_REPOSITORY: &str = "bench/large";
const MIBIBYTE: u64 = 1024 * 1024;
const PREPARED_IMAGES: usize = 128;
const MOST_IMAGES: usize = 40_000;
const CHECKED_IMAGES: usize = 20;
const EIGHT: usize = 8;

/// A load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Load {
    /// Small images, pushed as docker does
    PushDocker,
    /// Small images, pushed as containerd does
    PushContainerd,
    /// One large layer, pushed as docker does
    PushLarge,
    /// One huge layer, pushed as docker does, once
    PushHuge,
    /// Eight layers, each an eighth of a large one, pushed at once
    PushEight,
    /// One large layer, pulled by one client
    PullLarge,
    /// One large layer, pulled by four clients at once
    PullLargeFour,
    /// Manifests by tag
    ManifestGetTag,
    /// Manifests by tag, HEAD
    ManifestHeadTag,
    /// Manifests by digest
    ManifestGetDigest,
    /// Manifests by digest, HEAD
    ManifestHeadDigest,
    /// Small images: manifest by tag, config, two layers
    PullImages,
    /// A page of 100 tags from the middle
    TagPages,
}

/// What a load counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Images,
    Mebibytes,
    Requests,
}

impl Load {
    /// What it is called in the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::PushDocker => "push of small images, as docker",
            Self::PushContainerd => "push of small images, as containerd",
            Self::PushLarge => "push of a large layer",
            Self::PushHuge => "push of a huge layer",
            Self::PushEight => "push of 8 layers at once",
            Self::PullLarge => "pull of a large layer, 1 client",
            Self::PullLargeFour => "pull of a large layer, 4 clients",
            Self::ManifestGetTag => "manifest GET by tag",
            Self::ManifestHeadTag => "manifest HEAD by tag",
            Self::ManifestGetDigest => "manifest GET by digest",
            Self::ManifestHeadDigest => "manifest HEAD by digest",
            Self::PullImages => "pull of small images",
            Self::TagPages => "page of 100 tags from the middle",
        }
    }

    /// What it counts.
    pub fn unit(self) -> Unit {
        match self {
            Self::PushDocker | Self::PushContainerd | Self::PullImages => Unit::Images,
            Self::PushLarge | Self::PushHuge | Self::PushEight | Self::PullLarge | Self::PullLargeFour => {
                Unit::Mebibytes
            }
            Self::ManifestGetTag
            | Self::ManifestHeadTag
            | Self::ManifestGetDigest
            | Self::ManifestHeadDigest
            | Self::TagPages => Unit::Requests,
        }
    }

    /// How many rounds it is given.
    pub fn rounds(self, plan: &Plan) -> u32 {
        // What takes minutes, at some servers, is not worth more.
        if self == Self::PushHuge { 1 } else { plan.rounds }
    }
}

/// A load at a server that is prepared for it.
pub struct Scene {
    pub server: Server,
    load: Load,
    concurrency: usize,
    lasting: Duration,
    factory: Factory,
    content: Content,
}

enum Content {
    /// New images are made for every run; these are the last run's, and how many a second were pushed.
    Pushed {
        pusher: Pusher,
        images: Arc<[Image]>,
        per_second: f64,
    },
    /// A new blob is made for every run; this is the last run's.
    PushedLarge {
        size_bytes: u64,
        blob: Option<LargeBlob>,
    },
    /// New blobs are made for every run; these are the last run's, and each is pushed by a client.
    PushedEight {
        size_bytes: u64,
        blobs: Arc<[LargeBlob]>,
    },
    Images(Arc<[Image]>),
    Manifests {
        method: Method,
        by_tag: bool,
        images: Arc<[Image]>,
    },
    Large(Arc<LargeBlob>),
    Tags(Arc<TagPage>),
}

impl Scene {
    /// Fills a fresh server with what the load needs.
    pub async fn prepare(load: Load, server: Server, plan: &Plan) -> Result<Self> {
        let mut factory = Factory::default();
        let concurrency = match load {
            Load::PushLarge | Load::PushHuge | Load::PullLarge => 1,
            Load::PushEight => EIGHT,
            Load::PullLargeFour => 4,
            _ => plan.concurrency,
        };
        let pushed = |pusher| Content::Pushed { pusher, images: Arc::new([]), per_second: 400.0 };
        let content = match load {
            Load::PushDocker => pushed(Pusher::Docker),
            Load::PushContainerd => pushed(Pusher::Containerd),
            Load::PushLarge => Content::PushedLarge { size_bytes: plan.large_bytes, blob: None },
            Load::PushHuge => Content::PushedLarge { size_bytes: plan.huge_bytes, blob: None },
            Load::PushEight => {
                Content::PushedEight { size_bytes: plan.large_bytes / EIGHT as u64, blobs: Arc::new([]) }
            }
            Load::PullLarge | Load::PullLargeFour => {
                let blob = factory.large_blob(plan.large_bytes);
                let mut connection = Connection::open(server.address).await?;
                flows::push_large(&mut connection, LARGE_REPOSITORY, &blob).await?;
                flows::check_large(&mut connection, LARGE_REPOSITORY, &blob).await?;
                Content::Large(Arc::new(blob))
            }
            Load::PullImages => Content::Images(push_prepared(&server, &mut factory).await?),
            Load::TagPages => Content::Tags(Arc::new(TagPage::prepare(&server, &mut factory, plan).await?)),
            Load::ManifestGetTag
            | Load::ManifestHeadTag
            | Load::ManifestGetDigest
            | Load::ManifestHeadDigest => Content::Manifests {
                method: match load {
                    Load::ManifestGetTag | Load::ManifestGetDigest => Method::GET,
                    _ => Method::HEAD,
                },
                by_tag: matches!(load, Load::ManifestGetTag | Load::ManifestHeadTag),
                images: push_prepared(&server, &mut factory).await?,
            },
        };
        Ok(Self { server, load, concurrency, lasting: plan.lasting, factory, content })
    }

    /// Makes what a run of `share` of a round sends: hashing has no place in the run itself.
    pub fn stock(&mut self, share: f64) {
        match &mut self.content {
            Content::Pushed { images, per_second, .. } => {
                let wanted = (*per_second * self.lasting.mul_f64(share).as_secs_f64() * 1.5).ceil();
                let wanted = format!("{wanted:.0}").parse().unwrap_or(MOST_IMAGES);
                *images = self.factory.images(wanted.clamp(self.concurrency * 2, MOST_IMAGES)).into();
            }
            Content::PushedLarge { size_bytes, blob } => {
                *blob = Some(self.factory.large_blob(less_if_warming(*size_bytes, share)));
            }
            Content::PushedEight { size_bytes, blobs } => {
                let size_bytes = less_if_warming(*size_bytes, share);
                *blobs = (0..EIGHT).map(|_| self.factory.large_blob(size_bytes)).collect();
            }
            Content::Images(_) | Content::Manifests { .. } | Content::Large(_) | Content::Tags(_) => {}
        }
    }

    /// Runs the load for `share` of a round.
    pub async fn run(&mut self, share: f64) -> Result<Tally> {
        let lasting = self.lasting.mul_f64(share);
        let (address, workers) = (self.server.address, self.concurrency);
        let next = Arc::new(AtomicUsize::new(0));
        match &mut self.content {
            Content::Pushed { pusher, images, per_second } => {
                let (pusher, images) = (*pusher, &*images);
                let work = |worker| push_images(worker, Arc::clone(images), Arc::clone(&next), pusher);
                let tally = drive(address, workers, lasting, work).await?;
                *per_second = tally.units / tally.lasted.as_secs_f64();
                Ok(tally)
            }
            Content::PushedLarge { blob, .. } => {
                push_large(address, blob.as_ref().context("nothing in stock")?).await
            }
            Content::PushedEight { blobs, .. } => {
                drive(address, workers, lasting, |worker| {
                    push_one_of(worker, Arc::clone(blobs), Arc::clone(&next))
                })
                .await
            }
            Content::Images(images) => {
                drive(address, workers, lasting, |worker| {
                    pull_images(worker, Arc::clone(images), Arc::clone(&next))
                })
                .await
            }
            Content::Manifests { method, by_tag, images } => {
                let requests: Arc<[_]> =
                    images.iter().map(|image| ManifestRequest::new(method, *by_tag, image)).collect();
                drive(address, workers, lasting, |worker| {
                    ask(worker, Arc::clone(&requests), Arc::clone(&next))
                })
                .await
            }
            Content::Large(blob) => {
                let mut tally =
                    drive(address, workers, lasting, |worker| pull_large(worker, Arc::clone(blob))).await?;
                tally.units *= count(blob.size_bytes / MIBIBYTE);
                Ok(tally)
            }
            Content::Tags(page) => {
                drive(address, workers, lasting, |worker| Arc::clone(page).ask(worker)).await
            }
        }
    }

    /// Reads back what the last run left, where the run itself could not check it.
    pub async fn check(&self) -> Result<()> {
        let mut connection = Connection::open(self.server.address).await?;
        match &self.content {
            Content::Pushed { images, .. } => {
                // The first ones are pushed in any run, however short.
                for image in images.iter().take(CHECKED_IMAGES.min(self.concurrency)) {
                    flows::pull_image(&mut connection, image).await?;
                }
            }
            Content::PushedLarge { blob, .. } => {
                let blob = blob.as_ref().context("nothing was pushed")?;
                flows::check_large(&mut connection, LARGE_REPOSITORY, blob).await?;
            }
            Content::PushedEight { blobs, .. } => {
                for blob in blobs.iter() {
                    flows::check_large(&mut connection, LARGE_REPOSITORY, blob).await?;
                }
            }
            Content::Images(_) | Content::Manifests { .. } | Content::Large(_) | Content::Tags(_) => {}
        }
        Ok(())
    }

    /// What a reader has to know about this server's figures, if anything.
    pub fn remark(&self) -> Option<String> {
        match &self.content {
            Content::Tags(page) => page.remark().map(|remark| format!("{}: {remark}", self.load.title())),
            _ => None,
        }
    }
}

struct ManifestRequest {
    method: Method,
    path: String,
    image: Image,
}

impl ManifestRequest {
    fn new(method: &Method, by_tag: bool, image: &Image) -> Self {
        let reference = if by_tag { &image.tag } else { &image.manifest.digest };
        let path = format!("/v2/{}/manifests/{reference}", image.repository);
        Self { method: method.clone(), path, image: image.clone() }
    }
}

async fn push_prepared(server: &Server, factory: &mut Factory) -> Result<Arc<[Image]>> {
    let mut connection = Connection::open(server.address).await?;
    let images = factory.images(PREPARED_IMAGES);
    for image in &images {
        flows::push_image(&mut connection, image, Pusher::Containerd).await?;
    }
    Ok(images.into())
}

async fn push_images(
    mut worker: Worker,
    images: Arc<[Image]>,
    next: Arc<AtomicUsize>,
    pusher: Pusher,
) -> Result<u64> {
    let mut done = 0;
    while worker.goes_on()
        && let Some(image) = images.get(next.fetch_add(1, Ordering::Relaxed))
    {
        flows::push_image(&mut worker.connection, image, pusher).await?;
        done += 1;
    }
    Ok(done)
}

/// A warm-up of a second large layer would be a burden on the disk, and no warmer.
fn less_if_warming(size_bytes: u64, share: f64) -> u64 {
    if share < 1.0 { size_bytes / 8 } else { size_bytes }
}

async fn push_one_of(mut worker: Worker, blobs: Arc<[LargeBlob]>, next: Arc<AtomicUsize>) -> Result<u64> {
    let blob = &blobs[next.fetch_add(1, Ordering::Relaxed) % blobs.len()];
    flows::push_large(&mut worker.connection, LARGE_REPOSITORY, blob).await?;
    Ok(blob.size_bytes / MIBIBYTE)
}

async fn push_large(address: std::net::SocketAddr, blob: &LargeBlob) -> Result<Tally> {
    let mut connection = Connection::open(address).await?;
    let started = Instant::now();
    let commit = flows::push_large(&mut connection, LARGE_REPOSITORY, blob).await?;
    let units = count(blob.size_bytes / MIBIBYTE);
    Ok(Tally { units, lasted: started.elapsed(), commit: Some(commit) })
}

async fn pull_images(mut worker: Worker, images: Arc<[Image]>, next: Arc<AtomicUsize>) -> Result<u64> {
    let mut pulled = 0;
    while worker.goes_on() {
        let index = next.fetch_add(1, Ordering::Relaxed) % images.len();
        flows::pull_image(&mut worker.connection, &images[index]).await?;
        pulled += 1;
    }
    Ok(pulled)
}

async fn pull_large(mut worker: Worker, blob: Arc<LargeBlob>) -> Result<u64> {
    let mut pulled = 0;
    while worker.goes_on() {
        flows::pull_large(&mut worker.connection, LARGE_REPOSITORY, &blob).await?;
        pulled += 1;
    }
    Ok(pulled)
}

async fn ask(mut worker: Worker, requests: Arc<[ManifestRequest]>, next: Arc<AtomicUsize>) -> Result<u64> {
    let mut answered = 0;
    while worker.goes_on() {
        let request = &requests[next.fetch_add(1, Ordering::Relaxed) % requests.len()];
        let manifest = &request.image.manifest;
        let sent = worker.connection.send(request.method.clone(), &request.path, None, Payload::empty());
        let answer = sent.await?.require(StatusCode::OK)?.require_digest(&manifest.digest)?;
        if request.method == Method::GET {
            answer.require_body(&manifest.bytes)?;
        } else {
            answer.require_length(manifest.bytes.len())?;
        }
        answered += 1;
    }
    Ok(answered)
}
