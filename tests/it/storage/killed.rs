//! Uploads whose clients die: nothing of them stays at the store, and nobody has to look for it there.
//!
//! `TEST_KILLED_UPLOADS` says how many.

use std::time::Instant;

use berth_test_stores::Kind;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use reqwest::{Body, Method};

use crate::{
    faults::{
        behind::Index,
        wire::{Dice, Failure, Outcome, Wire, blob},
    },
    harness::{content::sha256, tools::workbench},
    storage::{
        MIB, SMALL_PARTS, assert_no_list_and_no_copy, behind_a_proxy, count, until_nobody_writes,
        until_only_objects_are_left, writes,
    },
};

const UPLOADS: u64 = 200;
const AT_ONCE: usize = 16;

fn uploads() -> u64 {
    std::env::var("TEST_KILLED_UPLOADS").map_or(UPLOADS, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_are_killed_at_any_point_leave_nothing_at_the_store() {
    let _bench = workbench!("weed");
    let (name, value) = SMALL_PARTS;
    let (proxy, builder) = behind_a_proxy("[gc]\ninterval = \"500ms\"").await;
    let server = builder.env(name, value).start().await;
    let wire = Wire::to(&server);
    proxy.forget();
    let begun = Instant::now();

    let killed = stream::iter(0..uploads()).map(|number| kill(&wire, number)).buffer_unordered(AT_ONCE);
    killed.collect::<Vec<()>>().await;

    until_nobody_writes(&server).await;
    let (objects, multiparts) =
        (server.objects().list().await.len(), server.objects().open_multiparts().await);
    assert!(objects > 0 && multiparts > 0, "{objects} objects and {multiparts} multipart uploads to find");
    let (killing, collecting) = (begun.elapsed(), Instant::now());
    let mut index = Index::of(&server).await;
    index.two_days_go_by().await;
    index.close().await;
    until_only_objects_are_left(&server, 0).await;
    assert_eq!(server.objects().open_multiparts().await, 0);
    assert_no_list_and_no_copy(&proxy);
    let kinds = writes(&proxy);
    eprintln!(
        "{} uploads killed in {killing:?} left {objects} objects and {multiparts} multipart uploads, all gone after \
         {:?}; the store saw {} writes, {} of them parts, {} aborts, {} deletes, no list",
        uploads(),
        collecting.elapsed(),
        kinds.len(),
        count(&kinds, Kind::Part),
        count(&kinds, Kind::Abort),
        count(&kinds, Kind::Delete)
    );
}

/// Uploads a blob, small or in parts, as one client or another does, and dies on the way.
async fn kill(wire: &Wire, number: u64) {
    let mut dice = Dice::new(number);
    let mut below = |end: usize| usize::try_from(dice.below(end as u64)).expect("a small number");
    let length = if number.is_multiple_of(10) { 6 * MIB + below(5 * MIB) } else { 1 + below(100_000) };
    let bytes = blob(number, length);
    let cut = below(length);
    match below(5) {
        0 => {
            let path = format!("blobs/uploads/?digest={}", sha256(&bytes));
            let post = wire.request(Method::POST, "team/app", &path).header("content-length", length);
            post.body(dying(&bytes.slice(..cut))).send().await.expect_err("it was cut");
        }
        1 => {
            let location = wire.start("team/app").await.expect("begin");
            let (_, path) = location.split_once("blobs/").expect("a session's path");
            let path = format!("blobs/{path}?digest={}", sha256(&bytes));
            let put = wire.request(Method::PUT, "team/app", &path).header("content-length", length);
            put.body(dying(&bytes.slice(..cut))).send().await.expect_err("it was cut");
        }
        2 => {
            let location = wire.start("team/app").await.expect("begin");
            is_gone(&wire.patch(&location, dying(&bytes.slice(..cut))).await);
        }
        3 => {
            let location = wire.start("team/app").await.expect("begin");
            let location = wire.append(&location, bytes.slice(..cut)).await.expect("append");
            let rest = bytes.slice(cut..);
            is_gone(&wire.patch(&location, dying(&rest.slice(..below(rest.len())))).await);
        }
        // Not even a word at the end.
        _ => {
            let location = wire.start("team/app").await.expect("begin");
            wire.append(&location, bytes.slice(..cut)).await.expect("append");
        }
    }
}

fn is_gone(outcome: &Outcome<String>) {
    assert!(matches!(outcome, Err(Failure::Gone(_))), "{outcome:?}");
}

/// A body that breaks off behind these bytes, and its connection with it.
fn dying(bytes: &Bytes) -> Body {
    let mut pieces: Vec<_> = bytes.chunks(16 * 1024).map(|piece| Ok(bytes.slice_ref(piece))).collect();
    pieces.push(Err(std::io::Error::other("the client dies")));
    Body::wrap_stream(stream::iter(pieces))
}
