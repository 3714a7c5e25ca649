//! `berth fsck`: damage made by hand is found, mended, and healed by a plain push.

use std::fs;

use crate::{
    harness::{Database, Server, content, http, postgres::Postgres},
    operation::scenes::{Ended, Image, begin, error_body, head, on_each_database, run_on},
};

on_each_database!(
    a_store_that_is_whole_has_no_problems,
    a_lost_object_is_found_and_a_push_heals_it,
    a_truncated_object_is_noticed_by_whoever_reads_it,
    a_flipped_byte_is_found_by_hashing,
    an_object_nobody_knows_is_removed,
    an_object_that_comes_back_is_believed_once_it_was_hashed,
    a_lost_index_is_rebuilt_from_the_objects,
);

/// A server that is stopped, with an image of two layers in `team/app`.
async fn stopped(database: Database) -> (Server, Image) {
    let mut server = Server::builder().database(database).start().await;
    let image = Image::of(1, &[1_000, 600_000]);
    image.push(&server.repository("team/app"), "1").await;
    assert!(server.terminate().await.success());
    (server, image)
}

async fn fsck(server: &Server, flags: &[&str]) -> Ended {
    run_on(server, &[&["fsck"], flags].concat()).await
}

/// Runs a check that finds nothing.
async fn is_clean(server: &Server, flags: &[&str]) {
    let ended = fsck(server, flags).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains(" 0 problems, 0 mended"), "{}", ended.said);
}

/// Runs a check that must find one problem, and say this of it.
async fn finds(server: &Server, flags: &[&str], line: &str) {
    let ended = fsck(server, flags).await;
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains(line), "it says {line:?}: {}", ended.said);
    assert!(ended.said.contains(" 1 problems, 0 mended"), "{}", ended.said);
    assert!(ended.said.contains("berth fsck --repair"), "it says the way out: {}", ended.said);
}

async fn mends(server: &Server, flags: &[&str], line: &str) {
    let ended = fsck(server, flags).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains(line), "it says {line:?}: {}", ended.said);
    assert!(ended.said.contains(" 1 problems, 1 mended"), "{}", ended.said);
}

/// Starts the server, on which a blob is lost, pushes again, and checks all.
async fn is_healed_by_a_push(mut server: Server, image: &Image, lost: usize) {
    server.restart().await;
    let repository = server.repository("team/app");
    assert_eq!(head(&repository, &image.digest(lost)).await, 404);
    image.push(&repository, "1").await;
    image.is_whole(&repository, "1").await;
    assert!(server.terminate().await.success());
    // The damaged object goes with the next round.
    let ended = run_on(&server, &["gc"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    is_clean(&server, &["--verify"]).await;
    assert_eq!(server.objects().list().await.len(), image.blobs.len());
}

async fn a_store_that_is_whole_has_no_problems(database: Database) {
    let (mut server, image) = stopped(database).await;
    server.restart().await;
    // An unfinished upload belongs there.
    let session = begin(&server.repository("team/app")).await;
    let answer = http().patch(server.url() + &session).body(content::bytes(5, 70_000)).send().await;
    assert_eq!(answer.expect("PATCH").status(), 202);
    assert!(server.terminate().await.success());

    for flags in [&[][..], &["--verify"], &["--repair"], &["--rebuild"], &["--verify", "--repair"]] {
        is_clean(&server, flags).await;
    }

    let ended = fsck(&server, &[]).await;
    assert!(ended.said.contains("3 blobs, 4 objects"), "{}", ended.said);
    server.restart().await;
    image.is_whole(&server.repository("team/app"), "1").await;
    let answer = http().get(server.url() + &session).send().await.expect("GET of the session");
    assert_eq!(answer.headers()["range"], "0-69999");
}

async fn a_lost_object_is_found_and_a_push_heals_it(database: Database) {
    let (server, image) = stopped(database).await;
    server.objects().remove(&server.objects().key_of(&image.blobs[2]).await).await;
    let line = format!("missing object   {} (object ", image.digest(2));

    finds(&server, &[], &line).await;
    finds(&server, &["--verify"], &line).await;
    mends(&server, &["--repair"], &line).await;
    // What is lost stays lost, and is said again.
    let ended = fsck(&server, &["--repair"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains(" 1 problems, 0 mended"), "{}", ended.said);
    assert!(ended.said.contains("push it again"), "it says the way out: {}", ended.said);

    is_healed_by_a_push(server, &image, 2).await;
}

async fn a_truncated_object_is_noticed_by_whoever_reads_it(database: Database) {
    let (mut server, image) = stopped(database).await;
    let key = server.objects().key_of(&image.blobs[2]).await;
    server.objects().put(&key, image.blobs[2][..599_999].to_vec()).await;
    finds(&server, &[], "has 599999 bytes, not 600000").await;
    server.restart().await;
    let repository = server.repository("team/app");
    assert_eq!(head(&repository, &image.digest(2)).await, 200, "nobody has noticed yet");

    let answer = repository.get(&format!("blobs/{}", image.digest(2))).await;

    assert_eq!(answer.status(), 404);
    let body = error_body(answer).await;
    assert_eq!(body["errors"][0]["code"], "BLOB_UNKNOWN");
    server.until_said("is lost or damaged").await;
    assert_eq!(head(&repository, &image.digest(2)).await, 404);
    assert!(server.terminate().await.success());
    is_healed_by_a_push(server, &image, 2).await;
}

async fn a_flipped_byte_is_found_by_hashing(database: Database) {
    let (server, image) = stopped(database).await;
    let key = server.objects().key_of(&image.blobs[2]).await;
    let mut bytes = image.blobs[2].clone();
    bytes[300_000] = !bytes[300_000];
    server.objects().put(&key, bytes).await;
    is_clean(&server, &[]).await;
    let line = format!("damaged object   {} (object ", image.digest(2));

    finds(&server, &["--verify"], &line).await;
    mends(&server, &["--verify", "--repair"], &line).await;

    is_healed_by_a_push(server, &image, 2).await;
}

async fn an_object_nobody_knows_is_removed(database: Database) {
    let (server, image) = stopped(database).await;
    let key = "ab".repeat(16);
    server.objects().put(&key, b"alien".to_vec()).await;
    // What is no object is none of ours.
    server.objects().put("ab-a-note", b"left by an administrator".to_vec()).await;

    finds(&server, &[], &format!("unknown object   {key} (5 bytes)")).await;
    assert!(server.objects().get(&key).await.is_some());
    mends(&server, &["--repair"], &format!("unknown object   {key}")).await;

    assert!(server.objects().get(&key).await.is_none());
    assert!(server.objects().get("ab-a-note").await.is_some());
    server.objects().remove("ab-a-note").await;
    is_clean(&server, &["--verify"]).await;
    assert_eq!(server.objects().list().await.len(), image.blobs.len());
}

async fn an_object_that_comes_back_is_believed_once_it_was_hashed(database: Database) {
    let (mut server, image) = stopped(database).await;
    let key = server.objects().key_of(&image.blobs[1]).await;
    server.objects().remove(&key).await;
    mends(&server, &["--repair"], "missing object").await;
    server.objects().put(&key, content::bytes(99, 1_000)).await;
    finds(&server, &[], "damaged object").await;
    server.objects().put(&key, image.blobs[1].clone()).await;

    finds(&server, &[], &format!("found again      {}", image.digest(1))).await;
    mends(&server, &["--repair"], "found again").await;

    is_clean(&server, &["--verify"]).await;
    server.restart().await;
    image.is_whole(&server.repository("team/app"), "1").await;
}

/// Loses the database, as a disk would.
async fn lose_index(server: &Server, database: Database) {
    match database {
        Database::Sqlite => {
            for name in ["berth.db", "berth.db-wal", "berth.db-shm"] {
                let _ = fs::remove_file(server.data().join(name));
            }
        }
        Database::Postgres => {
            let config = fs::read_to_string(server.config()).expect("read the configuration");
            let config: toml::Table = config.parse().expect("the configuration is TOML");
            let url = config["database"]["url"].as_str().expect("it has a URL");
            let sql = "DROP SCHEMA public CASCADE; CREATE SCHEMA public";
            Postgres::of_the_run().await.query(url, sql).await;
        }
    }
}

async fn a_lost_index_is_rebuilt_from_the_objects(database: Database) {
    let mut server = Server::builder().database(database).start().await;
    let (image, gone) = (Image::of(1, &[1_000, 600_000]), Image::of(2, &[2_000]));
    image.push(&server.repository("team/app"), "1").await;
    gone.push(&server.repository("team/gone"), "1").await;
    let session = begin(&server.repository("team/app")).await;
    let answer = http().patch(server.url() + &session).body("half an upload").send().await;
    assert_eq!(answer.expect("PATCH").status(), 202);
    assert!(server.terminate().await.success());
    lose_index(&server, database).await;
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["fsck"], &["gc"]] {
        let ended = run_on(&server, command).await;
        assert_eq!(ended.code, Some(2), "{command:?}: {}", ended.said);
        assert!(ended.said.contains("berth fsck --rebuild"), "{command:?}: {}", ended.said);
    }

    let ended = fsck(&server, &["--rebuild"]).await;

    assert_eq!(ended.code, Some(0), "{}", ended.said);
    for blob in image.blobs.iter().chain(&gone.blobs) {
        let line = format!("restored         {}", content::sha256(blob));
        assert!(ended.said.contains(&line), "it says {line:?}: {}", ended.said);
    }
    assert!(ended.said.contains("6 blobs restored to the index"), "{}", ended.said);
    is_clean(&server, &["--verify"]).await;

    server.restart().await;
    let repository = server.repository("team/app");
    // What is in the store is nobody's until it is pushed: that is what keeps repositories apart.
    assert_eq!(head(&repository, &image.digest(1)).await, 404);
    let before = server.objects().list().await;
    image.push(&repository, "1").await;
    image.is_whole(&repository, "1").await;
    assert!(server.terminate().await.success());
    let ended = run_on(&server, &["gc"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let mut after = server.objects().list().await;
    assert!(after.keys().all(|object| before.contains_key(object)), "a push stores nothing twice");
    assert_eq!(after.len(), before.len(), "what waits to be pushed is kept for gc.min_age");

    let ended = run_on(&server, &["gc", "--min-age", "0s"]).await;

    assert_eq!(ended.code, Some(0), "{}", ended.said);
    after = server.objects().list().await;
    assert_eq!(after.len(), image.blobs.len(), "what nobody pushed again is collected");
    server.restart().await;
    image.is_whole(&server.repository("team/app"), "1").await;
}
