//! What many read at once, and what is kept near: read from the store once, whole, and in bounded memory.

mod backends;
mod session;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_storage::cloud::{Patience, Provider};
use berth_storage::{Algorithm, Key, Memory, Object, Store, StoreError, cache};
use berth_test_stores::{Backdoor as _, Stall};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use futures_util::{StreamExt as _, TryStreamExt as _};
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::backends::{Scene, content};
use self::session::Session;

const MIB: usize = 1024 * 1024;
/// Half a part.
const PIECE: u64 = backends::PART as u64 / 2;
const GIB: u64 = 1024 * 1024 * 1024;
const AMPLE: Memory = Memory { upload_bytes: 1, download_bytes: 256 * MIB as u64 };
/// Patience for a test.
const LITTLE: Patience = Patience {
    retry_for: Duration::from_secs(1),
    read: Duration::from_millis(400),
    write: Duration::from_millis(400),
    silence: Duration::from_millis(400),
};
const SOON: Duration = Duration::from_secs(30);

async fn scene(memory: Memory) -> Scene {
    backends::plain(Patience::default(), memory).await
}

async fn stored(to: &Store, bytes: &Bytes) -> Object {
    let mut writing = Session::begin(Algorithm::Sha256).write(to);
    writing.bytes(bytes, 70_000).await;
    writing.finish(bytes).await
}

async fn read(from: &Store, object: &Object, range: Range<u64>) -> Result<Bytes, StoreError> {
    let chunks: Vec<Bytes> = from.read(&object.key, object.size_bytes, range).await?.try_collect().await?;
    Ok(chunks.concat().into())
}

async fn whole(from: &Store, object: &Object) -> Result<Bytes, StoreError> {
    read(from, object, 0..object.size_bytes).await
}

fn bytes_read(store: &Store) -> u64 {
    store.reads().expect("an object store counts").bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_readers_of_one_object_have_it_read_once() {
    let scene = scene(AMPLE).await;
    let bytes = content(1, 30 * MIB);
    let object = stored(&scene.store, &bytes).await;
    let before = bytes_read(&scene.store);

    let mut readers = JoinSet::new();
    for number in 0..50 {
        let (store, object) = (scene.store.clone(), object.clone());
        readers.spawn(async move {
            // As the nodes of a cluster come: not all at the same moment.
            sleep(Duration::from_millis(10 * number)).await;
            whole(&store, &object).await.unwrap()
        });
    }
    for read in readers.join_all().await {
        assert!(read == bytes);
    }

    assert_eq!(bytes_read(&scene.store) - before, bytes.len() as u64);
}

#[tokio::test]
async fn one_who_does_not_take_what_comes_holds_nobody_up() {
    let scene = scene(AMPLE).await;
    let bytes = content(2, 30 * MIB);
    let object = stored(&scene.store, &bytes).await;

    let mut slow = scene.store.read(&object.key, object.size_bytes, 0..object.size_bytes).await.unwrap();
    let first = slow.next().await.unwrap().unwrap();
    assert!(timeout(SOON, whole(&scene.store, &object)).await.unwrap().unwrap() == bytes);

    let rest: Vec<Bytes> = slow.try_collect().await.unwrap();
    assert!([vec![first], rest].concat().concat() == bytes);
}

#[tokio::test]
async fn a_reader_is_read_for_at_most_one_part_ahead() {
    let scene = scene(AMPLE).await;
    let object = stored(&scene.store, &content(3, 40 * MIB)).await;
    let before = bytes_read(&scene.store);

    let mut reader = scene.store.read(&object.key, object.size_bytes, 0..object.size_bytes).await.unwrap();
    let first = reader.next().await.unwrap().unwrap();
    sleep(Duration::from_millis(500)).await;

    let ahead = bytes_read(&scene.store) - before - first.len() as u64;
    // And what the connection gave at once.
    assert!(ahead <= (backends::PART + MIB / 2) as u64, "{ahead} bytes ahead");
}

#[tokio::test]
async fn without_memory_for_pieces_each_reads_alone_and_all_get_everything() {
    let scene = scene(Memory { upload_bytes: 1, download_bytes: 3 * MIB as u64 }).await;
    let objects: Vec<(Bytes, Object)> = futures_util::stream::iter(0..4)
        .then(|seed| {
            let store = scene.store.clone();
            async move {
                let bytes = content(10 + seed, 12 * MIB + 1);
                let object = stored(&store, &bytes).await;
                (bytes, object)
            }
        })
        .collect()
        .await;

    let reads = objects.iter().map(|(_, object)| whole(&scene.store, object));
    for (read, (bytes, _)) in try_join_all(reads).await.unwrap().iter().zip(&objects) {
        assert!(read == bytes);
    }
}

#[tokio::test]
async fn trouble_with_a_shared_read_is_told_to_all_and_over_when_it_is() {
    let scene = backends::plain(LITTLE, AMPLE).await;
    let bytes = content(4, 9 * MIB);
    let object = stored(&scene.store, &bytes).await;
    scene.hostile().stall(Some(Stall::Answers));

    let began = Instant::now();
    let reads = join_all((0..10).map(|_| timeout(SOON, whole(&scene.store, &object)))).await;
    assert!(reads.into_iter().all(|read| read.unwrap().is_err()));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    scene.hostile().stall(None);
    assert!(whole(&scene.store, &object).await.unwrap() == bytes);
}

#[tokio::test]
async fn trouble_is_not_told_to_those_who_come_after_it() {
    let scene = backends::plain(LITTLE, AMPLE).await;
    let bytes = content(14, 9 * MIB);
    let object = stored(&scene.store, &bytes).await;
    scene.hostile().cut_bodies(Some(100_000));
    let mut slow = scene.store.read(&object.key, object.size_bytes, 0..object.size_bytes).await.unwrap();
    slow.next().await.unwrap().unwrap();
    scene.hostile().cut_bodies(Some(0));
    // The slow one has not come to the end of its piece, which has none.
    sleep(LITTLE.retry_for + Duration::from_secs(1)).await;
    scene.hostile().cut_bodies(None);

    assert!(whole(&scene.store, &object).await.unwrap() == bytes);
    let rest: Result<Vec<Bytes>, _> = slow.try_collect().await;
    assert!(rest.is_err());
}

#[tokio::test]
async fn an_object_that_is_gone_is_missing_for_all_who_share_its_read() {
    let scene = scene(AMPLE).await;
    let object = stored(&scene.store, &content(5, 9 * MIB)).await;
    assert!(scene.store.delete(&object.key, None).await.unwrap());

    for read in join_all((0..10).map(|_| whole(&scene.store, &object))).await {
        assert!(matches!(read, Err(StoreError::Missing { .. })), "{read:?}");
    }
}

#[tokio::test]
async fn an_object_is_not_read_any_more_once_it_was_deleted() {
    let scene = scene(AMPLE).await;
    let object = stored(&scene.store, &content(6, 1_000)).await;
    whole(&scene.store, &object).await.unwrap();

    scene.store.delete(&object.key, None).await.unwrap();

    let read = whole(&scene.store, &object).await;
    assert!(matches!(read, Err(StoreError::Missing { .. })), "{read:?}");
}

#[test]
fn any_ranges_read_at_once_are_what_is_there() {
    const LENGTH: u64 = 2 * PIECE + 7;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(7, usize::try_from(LENGTH).unwrap());
    let (scene, near, object) = runtime.block_on(async {
        let scene = scene(AMPLE).await;
        let object = stored(&scene.store, &bytes).await;
        let near = again(&scene).await;
        near.keep_near(settings(folder.path(), GIB)).await.unwrap();
        (scene, near, object)
    });
    let edge = prop_oneof![
        0..LENGTH,
        (0..3_u64, 0..3_u64).prop_map(|(piece, offset)| { (piece * PIECE + offset).saturating_sub(1) })
    ];
    let range = (edge.clone(), edge).prop_map(|(a, b)| a.min(b)..a.max(b) + 1);
    let ranges = proptest::collection::vec(range, 1..6);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(32));
    let outcome = runner.run(&ranges, |ranges| {
        let object = &object;
        let reads = ranges.iter().flat_map(|range| {
            [&scene.store, &near]
                .map(|store| async move { (range, read(store, object, range.clone()).await) })
        });
        for (range, read) in runtime.block_on(join_all(reads)) {
            let at = |position: u64| usize::try_from(position).unwrap();
            prop_assert!(read.unwrap() == bytes[at(range.start)..at(range.end)], "{:?}", range);
        }
        Ok(())
    });
    outcome.unwrap();
    runtime.block_on(near.close());
}

/// Another replica.
async fn again(scene: &Scene) -> Store {
    let provider = Provider::S3(backends::at(scene.hostile(), &scene.bucket));
    Store::open_cloud(&backends::settings(provider), AMPLE).await.unwrap()
}

fn settings(folder: &Path, size_bytes: u64) -> cache::Settings {
    cache::Settings { folder: folder.to_owned(), size_bytes }
}

async fn near(scene: &Scene, folder: &Path) -> Store {
    let store = again(scene).await;
    store.keep_near(settings(folder, GIB)).await.unwrap();
    store
}

#[tokio::test]
async fn what_is_kept_near_survives_a_restart_and_is_not_read_from_the_store() {
    let (scene, folder) = (scene(AMPLE).await, tempfile::tempdir().unwrap());
    let bytes = content(8, 10 * MIB + 3);
    let object = stored(&scene.store, &bytes).await;
    let first = near(&scene, folder.path()).await;
    assert!(whole(&first, &object).await.unwrap() == bytes);
    first.close().await;
    drop(first);

    let second = near(&scene, folder.path()).await;
    assert!(whole(&second, &object).await.unwrap() == bytes);

    let reads = second.reads().unwrap();
    assert_eq!((reads.requests, reads.bytes, reads.hits), (0, 0, 5), "{reads:?}");
}

#[tokio::test]
async fn what_was_damaged_near_is_fetched_anew() {
    let (scene, folder) = (scene(AMPLE).await, tempfile::tempdir().unwrap());
    let bytes = content(9, 10 * MIB);
    let object = stored(&scene.store, &bytes).await;
    let first = near(&scene, folder.path()).await;
    assert!(whole(&first, &object).await.unwrap() == bytes);
    first.close().await;
    drop(first);

    let damaged = flip_a_byte_of_each(&bytes, folder.path());
    assert!(damaged >= 3, "{damaged} pieces were found on the disk");
    let second = near(&scene, folder.path()).await;
    assert!(whole(&second, &object).await.unwrap() == bytes);

    let reads = second.reads().unwrap();
    assert_eq!((reads.hits, reads.bytes), (0, bytes.len() as u64), "{reads:?}");
}

/// Finds pieces by their first bytes, and changes one behind them.
fn flip_a_byte_of_each(bytes: &Bytes, folder: &Path) -> usize {
    let mut flipped = 0;
    let is_written = |path: &PathBuf| fs::metadata(path).unwrap().blocks() > 0;
    for path in files_below(folder).into_iter().filter(is_written) {
        let mut text = fs::read(&path).unwrap();
        for start in (0..bytes.len()).step_by(backends::PART / 2) {
            let begin = &bytes[start..start + 64];
            let Some(found) = text.windows(64).position(|window| window == begin) else { continue };
            text[found + 1_000] ^= 1;
            flipped += 1;
        }
        fs::write(&path, text).unwrap();
    }
    flipped
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    folders.iter().flat_map(|folder| files_below(folder)).chain(files).collect()
}

#[tokio::test]
async fn a_folder_keeps_for_one_process_and_one_size_and_nothing_else() {
    let (scene, folder) = (scene(AMPLE).await, tempfile::tempdir().unwrap());
    let first = near(&scene, folder.path()).await;
    let second = again(&scene).await;
    let refused = second.keep_near(settings(folder.path(), GIB)).await.unwrap_err().to_string();
    assert!(refused.contains("another process uses it"), "{refused}");
    drop(first);

    let other = near(&scene, folder.path()).await;
    let bytes = content(12, 1_000);
    let object = stored(&other, &bytes).await;
    whole(&other, &object).await.unwrap();
    other.close().await;
    drop(other);
    let larger = again(&scene).await;
    larger.keep_near(settings(folder.path(), 2 * GIB)).await.unwrap();
    let kept: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(kept.len(), 2, "the lock and one folder of pieces: {kept:?}");
    assert!(whole(&larger, &object).await.unwrap() == bytes);
    assert_eq!(larger.reads().unwrap().hits, 0);

    let strange = tempfile::tempdir().unwrap();
    fs::write(strange.path().join("thesis.txt"), "important").unwrap();
    let refused = second.keep_near(settings(strange.path(), GIB)).await.unwrap_err().to_string();
    assert!(refused.contains("thesis.txt"), "{refused}");
    assert!(strange.path().join("thesis.txt").exists());
}

#[tokio::test]
async fn a_scan_reads_the_store_whatever_is_kept_near() {
    let (scene, folder) = (scene(AMPLE).await, tempfile::tempdir().unwrap());
    let bytes = content(13, 1_000);
    let object = stored(&scene.store, &bytes).await;
    let store = near(&scene, folder.path()).await;
    assert!(whole(&store, &object).await.unwrap() == bytes);
    let name = format!("a/prefix/{}/{}", &object.key.as_str()[..2], object.key);
    scene.hostile().delete(&scene.bucket, &name).await;

    assert!(whole(&store, &object).await.unwrap() == bytes, "it is near");
    let scanned = store.scan(&object.key, object.size_bytes).await.map(|_| ());
    assert!(matches!(scanned, Err(StoreError::Missing { .. })), "{scanned:?}");
    let hashed = store.hash(&object.key, object.size_bytes, Algorithm::Sha256).await;
    assert!(matches!(hashed, Err(StoreError::Missing { .. })), "{hashed:?}");
    let unknown = Key::generate();
    assert!(matches!(store.scan(&unknown, 10).await.map(|_| ()), Err(StoreError::Missing { .. })));
}
