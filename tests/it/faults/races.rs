//! Requests that cross each other in the index: each is answered, and none with an error of ours.
//!
//! On PostgreSQL two transactions that lock the same rows in another order end in a deadlock, which
//! the database breaks by failing one of them. A client must not hear of it.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    faults::behind::{Index, assert_invariants, assert_only_these_are_left},
    faults::wire::{Failure, Image, Outcome, Way, Wire, blob, expect},
    harness::{
        Database, Server,
        content::sha256,
        layout::{INDEX, MANIFEST},
        tools::workbench,
    },
    operation::scenes::eventually,
};

/// One server on either database, with a collector that is always at work.
async fn servers(min_age: &str) -> [Server; 2] {
    let config = format!("[gc]\ninterval = \"20ms\"\nmin_age = \"{min_age}\"");
    let start = |database| Server::builder().database(database).config(&config).start();
    [start(Database::Sqlite).await, start(Database::Postgres).await]
}

/// An answer that is the client's own affair is none of the server's trouble.
fn assert_not_ours<T>(outcome: Outcome<T>, server: &Server) {
    match outcome {
        Err(Failure::Refused { request, status, body }) if status.is_server_error() => {
            panic!("{request}: {status} {body}\n{}", server.said())
        }
        Err(Failure::Gone(why)) => panic!("{why}"),
        _ => {}
    }
}

#[tokio::test]
async fn tags_set_in_any_order_do_not_block_each_other() {
    let _bench = workbench!("postgres");
    for server in servers("1h").await {
        let wire = Wire::to(&server);
        let image = Image::new(1, []);
        wire.upload("team/app", &image.blobs[0], Way::Single).await.expect("upload");
        let mut tags: Vec<String> = (0..20).map(|number| format!("tag=t{number}")).collect();
        let mut puts = JoinSet::new();
        for round in 0..40 {
            tags.rotate_left(7);
            if round % 2 == 0 {
                tags.reverse();
            }
            let path = format!("manifests/{}?{}", image.digest, tags.join("&"));
            let put = wire.request(Method::PUT, "team/app", &path).header("Content-Type", MANIFEST);
            puts.spawn(expect(put.body(image.manifest.clone()), StatusCode::CREATED));
        }
        while let Some(put) = puts.join_next().await {
            assert_not_ours(put.expect("a put is answered"), &server);
        }
    }
}

#[tokio::test]
async fn uploads_mounts_and_deletes_of_one_blob_do_not_block_each_other() {
    let _bench = workbench!("postgres");
    for server in servers("20ms").await {
        let wire = Wire::to(&server);
        let blobs: Vec<Bytes> = (0..2).map(|seed| blob(seed, 100)).collect();
        let mut everyone = JoinSet::new();
        for number in 0..32 {
            let (wire, bytes) = (wire.clone(), blobs[number % 2].clone());
            let repository = ["team/one", "team/two"][number / 2 % 2];
            let from = ["team/two", "team/one"][number / 2 % 2];
            everyone.spawn(async move {
                let mut outcomes = Vec::new();
                let digest = sha256(&bytes);
                for _ in 0..25 {
                    outcomes.push(match number / 4 % 4 {
                        0 => wire.upload(repository, &bytes, Way::Single).await,
                        1 => wire.mount(repository, &digest, from).await.map(drop),
                        2 => wire.upload(repository, &bytes, Way::Containerd).await,
                        _ => wire.delete(repository, &format!("blobs/{digest}")).await.map(drop),
                    });
                }
                outcomes
            });
        }
        while let Some(outcomes) = everyone.join_next().await {
            outcomes
                .expect("all are answered")
                .into_iter()
                .for_each(|outcome| assert_not_ours(outcome, &server));
        }
        assert_invariants(&server).await;
        assert!(!server.said().contains("a round of jobs broke off"), "{}", server.said());
    }
}

/// What crosses the end of a session.
#[derive(Clone, Copy, Debug)]
enum Other {
    /// More bytes.
    Append,
    /// The same end, sent again.
    Finish,
    Cancel,
}

#[tokio::test]
async fn the_end_of_a_session_and_what_crosses_it_are_not_both_acknowledged() {
    let _bench = workbench!("postgres");
    for mut server in servers("1h").await {
        // Between its look at the session and the end of it.
        server.restart_with(&[("FAILPOINTS", "uploads::stored=sleep(10)")]).await;
        let wire = Wire::to(&server);
        let mut everyone = JoinSet::new();
        let others = [Other::Append, Other::Finish, Other::Cancel];
        for (number, other) in (0..120_u64).zip(others.into_iter().cycle()) {
            let wire = wire.clone();
            everyone.spawn(async move {
                let bytes = blob(number, 1_000);
                let (begin, rest) = (bytes.slice(..600), bytes.slice(600..));
                let location = wire.start("team/app").await.expect("start");
                wire.append(&location, begin.clone()).await.expect("append");
                let cross = async {
                    tokio::time::sleep(Duration::from_millis(number / 3 % 20)).await;
                    match other {
                        Other::Append => wire.append(&location, rest).await.map(drop),
                        Other::Finish => wire.finish(&location, &sha256(&begin)).await,
                        Other::Cancel => wire.cancel(&location).await,
                    }
                };
                let digest = sha256(&begin);
                let (finished, crossed) = tokio::join!(wire.finish(&location, &digest), cross);
                let both = (finished.is_ok(), crossed.is_ok());
                match other {
                    Other::Finish => assert!(both.0 || both.1, "{finished:?} {crossed:?}"),
                    _ => assert!(both.0 != both.1, "{other:?}: {finished:?} {crossed:?}"),
                }
                if both.0 || matches!(other, Other::Finish) {
                    wire.blob("team/app", &digest).await.expect("a blob");
                } else if matches!(other, Other::Append) {
                    assert_eq!(wire.offset(&location).await.expect("where it stands"), bytes.len());
                    wire.finish(&location, &sha256(&bytes)).await.expect("finish");
                    wire.blob("team/app", &sha256(&bytes)).await.expect("a blob");
                }
            });
        }
        while let Some(met) = everyone.join_next().await {
            met.expect("what was acknowledged is there");
        }
        assert_invariants(&server).await;
    }
}

/// The session's time with its writer is over, as if that had slept.
async fn the_lease_runs_out(server: &Server) {
    let mut index = Index::of(server).await;
    eventually("it is claimed", async || {
        let claimed = "SELECT id FROM uploads WHERE writer_until > 0";
        (!index.texts(claimed).await.is_empty()).then_some(())
    })
    .await;
    index.execute("UPDATE uploads SET writer_until = writer_until - 60000 WHERE writer_until > 0").await;
    index.close().await;
}

#[tokio::test]
async fn a_writer_that_wakes_up_late_changes_nothing_of_what_others_have_made_since() {
    let _bench = workbench!("postgres");
    for server in servers("1h").await {
        let wire = Wire::to(&server);
        for (seed, before, is_finished) in [(1, 0, true), (2, 600, true), (3, 0, false), (4, 600, false)] {
            let bytes = blob(seed, 1_000);
            let digest = sha256(&bytes);
            let mut location = wire.start("team/app").await.expect("start");
            if before > 0 {
                location = wire.append(&location, bytes.slice(..before)).await.expect("append");
            }
            let (wake, asleep) = tokio::sync::oneshot::channel::<Bytes>();
            let body = stream::once(asleep);
            let late = wire.patch(&location, reqwest::Body::wrap_stream(body));
            let others = async {
                the_lease_runs_out(&server).await;
                let rest = wire.append(&location, bytes.slice(before..)).await.expect("append");
                if is_finished {
                    wire.finish(&rest, &digest).await.expect("finish");
                }
                wake.send(blob(9, 300)).expect("it has waited");
            };
            let (late, ()) = tokio::join!(late, others);

            let refused = late.expect_err("its time is over");
            assert!(refused.is_busy() || refused.is_absence(), "{refused:?}");
            if !is_finished {
                assert_eq!(wire.offset(&location).await.expect("where it stands"), bytes.len());
                wire.finish(&location, &digest).await.expect("finish");
            }
            assert_eq!(
                wire.blob("team/app", &digest).await.expect("a blob"),
                bytes,
                "{before} {is_finished}"
            );
        }
        assert_invariants(&server).await;
    }
}

#[tokio::test]
async fn manifests_that_share_layers_come_and_go_without_blocking_each_other() {
    let _bench = workbench!("postgres");
    for server in servers("1h").await {
        let wire = Wire::to(&server);
        let layers: Vec<Bytes> = (0..30).map(|seed| blob(seed, 64)).collect();
        let holder = Image::new(0, layers.clone());
        wire.push("team/app", "holder", &holder, Way::Single, None).await.expect("push");
        let mut everyone = JoinSet::new();
        for number in 1..17 {
            let (wire, mut layers) = (wire.clone(), layers.clone());
            layers.rotate_left(number);
            if number % 2 == 0 {
                layers.reverse();
            }
            let image = Image::new(number as u64, layers);
            everyone.spawn(async move {
                let mut outcomes = Vec::new();
                for _ in 0..15 {
                    outcomes.push(wire.upload("team/app", &image.blobs[0], Way::Single).await);
                    let tag = format!("t{}", number % 3);
                    outcomes.push(wire.put_manifest("team/app", &tag, &image).await);
                    let path = format!("manifests/{}", image.digest);
                    outcomes.push(wire.delete("team/app", &path).await.map(drop));
                }
                outcomes
            });
        }
        while let Some(outcomes) = everyone.join_next().await {
            outcomes
                .expect("all are answered")
                .into_iter()
                .for_each(|outcome| assert_not_ours(outcome, &server));
        }
        assert!(!server.said().contains("a round of jobs broke off"), "{}", server.said());
    }
}

#[tokio::test]
async fn what_arrives_while_a_sparse_manifest_is_put_is_protected_by_it() {
    let _bench = workbench!("postgres");
    for database in [Database::Sqlite, Database::Postgres] {
        let config = "[[repositories]]\nmatch = '**'\nallow_sparse = true\n[gc]\ninterval = '1d'";
        // Between a manifest's look at what is there and the end of its transaction.
        let asleep = "manifests::before_commit=sleep(30)";
        let builder = Server::builder().database(database).config(config).env("FAILPOINTS", asleep);
        let mut server = builder.start().await;
        let wire = Wire::to(&server);
        let mut everyone = JoinSet::new();
        for number in 0..12 {
            let wire = wire.clone();
            everyone.spawn(async move {
                let image = Image::new(number, [blob(number, 500)]);
                let entry =
                    json!({"mediaType": MANIFEST, "digest": image.digest, "size": image.manifest.len()});
                let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
                let put = wire.request(Method::PUT, "team/app", &format!("manifests/index-{number}"));
                let put = put.header("Content-Type", INDEX).body(index.to_string());
                let image_comes = async {
                    tokio::time::sleep(Duration::from_millis(number)).await;
                    wire.put_manifest("team/app", "image", &image).await
                };
                let layer_comes = async {
                    tokio::time::sleep(Duration::from_millis(number * 3)).await;
                    wire.upload("team/app", &image.blobs[1], Way::Single).await
                };
                let (index, came, layer) =
                    tokio::join!(expect(put, StatusCode::CREATED), image_comes, layer_comes);
                index.expect("the index");
                came.expect("its image");
                layer.expect("the layer of it");
                image
            });
        }
        let images = everyone.join_all().await;

        let mut alive = BTreeSet::new();
        for image in &images {
            let layer = sha256(&image.blobs[1]);
            for path in [format!("manifests/{}", image.digest), format!("blobs/{layer}")] {
                match wire.delete("team/app", &path).await {
                    Err(Failure::Refused { status: StatusCode::FORBIDDEN, .. }) => {}
                    other => panic!("{database:?}: {path} is needed, and yet {other:?}"),
                }
            }
            alive.insert(layer);
        }
        server.kill();
        assert_only_these_are_left(&server, &alive).await;
        let mut index = Index::of(&server).await;
        let candidates =
            index.texts("SELECT digest FROM repository_blobs WHERE idle_since IS NOT NULL").await;
        assert_eq!(candidates, [""; 0], "the collector looks at them again each time");
    }
}
