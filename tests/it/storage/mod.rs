//! An object store under a real server: what requests cost there, what is left behind, and what clients
//! see when it breaks.
//!
//! Most of these are over SeaweedFS whatever the run says, with a proxy before it that counts.

mod killed;
mod memory;
mod near;
mod replicas;
mod requests;
mod trouble;

use berth_test_stores::{Backdoor as _, Kind, Passed, Proxy, SeaweedFs};

use crate::{
    faults::behind::Index,
    harness::{Objects, Server, objects::seaweedfs, server::Builder},
    operation::scenes::eventually,
};

const MIB: usize = 1024 * 1024;

/// The least there may be, so that an upload in parts is cheap.
const SMALL_PARTS: (&str, &str) = ("BERTH_STORAGE__PART_SIZE", "5MiB");

/// A server over a bucket of its own, with a proxy between the two.
async fn behind_a_proxy(config: &str) -> (Proxy, Builder) {
    let store = SeaweedFs::of_the_run().await;
    let bucket = store.fresh_bucket().await;
    let proxy = Proxy::to(store.endpoint());
    let at_the_proxy = seaweedfs(&proxy.endpoint(), &bucket);
    let builder = Server::builder().config(config).objects(Objects::Bucket { store, bucket }, &at_the_proxy);
    (proxy, builder)
}

/// What has passed of the requests that change something, in the order in which it began.
fn writes(proxy: &Proxy) -> Vec<Kind> {
    proxy.passed().iter().filter(|passed| passed.is_write()).map(Passed::kind).collect()
}

fn count(kinds: &[Kind], kind: Kind) -> usize {
    kinds.iter().filter(|found| **found == kind).count()
}

/// Asserts that no request on its way listed or copied anything.
fn assert_no_list_and_no_copy(proxy: &Proxy) {
    for passed in proxy.passed() {
        assert!(!matches!(passed.kind(), Kind::List | Kind::Copy), "{passed:?}");
    }
}

/// Waits until nobody writes to any session.
async fn until_nobody_writes(server: &Server) {
    let mut index = Index::of(server).await;
    eventually("nobody writes", async || {
        index.texts("SELECT id FROM uploads WHERE writer_until > 0").await.is_empty().then_some(())
    })
    .await;
    index.close().await;
}

/// Waits until a server's own rounds of collection have left nothing but this many objects.
async fn until_only_objects_are_left(server: &Server, count: usize) {
    let mut index = Index::of(server).await;
    eventually("the collector is done", async || {
        let left = "SELECT id FROM uploads UNION ALL SELECT storage_key FROM doomed_objects";
        (index.texts(left).await.is_empty() && server.objects().list().await.len() == count).then_some(())
    })
    .await;
    index.close().await;
}
