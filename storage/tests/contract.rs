//! The storage contract: what every backend does alike, written once over [`Store`].
//!
//! A backend joins by a line at [`contract`]; what only a folder can do wrong is in
//! `filesystem.rs` beside this file.

use std::convert::Infallible;
use std::time::Duration;

use berth_storage::{
    Algorithm, Digest, Finished, Key, Listed, Memory, Object, Store, StoreError, Upload, WriteError, Writer,
    Written,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// What a writer hands to the store in one go.
const BATCH: usize = 512 * 1024;
/// Memory for two batches, the least there is, and for two large pieces on their way out.
const TINY: Memory = Memory { upload_bytes: 1, download_bytes: 512 * 1024 };
/// Ample, for a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// A store of a test's own, and what goes away with it.
struct Scene {
    store: Store,
    _folder: TempDir,
}

async fn filesystem(memory: Memory) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_filesystem(folder.path(), memory).await.unwrap();
    Scene { store, _folder: folder }
}

/// Runs every part of the contract on a backend.
macro_rules! contract {
    ($backend:ident: $($part:ident),+ $(,)?) => {
        mod $backend {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $part() {
                let scene = super::$backend(super::TINY).await;
                tokio::time::timeout(super::PATIENCE, super::$part(&scene.store)).await.unwrap();
            })+
        }
    };
}

contract!(filesystem:
    bytes_out_are_bytes_in,
    a_digest_is_of_the_algorithm_asked_for,
    bytes_of_another_digest_are_no_object,
    a_chunk_larger_than_a_batch_is_taken,
    an_upload_goes_on_where_it_was_suspended,
    what_lies_behind_the_known_offset_is_cut,
    a_dropped_writer_is_forgotten,
    a_session_that_claims_more_than_is_there_is_refused,
    a_session_whose_object_is_gone_is_refused,
    any_range_can_be_read,
    a_download_beyond_the_memory_goes_on_in_smaller_pieces,
    an_object_that_is_not_there_is_an_error_before_the_first_byte,
    an_object_of_another_size_is_an_error_before_the_first_byte,
    deleting_twice_is_no_error,
    a_list_has_every_object_of_its_shard_in_order,
    an_object_is_hashed_from_first_to_last_byte,
    writers_under_a_tiny_budget_all_finish,
    a_silent_stream_holds_no_memory,
    a_writer_comes_back_when_its_time_is_over,
    a_body_that_breaks_off_keeps_what_arrived,
);

/// Bytes that depend on the seed alone, in pieces as a network would bring them.
fn content(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(length.div_ceil(8)).flatten().take(length).collect()
}

fn pieces(bytes: &Bytes, size: usize) -> Vec<Result<Bytes, Infallible>> {
    (0..bytes.len()).step_by(size).map(|at| Ok(bytes.slice(at..bytes.len().min(at + size)))).collect()
}

fn later() -> Instant {
    Instant::now() + PATIENCE
}

async fn write(writer: &mut Writer, bytes: &Bytes, size: usize) {
    let written = writer.write_from(&mut stream::iter(pieces(bytes, size)), later()).await;
    assert!(matches!(written, Ok(Written::End)), "{written:?}");
}

async fn store(store: &Store, bytes: &Bytes) -> Object {
    let mut writer = store.writer(Upload::begin(Key::generate(), Algorithm::Sha256));
    write(&mut writer, bytes, 60_000).await;
    finish(writer, bytes).await
}

async fn finish(writer: Writer, bytes: &[u8]) -> Object {
    finish_as(writer, &Digest::of(Algorithm::Sha256, bytes)).await
}

async fn finish_as(writer: Writer, announced: &Digest) -> Object {
    match writer.finish(announced).await.unwrap() {
        Finished::Object(object) => object,
        Finished::Differs(digest) => panic!("its bytes are {digest}"),
    }
}

async fn read(store: &Store, object: &Object, range: std::ops::Range<u64>) -> Vec<u8> {
    let pieces = store.read(&object.key, object.size_bytes, range).await.unwrap();
    pieces.map_ok(|piece| piece.to_vec()).try_concat().await.unwrap()
}

async fn bytes_out_are_bytes_in(to: &Store) {
    for (seed, length) in [0, 1, BATCH - 1, BATCH, BATCH + 1, 9 * 1024 * 1024 + 3].into_iter().enumerate() {
        let bytes = content(seed as u64, length);

        let object = store(to, &bytes).await;

        assert_eq!(object.size_bytes, length as u64);
        assert_eq!(object.digest, Digest::of(Algorithm::Sha256, &bytes));
        assert_eq!(to.size(&object.key).await.unwrap(), Some(length as u64));
        assert!(read(to, &object, 0..object.size_bytes).await == bytes, "{length} bytes");
    }
}

async fn a_digest_is_of_the_algorithm_asked_for(to: &Store) {
    let bytes = content(1, 100_000);
    let mut writer = to.writer(Upload::begin(Key::generate(), Algorithm::Sha512));
    write(&mut writer, &bytes, 10_000).await;
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    assert_eq!(finish_as(writer, &digest).await.digest, digest);
}

async fn bytes_of_another_digest_are_no_object(to: &Store) {
    let bytes = content(12, 100_000);
    let mut writer = to.writer(Upload::begin(Key::generate(), Algorithm::Sha256));
    write(&mut writer, &bytes.slice(..60_000), 10_000).await;
    let known = writer.suspend().await.unwrap();
    let mut writer = to.writer(known.clone());
    write(&mut writer, &content(13, 50_000), 10_000).await;

    let finished = writer.finish(&Digest::of(Algorithm::Sha256, &bytes)).await.unwrap();

    assert!(matches!(finished, Finished::Differs(_)), "{finished:?}");
    let mut writer = to.writer(known);
    write(&mut writer, &bytes.slice(60_000..), 10_000).await;
    let object = finish(writer, &bytes).await;
    assert!(read(to, &object, 0..object.size_bytes).await == bytes);
}

async fn a_chunk_larger_than_a_batch_is_taken(to: &Store) {
    let bytes = content(1, 5 * BATCH + 1);
    let mut writer = to.writer(Upload::begin(Key::generate(), Algorithm::Sha256));

    write(&mut writer, &bytes, bytes.len()).await;

    let object = finish(writer, &bytes).await;
    assert!(read(to, &object, 0..object.size_bytes).await == bytes);
}

async fn an_upload_goes_on_where_it_was_suspended(to: &Store) {
    let bytes = content(2, 2 * BATCH + 77);
    let mut upload = Upload::begin(Key::generate(), Algorithm::Sha256);
    for part in bytes.chunks(400_001) {
        let mut writer = to.writer(upload);
        write(&mut writer, &Bytes::copy_from_slice(part), 70_000).await;
        let suspended = writer.suspend().await.unwrap();
        // As another process would find it.
        let (key, offset) = (suspended.key().clone(), suspended.offset());
        upload = Upload::restore(key, Algorithm::Sha256, offset, &suspended.hash_state()).unwrap();
    }

    let object = finish(to.writer(upload), &bytes).await;

    assert_eq!(object.digest, Digest::of(Algorithm::Sha256, &bytes));
    assert!(read(to, &object, 0..object.size_bytes).await == bytes);
}

async fn what_lies_behind_the_known_offset_is_cut(to: &Store) {
    let bytes = content(3, 300_000);
    let mut writer = to.writer(Upload::begin(Key::generate(), Algorithm::Sha256));
    write(&mut writer, &bytes.slice(..100_000), 50_000).await;
    let known = writer.checkpoint().await.unwrap().clone();
    // A crash: these were stored and never accounted for.
    write(&mut writer, &content(4, 500_000), 50_000).await;
    writer.suspend().await.unwrap();

    let mut writer = to.writer(known);
    write(&mut writer, &bytes.slice(100_000..), 50_000).await;

    let object = finish(writer, &bytes).await;
    assert_eq!(to.size(&object.key).await.unwrap(), Some(300_000));
    assert_eq!(object.digest, Digest::of(Algorithm::Sha256, &bytes));
    assert!(read(to, &object, 0..300_000).await == bytes);
}

async fn a_dropped_writer_is_forgotten(to: &Store) {
    let upload = Upload::begin(Key::generate(), Algorithm::Sha256);
    let mut writer = to.writer(upload.clone());
    write(&mut writer, &content(5, 100_000), 50_000).await;
    drop(writer);

    let object = finish(to.writer(upload), b"").await;

    assert_eq!(object.digest, Digest::of(Algorithm::Sha256, b""));
    assert_eq!(to.size(&object.key).await.unwrap(), Some(0));
}

async fn a_session_that_claims_more_than_is_there_is_refused(to: &Store) {
    let mut writer = to.writer(Upload::begin(Key::generate(), Algorithm::Sha256));
    write(&mut writer, &content(6, 1_000), 1_000).await;
    let upload = writer.suspend().await.unwrap();
    let (key, state) = (upload.key().clone(), upload.hash_state());
    let claims = Upload::restore(key, Algorithm::Sha256, 1_001, &state).unwrap();

    let refused = to.writer(claims).suspend().await.unwrap_err();

    assert!(matches!(refused, StoreError::WrongSize { expected: 1_001, actual: 1_000, .. }), "{refused:?}");
    assert_eq!(to.size(upload.key()).await.unwrap(), Some(1_000), "it is left as it was");
}

async fn a_session_whose_object_is_gone_is_refused(to: &Store) {
    let mut writer = to.writer(Upload::begin(Key::generate(), Algorithm::Sha256));
    write(&mut writer, &content(7, 1_000), 1_000).await;
    let upload = writer.suspend().await.unwrap();
    let key = upload.key().clone();
    assert!(to.delete(&key).await.unwrap());

    let refused = to.writer(upload).suspend().await.unwrap_err();

    assert!(matches!(refused, StoreError::Missing { .. }), "{refused:?}");
    assert_eq!(to.size(&key).await.unwrap(), None, "it is not made again");
}

async fn a_download_beyond_the_memory_goes_on_in_smaller_pieces(to: &Store) {
    let bytes = content(14, 1024 * 1024);
    let object = store(to, &bytes).await;
    let mut downloads = Vec::new();
    let mut held = Vec::new();
    for _ in 0..6 {
        let mut download = to.read(&object.key, object.size_bytes, 0..object.size_bytes).await.unwrap();
        // Its client has yet to take it.
        held.push(vec![download.next().await.unwrap().unwrap()]);
        downloads.push(download);
    }

    let sizes: Vec<usize> = held.iter().map(|pieces| pieces[0].len()).collect();

    let (large, small) = sizes.split_at(2);
    let of_large: usize = large.iter().sum();
    assert!(of_large as u64 <= TINY.download_bytes && of_large > small.iter().sum(), "{sizes:?}");
    for (download, pieces) in downloads.into_iter().zip(&mut held) {
        pieces.extend(download.try_collect::<Vec<_>>().await.unwrap());
        assert!(pieces.concat() == bytes);
    }
}

async fn any_range_can_be_read(to: &Store) {
    let bytes = content(8, 1_000_000);
    let object = store(to, &bytes).await;
    let ranges = [
        0..0,
        0..1,
        999_999..1_000_000,
        1_000_000..1_000_000,
        262_143..262_145,
        262_144..524_288,
        5..999_995,
    ];
    for range in ranges {
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
        assert!(read(to, &object, range.clone()).await == bytes[start..end], "{range:?}");
    }
}

async fn an_object_that_is_not_there_is_an_error_before_the_first_byte(to: &Store) {
    let key = Key::generate();
    assert!(matches!(to.read(&key, 10, 0..10).await.err(), Some(StoreError::Missing { .. })));
    assert!(matches!(to.hash(&key, 10, Algorithm::Sha256).await, Err(StoreError::Missing { .. })));
    assert_eq!(to.size(&key).await.unwrap(), None);
}

async fn an_object_of_another_size_is_an_error_before_the_first_byte(to: &Store) {
    let object = store(to, &content(9, 5_000)).await;
    for expected in [4_999, 5_001, 0] {
        let refused = to.read(&object.key, expected, 0..expected.min(10)).await.err();
        assert!(matches!(refused, Some(StoreError::WrongSize { actual: 5_000, .. })), "{refused:?}");
        let refused = to.hash(&object.key, expected, Algorithm::Sha256).await;
        assert!(matches!(refused, Err(StoreError::WrongSize { actual: 5_000, .. })), "{refused:?}");
    }
}

async fn deleting_twice_is_no_error(to: &Store) {
    let object = store(to, &content(10, 5_000)).await;
    assert!(to.delete(&object.key).await.unwrap());
    assert!(!to.delete(&object.key).await.unwrap());
    assert_eq!(to.size(&object.key).await.unwrap(), None);
    assert!(matches!(to.read(&object.key, 5_000, 0..1).await.err(), Some(StoreError::Missing { .. })));
}

async fn a_list_has_every_object_of_its_shard_in_order(to: &Store) {
    let key = |text: &str| Key::try_from(text.repeat(16)).unwrap();
    let [first, second, other] = ["a0", "a0", "a1"].map(key);
    let second = Key::try_from(format!("{}b", &second.as_str()[..31])).unwrap();
    for (key, length) in [(&second, 2_000), (&first, 1_000), (&other, 3_000)] {
        let mut writer = to.writer(Upload::begin(key.clone(), Algorithm::Sha256));
        let bytes = content(11, length);
        write(&mut writer, &bytes, 1_000).await;
        finish(writer, &bytes).await;
    }
    let listed = |key: &Key, size_bytes| Listed { key: key.clone(), size_bytes };
    assert_eq!(to.list(0xa0).await.unwrap(), [listed(&first, 1_000), listed(&second, 2_000)]);
    assert_eq!(to.list(0xa1).await.unwrap(), [listed(&other, 3_000)]);
    assert_eq!(to.list(0xff).await.unwrap(), []);
}

async fn an_object_is_hashed_from_first_to_last_byte(to: &Store) {
    let bytes = content(12, BATCH + 1);
    let object = store(to, &bytes).await;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let hashed = to.hash(&object.key, object.size_bytes, algorithm).await.unwrap();
        assert_eq!(hashed, Digest::of(algorithm, &bytes));
    }
}

async fn writers_under_a_tiny_budget_all_finish(to: &Store) {
    let uploads = (0..60).map(|seed| async move {
        let bytes = content(seed, BATCH + BATCH / 2);
        let object = store(to, &bytes).await;
        assert_eq!(object.digest, Digest::of(Algorithm::Sha256, &bytes));
    });
    future::join_all(uploads).await;
}

async fn a_silent_stream_holds_no_memory(to: &Store) {
    let mut silent = JoinSet::new();
    for seed in 0..10 {
        let (to, key) = (to.clone(), Key::generate());
        let mut writer = to.writer(Upload::begin(key.clone(), Algorithm::Sha256));
        silent.spawn(async move {
            let first = stream::iter([Ok::<_, Infallible>(content(seed, 100))]);
            writer.write_from(&mut first.chain(stream::pending()).boxed(), later()).await
        });
        while to.size(&key).await.unwrap() != Some(100) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    let bytes = content(13, 4 * BATCH);
    let object = timeout(PATIENCE / 2, store(to, &bytes)).await.unwrap();

    assert_eq!(object.digest, Digest::of(Algorithm::Sha256, &bytes));
    assert!(silent.try_join_next().is_none(), "they are still waiting");
}

async fn a_writer_comes_back_when_its_time_is_over(to: &Store) {
    let mut writer = to.writer(Upload::begin(Key::generate(), Algorithm::Sha256));
    let first = stream::iter([Ok::<_, Infallible>(content(14, 100))]);
    let mut body = first.chain(stream::pending()).boxed();

    let written = writer.write_from(&mut body, Instant::now() + Duration::from_millis(50)).await;

    assert!(matches!(written, Ok(Written::More)), "{written:?}");
    assert_eq!(writer.suspend().await.unwrap().offset(), 100);
}

async fn a_body_that_breaks_off_keeps_what_arrived(to: &Store) {
    let bytes = content(15, 2 * BATCH + 5);
    let mut writer = to.writer(Upload::begin(Key::generate(), Algorithm::Sha256));
    let arrived = pieces(&bytes, 65_536).into_iter().map(|piece| piece.map_err(|never| match never {}));

    let broken = writer.write_from(&mut stream::iter(arrived.chain([Err("cut")])), later()).await;

    assert!(matches!(broken, Err(WriteError::Body("cut"))), "{broken:?}");
    let kept = writer.suspend().await.unwrap();
    assert_eq!((kept.offset(), kept.digest()), (bytes.len() as u64, Digest::of(Algorithm::Sha256, &bytes)));
    assert_eq!(to.size(kept.key()).await.unwrap(), Some(bytes.len() as u64));
}

/// One way to send an object: its length, where requests end, how large the pieces of a request
/// are, and whether a request's writer crashes after it, so that it is sent again.
#[derive(Debug, Clone)]
struct Plan {
    length: usize,
    cuts: Vec<(usize, bool)>,
    piece: usize,
    sha512: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let cuts = prop::collection::vec((0usize..1_500_000, any::<bool>()), 0..6);
    (0usize..1_500_000, cuts, 1_000usize..700_000, any::<bool>())
        .prop_map(|(length, cuts, piece, sha512)| Plan { length, cuts, piece, sha512 })
}

async fn any_split_gives_the_same_object(to: &Store, plan: Plan) {
    let algorithm = if plan.sha512 { Algorithm::Sha512 } else { Algorithm::Sha256 };
    let bytes = content(plan.length as u64, plan.length);
    let mut cuts: Vec<_> = plan.cuts.iter().map(|(cut, crash)| (*cut.min(&plan.length), *crash)).collect();
    cuts.push((plan.length, false));
    cuts.sort_unstable();
    let mut upload = Upload::begin(Key::generate(), algorithm);
    for (end, crash) in cuts {
        let start = usize::try_from(upload.offset()).unwrap();
        if crash {
            let mut writer = to.writer(upload.clone());
            write(&mut writer, &bytes.slice(start..end), plan.piece).await;
        }
        let mut writer = to.writer(upload);
        write(&mut writer, &bytes.slice(start..end), plan.piece).await;
        let kept = writer.suspend().await.unwrap();
        upload = Upload::restore(kept.key().clone(), algorithm, kept.offset(), &kept.hash_state()).unwrap();
    }
    let object = finish_as(to.writer(upload), &Digest::of(algorithm, &bytes)).await;
    assert_eq!(object.digest, Digest::of(algorithm, &bytes));
    assert!(read(to, &object, 0..object.size_bytes).await == bytes);
    to.delete(&object.key).await.unwrap();
}

#[test]
fn any_split_of_the_bytes_gives_the_same_object() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let scene = runtime.block_on(filesystem(TINY));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(40));
    let outcome = runner.run(&plan(), |plan| {
        runtime.block_on(any_split_gives_the_same_object(&scene.store, plan));
        Ok(())
    });
    outcome.unwrap();
}
