//! What only an object store can do wrong, and what using one costs: a store that falls silent, breaks
//! off, lies or is busy, and every request counted.

mod backends;
mod session;

use std::time::{Duration, Instant};

use berth_storage::cloud::{Patience, Provider, S3};
use berth_storage::{Algorithm, Digest, Finished, Key, Object, Store, StoreError};
use berth_test_stores::{Backdoor as _, Hostile, Lie, Operation, Requests, Stall};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;

use self::backends::{PART, Scene, TINY, content};
use self::session::Session;

const LONG: Duration = Duration::from_hours(1);
/// Ample, for a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Patience for a test.
const LITTLE: Patience = Patience {
    retry_for: Duration::from_secs(1),
    read: Duration::from_millis(400),
    write: Duration::from_millis(400),
    silence: Duration::from_millis(400),
};

async fn scene() -> Scene {
    backends::plain(LITTLE, TINY).await
}

/// Sends bytes in one request, as docker does not.
async fn put(to: &Store, bytes: &Bytes) -> Result<Finished, StoreError> {
    let mut writing = Session::begin(Algorithm::Sha256).write(to);
    let mut pieces = futures_util::stream::iter(bytes.chunks(70_000).map(Bytes::copy_from_slice).map(Ok));
    if let Err(berth_storage::WriteError::<std::io::Error>::Store(error)) = writing.take(&mut pieces).await {
        return Err(error);
    }
    writing.try_finish(&Digest::of(Algorithm::Sha256, bytes)).await
}

/// Sends bytes as docker does: a PATCH with all of them, and a PUT with none.
async fn push(to: &Store, bytes: &Bytes) -> Object {
    let mut writing = Session::begin(Algorithm::Sha256).write(to);
    writing.bytes(bytes, 70_000).await;
    let session = writing.suspend().await.unwrap();
    session.write(to).finish(bytes).await
}

async fn stored(to: &Store, bytes: &Bytes) -> Object {
    match put(to, bytes).await.unwrap() {
        Finished::Object(object) => object,
        Finished::Differs(digest) => panic!("its bytes are {digest}"),
    }
}

/// What a reader gets: the bytes, and the error behind them if there is one.
async fn read(from: &Store, object: &Object) -> (Vec<u8>, Option<StoreError>) {
    let mut bytes = Vec::new();
    let mut pieces = match from.read(&object.key, object.size_bytes, 0..object.size_bytes).await {
        Ok(pieces) => pieces,
        Err(error) => return (bytes, Some(error)),
    };
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => return (bytes, Some(error)),
        }
    }
    (bytes, None)
}

#[tokio::test]
async fn a_request_that_is_never_answered_is_an_error() {
    let scene = scene().await;
    let bytes = content(1, 1_000);
    let object = stored(&scene.store, &bytes).await;
    let to = &scene.store;
    scene.hostile().stall(Some(Stall::Answers));

    assert!(timeout(SOON, to.size(&object.key)).await.unwrap().is_err());
    assert!(timeout(SOON, read(to, &object)).await.unwrap().1.is_some());
    assert!(timeout(SOON, to.delete(&object.key, None)).await.unwrap().is_err());
    assert!(timeout(SOON, put(to, &bytes)).await.unwrap().is_err());
    assert!(timeout(SOON, put(to, &content(2, PART + 1))).await.unwrap().is_err());
    assert!(timeout(SOON, to.list(0)).await.unwrap().is_err());
    assert!(timeout(SOON, to.open_multiparts()).await.unwrap().is_err());
    assert_eq!(timeout(SOON, to.advice()).await.unwrap(), None);
}

#[tokio::test]
async fn a_read_that_falls_silent_or_breaks_off_is_taken_up_again() {
    let scene = scene().await;
    let bytes = content(1, 350_000);
    let objects = [stored(&scene.store, &bytes).await, stored(&scene.store, &bytes).await];
    let whole = async |what: &str, object: &Object| {
        let before = scene.hostile().requests();
        let (found, error) = timeout(SOON, read(&scene.store, object)).await.unwrap();
        assert!(found == bytes && error.is_none(), "{what}: {} bytes, {error:?}", found.len());
        assert_eq!(scene.hostile().requests().since(&before).of(Operation::Get), 4, "{what}");
    };

    scene.hostile().cut_bodies(Some(100_000));
    whole("cut", &objects[0]).await;

    scene.hostile().cut_bodies(None);
    scene.hostile().stall(Some(Stall::Bodies { after_bytes: 100_000, pause: LONG }));
    whole("silent", &objects[1]).await;
}

#[tokio::test]
async fn a_read_that_breaks_off_for_good_is_an_error_and_not_a_short_stream() {
    let scene = scene().await;
    let bytes = content(1, 350_000);
    let broken = [Stall::Bodies { after_bytes: 0, pause: LONG }].map(Some).into_iter().chain([None]);
    for stall in broken {
        scene.hostile().stall(None);
        scene.hostile().cut_bodies(None);
        // Another one each time: what was read once stays for a while.
        let object = stored(&scene.store, &bytes).await;
        scene.hostile().cut_bodies(Some(100_000));
        let pieces = scene.store.read(&object.key, object.size_bytes, 0..object.size_bytes).await;
        let mut pieces = pieces.unwrap();
        let mut found = pieces.next().await.unwrap().unwrap().to_vec();
        scene.hostile().stall(stall);
        scene.hostile().cut_bodies(if stall.is_some() { None } else { Some(0) });

        let rest = async {
            while let Some(piece) = pieces.next().await {
                match piece {
                    Ok(piece) => found.extend_from_slice(&piece),
                    Err(error) => return Some(error),
                }
            }
            None
        };
        let error = timeout(SOON, rest).await.unwrap();

        assert!(matches!(error, Some(StoreError::Remote { .. })), "{error:?}");
        assert!(found.len() < bytes.len() && bytes.starts_with(&found), "{} bytes", found.len());
    }
}

#[tokio::test]
async fn what_is_not_stored_as_it_was_sent_is_no_object() {
    let scene = scene().await;
    for length in [1_000, 2 * PART + 1_000] {
        for lie in [Lie::Vanished, Lie::Shorter] {
            scene.hostile().lie(Some(lie));
            let refused = put(&scene.store, &content(1, length)).await;
            assert!(refused.is_err(), "{lie:?}, {length} bytes: {refused:?}");
            let is_altered = matches!(refused, Err(StoreError::Altered { .. }));
            assert!(is_altered || length > PART, "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_checksum_that_is_not_that_of_what_was_sent_is_noticed() {
    for asked in [false, true] {
        let server = Hostile::start();
        server.tell_checksums();
        let bucket = server.fresh_bucket().await;
        let settings = S3 { crc64nvme: asked, ..backends::at(&server, &bucket) };
        let settings = backends::settings(Provider::S3(settings));
        let to = Store::open_cloud_within(&settings, LITTLE, TINY).await.unwrap();
        for length in [1_000, PART + 1_000] {
            let bytes = content(1, length);
            server.lie(None);
            let object = stored(&to, &bytes).await;
            assert!(read(&to, &object).await.0 == bytes);
            for lie in [Lie::Flipped, Lie::Checksum] {
                server.lie(Some(lie));
                let refused = put(&to, &bytes).await;
                let refused = refused.map(drop).unwrap_err().to_string();
                assert!(refused.contains("other bytes than it was sent"), "{lie:?}: {refused}");
            }
        }
    }
}

/// What it takes to store bytes, in one request and as docker does.
async fn cost_of(scene: &Scene, length: usize) -> [Requests; 2] {
    let bytes = content(length as u64, length);
    let before = scene.hostile().requests();
    stored(&scene.store, &bytes).await;
    let between = scene.hostile().requests();
    push(&scene.store, &bytes).await;
    [between.since(&before), scene.hostile().requests().since(&between)]
}

#[tokio::test]
async fn a_blob_that_fits_one_part_costs_one_write() {
    let scene = scene().await;
    for length in [0, 1, 100_000, PART - 1, PART] {
        for cost in cost_of(&scene, length).await {
            assert_eq!((cost.writes(), cost.of(Operation::Put)), (1, 1), "{length} bytes: {cost:?}");
            // One look at what was stored.
            assert_eq!(cost.all(), 2, "{length} bytes: {cost:?}");
        }
    }
}

#[tokio::test]
async fn a_blob_of_several_parts_costs_two_writes_more() {
    let scene = scene().await;
    for (length, parts) in [(PART + 1, 2), (2 * PART, 2), (2 * PART + 1, 3)] {
        for cost in cost_of(&scene, length).await {
            assert_eq!(cost.of(Operation::PutPart), parts, "{length} bytes: {cost:?}");
            assert_eq!(cost.writes(), parts + 2, "{length} bytes: {cost:?}");
            assert_eq!(cost.all(), parts + 3, "{length} bytes: {cost:?}");
        }
    }
}

#[tokio::test]
async fn nothing_is_listed_or_copied_to_serve_a_request() {
    let scene = scene().await;
    for length in [1_000, PART + 1] {
        let object = push(&scene.store, &content(1, length)).await;
        assert!(read(&scene.store, &object).await.1.is_none());
        scene.store.size(&object.key).await.unwrap();
        scene.store.delete(&object.key, None).await.unwrap();
        scene.store.size(&object.key).await.unwrap();
    }
    let asked = scene.hostile().requests();
    for operation in [Operation::List, Operation::ListMultiparts, Operation::Copy, Operation::Other] {
        assert_eq!(asked.of(operation), 0, "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_dropped_closes_the_connection_to_the_store() {
    const SIZE: u64 = 64 * 1024 * 1024;
    let scene = scene().await;
    let key = Key::generate();
    let name = format!("a/prefix/{}/{key}", &key.as_str()[..2]);
    scene.hostile().put(&scene.bucket, &name, Bytes::from(vec![7; 64 * 1024 * 1024])).await;
    let mut fastest = LONG;
    for _ in 0..3 {
        let before = scene.hostile().bytes_sent();
        let mut pieces = scene.store.read(&key, SIZE, 0..SIZE).await.unwrap();
        pieces.try_next().await.unwrap().unwrap();
        assert_eq!(scene.hostile().sending(), 1);

        drop(pieces);

        let since = Instant::now();
        timeout(SOON, scene.hostile().until_nothing_is_sent()).await.unwrap();
        fastest = fastest.min(since.elapsed());
        assert!(scene.hostile().bytes_sent() - before < SIZE / 2);
    }
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
}

#[tokio::test]
async fn deleting_an_object_ends_the_multipart_upload_under_its_key() {
    let scene = scene().await;
    let mut writing = Session::begin(Algorithm::Sha256).write(&scene.store);
    writing.bytes(&content(1, 2 * PART + 1), 70_000).await;
    let session = writing.suspend().await.unwrap();
    let [(key, multipart)] = session.opened.as_slice() else { panic!("{session:?}") };
    assert_eq!(scene.store.open_multiparts().await.unwrap(), [(key.clone(), multipart.clone())]);

    for _ in 0..2 {
        scene.store.delete(key, Some(multipart)).await.unwrap();

        assert_eq!(scene.hostile().open_multiparts(&scene.bucket).await, 0);
        assert_eq!(scene.store.open_multiparts().await.unwrap(), []);
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_loses_nothing_else() {
    let scene = backends::plain(Patience::default(), TINY).await;
    scene.hostile().lose_answers(30);
    for (seed, length) in [0, 1_000, 50_000, PART, PART + 1, 2 * PART + 1].into_iter().enumerate() {
        let bytes = content(seed as u64, length);
        for object in [stored(&scene.store, &bytes).await, push(&scene.store, &bytes).await] {
            let (found, error) = read(&scene.store, &object).await;
            assert!(found == bytes && error.is_none(), "{length} bytes: {error:?}");
            scene.store.delete(&object.key, None).await.unwrap();
        }
    }
    let left = scene.hostile().objects(&scene.bucket).await;
    // An object that was put away before its last request stays until its session is swept.
    assert!(left.iter().all(|(name, _)| name.ends_with("berth-store.json")), "{left:?}");
}

#[tokio::test]
async fn a_store_that_is_always_busy_is_an_error_after_some_seconds() {
    let scene = backends::plain(Patience::default(), TINY).await;
    scene.hostile().slow_down(100);
    let since = Instant::now();

    let refused = scene.store.size(&Key::generate()).await.unwrap_err();

    assert!(refused.to_string().contains("503"), "{refused}");
    let took = since.elapsed();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn a_certificate_of_an_authority_in_ca_file_is_trusted() {
    let server = Hostile::start_with_tls();
    let bucket = server.fresh_bucket().await;
    let settings = backends::settings(Provider::S3(backends::at(&server, &bucket)));
    let to = Store::open_cloud_within(&settings, LITTLE, TINY).await.unwrap();
    let bytes = content(1, 1_000);
    let object = stored(&to, &bytes).await;
    assert!(read(&to, &object).await.0 == bytes);

    let mut writing = Session::begin(Algorithm::Sha256).write(&to);
    writing.bytes(&content(1, PART + 1), 70_000).await;
    let session = writing.suspend().await.unwrap();
    // This is asked by another client than all else.
    assert_eq!(to.open_multiparts().await.unwrap(), session.opened);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_and_said_to_be() {
    let server = Hostile::start_with_tls();
    let bucket = server.fresh_bucket().await;
    let other = Hostile::start_with_tls();
    for ca_file in [None, other.ca_file()] {
        let settings = S3 { ca_file, ..backends::at(&server, &bucket) };
        let settings = backends::settings(Provider::S3(settings));
        let refused = Store::open_cloud_within(&settings, LITTLE, TINY).await.unwrap_err();
        assert!(matches!(refused, StoreError::Refused { .. }), "{refused:?}");
        assert!(refused.to_string().contains("certificate"), "{refused}");
    }
    assert_eq!(server.requests().all(), 0);
}

#[tokio::test]
async fn a_ca_file_that_is_not_there_is_named() {
    let server = Hostile::start();
    let settings = S3 { ca_file: Some("/nowhere/ca.pem".into()), ..backends::at(&server, "bucket") };
    let settings = backends::settings(Provider::S3(settings));
    let refused = Store::open_cloud(&settings, TINY).await.unwrap_err().to_string();
    assert!(refused.contains("cannot read the certificates in /nowhere/ca.pem"), "{refused}");
}
