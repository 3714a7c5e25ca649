//! How often a server asks the kernel to make a file durable, counted by strace: what a push costs a disk.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::client::Connection;
use crate::flows::{self, Pusher};
use crate::images::Factory;
use crate::measure::count;
use crate::servers::{Kind, Server};

const IMAGES: usize = 10;

/// Sync calls a small image, pushed one after the other as docker does.
pub async fn per_image(kind: Kind, directory: &Path) -> Result<f64> {
    let server = Server::start_traced(kind, directory).await?;
    let mut connection = Connection::open(server.address()).await?;
    let images = Factory::default().images(IMAGES + 1);
    // The first one makes folders that later ones find.
    flows::push_image(&mut connection, &images[0], Pusher::Docker).await?;
    let before = settled(&server).await?;
    for image in &images[1..] {
        flows::push_image(&mut connection, image, Pusher::Docker).await?;
    }
    let calls = settled(&server).await? - before;
    Ok(count(calls as u64) / count(IMAGES as u64))
}

// What a server syncs after its answer belongs to the push too; strace writes line by line.
async fn settled(server: &Server) -> Result<usize> {
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.syncs()
}
