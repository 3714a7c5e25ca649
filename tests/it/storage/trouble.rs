//! What clients see of a store that is in trouble: delay, a word that says when to come again, or a
//! connection that ends; never absence, and never less than they asked for.

use std::time::{Duration, Instant};

use berth_test_stores::Kind;
use futures_util::{StreamExt as _, stream};

use crate::{
    faults::{
        behind,
        wire::{Dice, Image, Way, Wire, blob},
    },
    harness::{
        Objects, Server, Storage,
        content::sha256,
        process::{run, run_and_fail},
        tools::workbench,
    },
    protocol::wire::{Berth, with_digest},
    storage::{MIB, SMALL_PARTS, behind_a_proxy},
};

/// How long a store may be in trouble until a client hears of it.
const PATIENCE: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_store_that_refuses_three_requests_of_ten_is_no_trouble_to_clients() {
    const IMAGES: u64 = 150;
    let _bench = workbench!("weed");
    let (name, value) = SMALL_PARTS;
    let (proxy, builder) = behind_a_proxy("").await;
    let server = builder.env(name, value).start().await;
    let wire = Wire::to(&server);
    proxy.forget();
    proxy.refuse(30, 1);

    let work = stream::iter(0..IMAGES).map(|number| {
        let mut dice = Dice::new(number);
        let large = if number % 15 == 0 { 6 * MIB } else { 0 };
        let length = large + usize::try_from(1 + dice.below(200_000)).expect("a small number");
        let (wire, image, repository) =
            (&wire, Image::new(number, [blob(number, length)]), format!("team/{number}"));
        async move {
            let pushed = wire.push(&repository, "1", &image, dice.way(), None).await;
            let pulled = wire.pull(&repository, "1", &image).await;
            [pushed.map(drop), pulled]
        }
    });
    let outcomes: Vec<_> = work.buffer_unordered(8).collect().await;

    let failed: Vec<_> = outcomes.iter().flatten().filter(|outcome| outcome.is_err()).collect();
    assert!(failed.is_empty(), "of {} pushes and pulls: {failed:#?}", 2 * IMAGES);
    let passed = proxy.passed();
    let refused = passed.iter().filter(|passed| passed.status.is_some_and(|status| status == 503)).count();
    eprintln!("{} pushes and pulls over {} requests, {refused} of them refused", 2 * IMAGES, passed.len());
    assert!(refused > passed.len() / 5, "{refused} of {}", passed.len());
}

#[tokio::test]
async fn a_store_that_refuses_everything_is_trouble_and_never_absence() {
    let _bench = workbench!("weed");
    let (proxy, builder) = behind_a_proxy("").await;
    let berth = Berth::of(builder.start().await);
    let image = berth.push_image("team/app", "v1", 1).await;
    let bytes = blob(1, 100_000);
    let digest = sha256(&bytes);
    let [patched, put] = [berth.begin("team/app").await, berth.begin("team/app").await];
    let post = format!("/v2/team/app/blobs/uploads/?digest={digest}");
    let blob = format!("/v2/team/app/blobs/{}", image.layer);
    proxy.refuse(100, 1);

    let begun = Instant::now();
    let put = with_digest(&put, &digest);
    let (get, range, patch, put, post) = tokio::join!(
        berth.ask("GET", &blob),
        berth.send("GET", &blob, &[("range", "bytes=5-")], Vec::new()),
        berth.send("PATCH", &patched, &[], bytes.clone()),
        berth.send("PUT", &put, &[], bytes.clone()),
        berth.send("POST", &post, &[], bytes.clone()),
    );

    eprintln!("refused after {:?}", begun.elapsed());
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    for answer in [&get, &range, &patch, &put, &post] {
        let seconds = answer.is_refused(503, "UNAVAILABLE").header("retry-after");
        assert!(seconds.parse::<u32>().is_ok(), "{seconds}");
    }
    // What the index alone knows goes on.
    for path in [
        "/v2/".to_owned(),
        "/v2/_catalog".to_owned(),
        "/v2/team/app/tags/list".to_owned(),
        "/v2/team/app/manifests/v1".to_owned(),
        format!("/v2/team/app/manifests/{}", image.digest),
        format!("/v2/team/app/referrers/{}", image.digest),
    ] {
        for method in ["GET", "HEAD"] {
            berth.ask(method, &path).await.is(200);
        }
    }
    berth.ask("HEAD", &blob).await.is(200);
    assert_eq!(berth.ask("HEAD", &format!("/v2/team/app/blobs/{digest}")).await.status, 404);

    // And when the store is back, so is everything: the session takes the bytes that it refused.
    proxy.refuse(0, 1);
    berth.send("PATCH", &patched, &[], bytes.clone()).await.is(202).stands_at(bytes.len());
    berth.ask("PUT", &with_digest(&patched, &digest)).await.is(201);
    assert_eq!(berth.repository("team/app").blob(&digest).await, bytes);
    berth.ask("GET", &blob).await.is(200);
}

#[tokio::test]
async fn a_store_that_cuts_every_answer_short_is_asked_for_the_rest() {
    let _bench = workbench!("weed");
    let (proxy, builder) = behind_a_proxy("").await;
    let server = builder.start().await;
    let wire = Wire::to(&server);
    let bytes = blob(1, 20 * MIB);
    wire.upload("team/app", &bytes, Way::Single).await.expect("upload");
    proxy.forget();
    proxy.cut_after(Some(3 * MIB as u64 + 1));

    let pulled = wire.blob("team/app", &sha256(&bytes)).await.expect("pull");

    assert!(pulled == bytes);
    let passed = proxy.passed();
    let read: u64 = passed.iter().map(|passed| passed.received_bytes).sum();
    // What the kernel had on its way goes with each connection.
    let most = bytes.len() + passed.len() * MIB / 2;
    assert!(read < most as u64, "{read} bytes were read in {} pieces", passed.len());
}

#[tokio::test]
async fn an_answer_that_cannot_be_ended_well_does_not_end_well() {
    let _bench = workbench!("weed");
    let (proxy, builder) = behind_a_proxy("").await;
    let server = builder.start().await;
    let bytes = blob(1, 20 * MIB);
    Wire::to(&server).upload("team/app", &bytes, Way::Single).await.expect("upload");
    proxy.forget();
    // The first read passes and is cut, the ones after it are refused.
    proxy.hold(true);
    proxy.cut_after(Some(MIB as u64));
    let repository = server.repository("team/app");
    let path = format!("blobs/{}", sha256(&bytes));
    let break_down = async {
        let is_get = |kind| kind == Kind::Get;
        proxy
            .until("the read begins", |passed| passed.iter().any(|one| is_get(one.kind())).then_some(()))
            .await;
        proxy.refuse(100, 1);
        proxy.hold(false);
    };

    let begun = Instant::now();
    let (answer, ()) = tokio::join!(repository.get(&path), break_down);

    assert_eq!((answer.status().as_u16(), answer.content_length()), (200, Some(bytes.len() as u64)));
    let ended = answer.bytes().await;
    assert!(ended.is_err(), "{} bytes and a good end", ended.map_or(0, |bytes| bytes.len()));
    eprintln!("ended after {:?}", begun.elapsed());
    assert!(begun.elapsed() < 2 * PATIENCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_object_deleted_behind_the_servers_back_is_absent_until_it_is_pushed_again() {
    let _bench = workbench!("weed");
    let server = Server::builder().storage(Storage::SeaweedFs).start().await;
    let wire = Wire::to(&server);
    for (seed, lost) in [(1, 1), (2, 2)] {
        // New ones each time: what was pulled stays in memory for some seconds.
        let image = Image::new(seed, [blob(10 * seed, 1_000), blob(10 * seed + 1, 9 * MIB)]);
        wire.push("team/app", "1", &image, Way::Docker, None).await.expect("push");
        let digest = sha256(&image.blobs[lost]);
        let key = server.objects().key_of(&image.blobs[lost]).await;
        server.objects().remove(&key).await;

        let failure = wire.blob("team/app", &digest).await.expect_err("it is lost");

        assert!(failure.is_absence(), "{failure:?}");
        assert!(!wire.has("team/app", &digest).await.expect("HEAD"), "nobody is told that it is there");
        wire.push("team/app", "1", &image, Way::Docker, None).await.expect("push");
        wire.pull("team/app", "1", &image).await.expect("pull");
    }
}

#[tokio::test]
async fn a_marker_that_was_lost_is_written_again_by_who_rebuilds() {
    let _bench = workbench!("weed");
    let mut server = Server::builder().storage(Storage::SeaweedFs).start().await;
    let digest = server.repository("team/app").push_blob(b"some bytes").await;
    assert!(server.terminate().await.success());
    let Objects::Bucket { store, bucket } = server.objects() else { panic!("it is in a bucket") };
    store.delete(bucket, "berth-store.json").await;

    let said = run_and_fail(behind::command(&server, &["fsck"])).await;
    assert!(said.contains("berth-store.json") && said.contains("fsck --rebuild"), "{said}");
    run(behind::command(&server, &["fsck", "--rebuild"])).await;

    server.restart().await;
    assert_eq!(server.repository("team/app").blob(&digest).await, b"some bytes");
}
