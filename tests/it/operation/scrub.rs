//! The scrubber: what a store loses in silence is found, named, counted and healed by a plain push.

use std::time::Duration;

use serde_json::json;

use crate::{
    harness::{Database, Server, layout::INDEX},
    operation::scenes::{Image, eventually, head, metric, on_each_database},
};

on_each_database!(
    a_flipped_byte_is_found_and_named_with_its_tags_and_a_push_heals_it,
    a_lost_object_is_found_before_anybody_asks_for_it,
    a_store_that_is_whole_is_read_and_left_as_it_is,
);

const MANY_ROUNDS: &str =
    "[scrub]\nperiod = \"1s\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"info\"";

async fn a_flipped_byte_is_found_and_named_with_its_tags_and_a_push_heals_it(database: Database) {
    let server = Server::builder().database(database).config(MANY_ROUNDS).start().await;
    let repository = server.repository("team/app");
    let image = Image::of(1, &[1_000, 300_000]);
    let digest = image.push(&repository, "v1").await;
    // An index leads to it too.
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{
            "mediaType": crate::harness::layout::MANIFEST, "digest": digest, "size": image.manifest.len()
        }],
    });
    repository.push_manifest("multi", INDEX, index.to_string().as_bytes()).await;
    let key = server.objects().key_of(&image.blobs[2]).await;
    let mut bytes = image.blobs[2].clone();
    bytes[123_456] ^= 1;

    server.objects().put(&key, bytes).await;

    server.until_said("is damaged: its bytes hash to").await;
    let said = server.said();
    assert!(said.contains("team/app:multi, team/app:v1"), "{said}");
    assert!(said.contains(&image.digest(2)), "{said}");
    assert_eq!(metric(&server, "berth_blobs_lost_total{found_by=\"scrub\"}").await, 1);
    assert_eq!(metric(&server, "berth_blobs_lost_total{found_by=\"read\"}").await, 0);
    assert_eq!(head(&repository, &image.digest(2)).await, 404);
    assert_eq!(head(&repository, &image.digest(1)).await, 200, "the others are as they were");
    image.push(&repository, "v1").await;
    image.is_whole(&repository, "v1").await;
}

async fn a_lost_object_is_found_before_anybody_asks_for_it(database: Database) {
    let server = Server::builder().database(database).config(MANY_ROUNDS).start().await;
    let repository = server.repository("team/app");
    let digest = repository.push_blob(b"needed by nothing yet").await;
    let key = server.objects().key_of(b"needed by nothing yet").await;

    server.objects().remove(&key).await;

    server.until_said("is missing from the store").await;
    assert!(server.said().contains("team/app"), "{}", server.said());
    assert_eq!(head(&repository, &digest).await, 404);
}

async fn a_store_that_is_whole_is_read_and_left_as_it_is(database: Database) {
    let mut server = Server::builder().database(database).config(MANY_ROUNDS).start().await;
    let image = Image::of(2, &[2_000, 0, 700_000]);
    image.push(&server.repository("team/app"), "v1").await;
    let rounds = "scrubbed everything";
    server.until_said(rounds).await;

    // It goes on behind a restart; whoever is killed is waited for, as another replica would.
    assert!(server.terminate().await.success());
    server.restart().await;
    server.until_said(rounds).await;

    eventually("it has read what is there", async || {
        (metric(&server, "berth_scrubbed_bytes_total").await > 700_000).then_some(())
    })
    .await;
    assert_eq!(metric(&server, "berth_blobs_lost_total{found_by=\"scrub\"}").await, 0);
    assert_eq!(metric(&server, "berth_blobs_missing").await, 0);
    image.is_whole(&server.repository("team/app"), "v1").await;
    tokio::time::timeout(Duration::from_mins(1), server.terminate()).await.expect("it ends at once");
}
