//! What a server holds in memory while nobody asks.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::backing::Place;
use crate::process::Process;
use crate::servers::{Kind, Server};

/// After its start, until what it does by itself is done.
const SETTLED_AFTER: Duration = Duration::from_millis(700);

/// The resident memory of all its processes.
pub async fn bytes(kind: Kind, directory: &Path, place: Place) -> Result<u64> {
    let server = Server::start(kind, directory, place, false).await?;
    tokio::time::sleep(SETTLED_AFTER).await;
    server.processes().into_iter().map(Process::resident_bytes).sum()
}
