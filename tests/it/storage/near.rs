//! What many pull: read from the store once, kept on a local disk, and noticed when it is lost all the same.

use std::{path::Path, time::Duration};

use berth_test_stores::{Kind, Proxy};
use futures_util::future::join_all;
use reqwest::{Method, header};

use crate::{
    faults::wire::{Way, Wire, blob},
    harness::{Server, content::sha256, tools::workbench},
    operation::scenes::{Disk, metric},
    storage::{MIB, behind_a_proxy},
};

// The scrubber reads too.
const WATCHED: &str = "[scrub]\nenabled = false\n[metrics]\nlisten = \"127.0.0.1:0\"\n";

fn bytes_read(proxy: &Proxy) -> u64 {
    proxy
        .passed()
        .iter()
        .filter(|passed| passed.kind() == Kind::Get)
        .map(|passed| passed.received_bytes)
        .sum()
}

async fn with_a_cache(folder: &Path) -> (Proxy, Server, Wire) {
    let cache = format!("{WATCHED}[storage.cache]\nfolder = \"{}\"\nsize = \"1GiB\"", folder.display());
    let (proxy, builder) = behind_a_proxy(&cache).await;
    let server = builder.start().await;
    let wire = Wire::to(&server);
    (proxy, server, wire)
}

#[tokio::test]
async fn a_layer_that_many_pull_is_read_from_the_store_once() {
    let _bench = workbench!("weed");
    let (proxy, builder) = behind_a_proxy(WATCHED).await;
    let server = builder.start().await;
    let wire = Wire::to(&server);
    // As much as stays in memory, where each piece counts twice: a quarter of limits.download_memory.
    let bytes = blob(1, 30 * MIB);
    let digest = sha256(&bytes);
    wire.upload("team/app", &bytes, Way::Single).await.expect("upload");
    proxy.forget();

    // As the nodes of a cluster come: not all at the same moment.
    let pulls = (0..30).map(|number| {
        let (wire, digest, bytes) = (&wire, &digest, &bytes);
        async move {
            tokio::time::sleep(Duration::from_millis(20 * number)).await;
            assert!(wire.blob("team/app", digest).await.expect("pull") == *bytes);
        }
    });
    join_all(pulls).await;

    assert_eq!(bytes_read(&proxy), bytes.len() as u64);
    assert_eq!(metric(&server, "berth_store_read_bytes_total").await, bytes.len() as u64);
}

#[tokio::test]
async fn what_was_pulled_is_still_near_after_a_restart() {
    let _bench = workbench!("weed");
    let folder = tempfile::tempdir().expect("a folder");
    let (proxy, mut server, wire) = with_a_cache(folder.path()).await;
    let bytes = blob(1, 10 * MIB);
    wire.upload("team/app", &bytes, Way::Single).await.expect("upload");
    assert!(wire.blob("team/app", &sha256(&bytes)).await.expect("pull") == bytes);
    assert!(server.terminate().await.success());

    server.restart().await;

    proxy.forget();
    let wire = Wire::to(&server);
    assert!(wire.blob("team/app", &sha256(&bytes)).await.expect("pull") == bytes);
    assert_eq!(bytes_read(&proxy), 0, "{:#?}", proxy.passed());
    assert_eq!(metric(&server, "berth_cache_hits_total").await, 3);
}

#[tokio::test]
async fn a_blob_whose_beginning_is_near_is_known_to_be_lost_after_one_pull_of_it() {
    let _bench = workbench!("weed");
    let folder = tempfile::tempdir().expect("a folder");
    let (_proxy, server, wire) = with_a_cache(folder.path()).await;
    let bytes = blob(1, 10 * MIB);
    let digest = sha256(&bytes);
    wire.upload("team/app", &bytes, Way::Single).await.expect("upload");
    let request = wire.request(Method::GET, "team/app", &format!("blobs/{digest}"));
    let begin = request.header(header::RANGE, "bytes=0-999").send().await.expect("a range");
    assert!(begin.bytes().await.expect("its bytes") == bytes[..1000]);
    let key = server.objects().key_of(&bytes).await;
    server.objects().remove(&key).await;

    let failure = wire.blob("team/app", &digest).await.expect_err("all but its beginning is lost");

    assert!(!failure.is_absence(), "it has begun: {failure:?}");
    assert!(!wire.has("team/app", &digest).await.expect("HEAD"), "nobody is told that it is there");
    wire.upload("team/app", &bytes, Way::Docker).await.expect("upload");
    assert!(wire.blob("team/app", &digest).await.expect("pull") == bytes);
}

#[tokio::test]
async fn a_disk_that_is_full_keeps_less_and_hinders_nobody() {
    let _bench = workbench!("weed");
    let folder = tempfile::tempdir().expect("a folder");
    let _disk = Disk::mount(folder.path(), "20m");
    let (_proxy, mut server, wire) = with_a_cache(folder.path()).await;
    let blobs: Vec<_> = (0..4).map(|seed| blob(seed, 12 * MIB)).collect();
    for bytes in &blobs {
        wire.upload("team/app", bytes, Way::Single).await.expect("upload");
        assert!(wire.blob("team/app", &sha256(bytes)).await.expect("pull") == *bytes);
    }
    // Pieces are written after they were answered.
    server.until_said("No space left on device").await;

    // What stays in memory is over by then.
    tokio::time::sleep(Duration::from_secs(11)).await;
    for bytes in &blobs {
        assert!(wire.blob("team/app", &sha256(bytes)).await.expect("pull") == *bytes);
    }
    assert!(server.terminate().await.success());
}
