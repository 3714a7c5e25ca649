//! Small images, pushed and pulled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;

use super::{Load, Play, Stage, fill};
use crate::Plan;
use crate::client::Connection;
use crate::flows::{self, Pusher};
use crate::images::Image;
use crate::measure::{Tally, Worker, drive};
use crate::servers::Server;

const MOST_IMAGES: usize = 12_000;
const CHECKED_IMAGES: usize = 20;

/// New images are made for every run; these are the last run's, and how many a second were pushed.
pub struct Images {
    pusher: Pusher,
    /// Whether they are also looked for, pulled and listed.
    are_used: bool,
    stock: Arc<[Image]>,
    per_second: f64,
}

impl Images {
    pub async fn prepare(load: Load, stage: &mut Stage, plan: &Plan) -> Result<Self> {
        if let Some(count) = plan.images {
            fill::images(stage, count).await?;
        }
        // More than any server pushes in the first warm-up, which says how many are needed.
        let per_second = if plan.quick { 400.0 } else { 2000.0 };
        let (pusher, are_used) = (load.pusher(), load == Load::Lives);
        Ok(Self { pusher, are_used, stock: Arc::new([]), per_second })
    }
}

#[async_trait]
impl Play for Images {
    async fn stock(&mut self, stage: &mut Stage, share: f64) -> Result<()> {
        let wanted = (self.per_second * stage.lasting.mul_f64(share).as_secs_f64() * 1.5).ceil();
        let wanted = format!("{wanted:.0}").parse().unwrap_or(MOST_IMAGES);
        self.stock = stage.factory.images(wanted.clamp(stage.clients * 2, MOST_IMAGES)).into();
        Ok(())
    }

    async fn run(&mut self, stage: &mut Stage, lasting: Duration) -> Result<Tally> {
        let next = Arc::new(AtomicUsize::new(0));
        let (pusher, are_used) = (self.pusher, self.are_used);
        let work = |worker| push(worker, Arc::clone(&self.stock), Arc::clone(&next), pusher, are_used);
        let tally = drive(&stage.server.addresses, stage.clients, lasting, work).await?;
        self.per_second = tally.units / tally.lasted.as_secs_f64();
        Ok(tally)
    }

    async fn check(&mut self, stage: &mut Stage) -> Result<()> {
        let mut connection = Connection::open(stage.server.address()).await?;
        // The first ones are pushed in any run, however short.
        for image in self.stock.iter().take(CHECKED_IMAGES.min(stage.clients)) {
            flows::pull_image(&mut connection, image).await?;
        }
        Ok(())
    }
}

async fn push(
    mut worker: Worker,
    images: Arc<[Image]>,
    next: Arc<AtomicUsize>,
    pusher: Pusher,
    are_used: bool,
) -> Result<u64> {
    let mut done = 0;
    while worker.goes_on()
        && let Some(image) = images.get(next.fetch_add(1, Ordering::Relaxed))
    {
        flows::push_image(&mut worker.connection, image, pusher).await?;
        if are_used {
            flows::use_image(&mut worker.connection, image).await?;
        }
        done += 1;
    }
    Ok(done)
}

/// Images that are there.
pub struct Pulls(Arc<[Image]>);

impl Pulls {
    pub async fn prepare(stage: &mut Stage, count: usize) -> Result<Self> {
        let images = stage.factory.images(count);
        push_prepared(&stage.server, &images, None).await?;
        Ok(Self(images.into()))
    }
}

#[async_trait]
impl Play for Pulls {
    async fn run(&mut self, stage: &mut Stage, lasting: Duration) -> Result<Tally> {
        let next = Arc::new(AtomicUsize::new(0));
        let work = |worker| pull(worker, Arc::clone(&self.0), Arc::clone(&next));
        drive(&stage.server.addresses, stage.clients, lasting, work).await
    }
}

async fn pull(mut worker: Worker, images: Arc<[Image]>, next: Arc<AtomicUsize>) -> Result<u64> {
    let mut pulled = 0;
    while worker.goes_on() {
        let index = next.fetch_add(1, Ordering::Relaxed) % images.len();
        flows::pull_image(&mut worker.connection, &images[index]).await?;
        pulled += 1;
    }
    Ok(pulled)
}

/// Pushes images, four at a time.
pub async fn push_prepared(server: &Server, images: &[Image], authorization: Option<&str>) -> Result<()> {
    let images: Arc<[Image]> = images.into();
    let next = Arc::new(AtomicUsize::new(0));
    let work = |mut worker: Worker| {
        worker.connection.authorization = authorization.map(str::to_owned);
        push(worker, Arc::clone(&images), Arc::clone(&next), Pusher::Containerd, false)
    };
    drive(&server.addresses[..1], 4, Duration::from_mins(5), work).await?;
    Ok(())
}
