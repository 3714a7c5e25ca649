//! Collection: what nothing needs goes, file and all; what a manifest or a pusher needs stays.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    harness::{Database, Repository, Server, content, http},
    operation::scenes::{Image, begin, eventually, head, on_each_database, run_on},
};

on_each_database!(
    what_nothing_needs_is_collected_and_what_a_manifest_needs_stays,
    a_pusher_who_asks_for_a_blob_keeps_it,
    uploads_that_are_cancelled_or_expire_leave_no_file,
    an_image_collected_from_the_command_line_can_be_pushed_again,
    a_blob_that_two_repositories_hold_stays_for_the_other,
);

const QUICK: &str = "[gc]\nmin_age = \"4s\"\ninterval = \"1s\"";

/// Waits until the store has so many objects.
async fn until_objects(server: &Server, count: usize) {
    let what = format!("the store has {count} objects");
    eventually(&what, async || (server.objects().list().await.len() == count).then_some(())).await;
}

/// Collects at once; returns what the command said.
async fn collect(server: &mut Server) -> String {
    assert!(server.terminate().await.success());
    let ended = run_on(server, &["gc", "--min-age", "0s"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    server.restart().await;
    ended.said
}

async fn delete(repository: &Repository, path: &str) -> u16 {
    http().delete(repository.url(path)).send().await.expect("DELETE").status().as_u16()
}

async fn what_nothing_needs_is_collected_and_what_a_manifest_needs_stays(database: Database) {
    let server = Server::builder().database(database).config(QUICK).start().await;
    let repository = server.repository("team/app");
    let image = Image::of(1, &[1_000, 600_000]);
    image.push(&repository, "1").await;
    let loose = repository.push_blob(b"nobody needs this").await;

    until_objects(&server, image.blobs.len()).await;

    assert_eq!(head(&repository, &loose).await, 404);
    image.is_whole(&repository, "1").await;
    server.until_said("collected 1 blobs").await;
    // It is no candidate any more, however old it gets.
    sleep(Duration::from_secs(3)).await;
    image.is_whole(&repository, "1").await;
}

async fn a_pusher_who_asks_for_a_blob_keeps_it(database: Database) {
    let server = Server::builder().database(database).config(QUICK).start().await;
    let repository = server.repository("team/app");
    let digest = repository.push_blob(b"soon in an image").await;

    let (mut asked, mut begun) = (Instant::now(), Instant::now());
    // Twice as long as an idle blob is kept.
    while begun.elapsed() < Duration::from_secs(10) {
        sleep(Duration::from_millis(200)).await;
        let status = head(&repository, &digest).await;
        // A machine that stood still for so long proves nothing.
        if asked.elapsed() > Duration::from_secs(3) {
            repository.push_blob(b"soon in an image").await;
            begun = Instant::now();
        } else {
            assert_eq!(status, 200);
        }
        asked = Instant::now();
    }
    assert_eq!(repository.blob(&digest).await, b"soon in an image");

    until_objects(&server, 0).await;
}

async fn uploads_that_are_cancelled_or_expire_leave_no_file(database: Database) {
    let config = "[uploads]\nttl = \"4s\"\n[gc]\ninterval = \"1s\"";
    let server = Server::builder().database(database).config(config).start().await;
    let repository = server.repository("team/app");
    let mut sessions = Vec::new();
    for seed in 0..6 {
        let session = server.url() + &begin(&repository).await;
        let answer = http().patch(&session).body(content::bytes(seed, 50_000)).send().await.expect("PATCH");
        assert_eq!(answer.status(), 202);
        sessions.push(session);
    }
    assert!(!server.objects().list().await.is_empty());

    let cancelled = http().delete(&sessions[0]).send().await.expect("DELETE").status();
    assert_eq!(cancelled, 204);

    until_objects(&server, 0).await;
    for session in sessions {
        let answer = http().get(&session).send().await.expect("GET");
        assert_eq!(answer.status(), 404, "{session}");
    }
}

async fn an_image_collected_from_the_command_line_can_be_pushed_again(database: Database) {
    let mut server = Server::builder().database(database).start().await;
    let (kept, image) = (Image::of(1, &[2_000, 3_000]), Image::of(2, &[1_000, 600_000]));
    kept.push(&server.repository("team/kept"), "1").await;
    for round in 0..3 {
        let repository = server.repository("team/app");
        let digest = image.push(&repository, "1").await;
        image.is_whole(&repository, "1").await;
        assert_eq!(delete(&repository, &format!("manifests/{digest}")).await, 202);

        let said = collect(&mut server).await;

        assert!(said.contains("collected 3 blobs"), "round {round}: {said}");
        assert!(said.contains("deleted 3 objects"), "round {round}: {said}");
        assert_eq!(head(&server.repository("team/app"), &image.digest(1)).await, 404);
        assert_eq!(server.objects().list().await.len(), kept.blobs.len(), "only what lives is left");
    }
    image.push(&server.repository("team/app"), "1").await;
    let said = collect(&mut server).await;
    assert!(said.contains("collected 0 blobs"), "{said}");
    image.is_whole(&server.repository("team/app"), "1").await;
    kept.is_whole(&server.repository("team/kept"), "1").await;
    assert_eq!(server.objects().list().await.len(), kept.blobs.len() + image.blobs.len());
}

async fn a_blob_that_two_repositories_hold_stays_for_the_other(database: Database) {
    let mut server = Server::builder().database(database).start().await;
    let image = Image::of(1, &[1_000]);
    let mut digest = String::new();
    for name in ["team/one", "team/two"] {
        digest = image.push(&server.repository(name), "1").await;
    }
    assert_eq!(delete(&server.repository("team/one"), &format!("manifests/{digest}")).await, 202);

    let said = collect(&mut server).await;

    assert!(said.contains("collected 0 blobs"), "{said}");
    assert_eq!(head(&server.repository("team/one"), &image.digest(1)).await, 404);
    image.is_whole(&server.repository("team/two"), "1").await;
    assert_eq!(server.objects().list().await.len(), image.blobs.len(), "the second copies went as well");
}

#[tokio::test]
async fn a_span_that_is_none_is_refused() {
    let mut server = Server::start().await;
    assert!(server.terminate().await.success());
    let ended = run_on(&server, &["gc", "--min-age", "soon"]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains("--min-age") && ended.said.contains("soon"), "{}", ended.said);
}
