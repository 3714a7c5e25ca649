//! The storage contract: what every backend does alike, written once over [`Store`].
//!
//! A backend joins by a line at [`contract`]; what only a folder can do wrong is in
//! `filesystem.rs` beside this file, what only an object store can in `cloud.rs`.

mod backends;
mod session;

use std::time::Duration;

use berth_storage::{
    Algorithm, Digest, Finished, Key, Listed, Object, Store, StoreError, WriteError, Written,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use proptest::prelude::*;
use tokio::time::Instant;

use self::backends::{PART, TINY, content};
use self::session::Session;

/// What a folder's writer hands to the disk in one go.
const BATCH: usize = 512 * 1024;
/// Ample, for a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Runs every part of the contract on a backend.
macro_rules! contract {
    ($($backend:ident),+: $parts:tt) => { $(contract!(@ $backend $parts);)+ };
    (@ $backend:ident ($($part:ident),+ $(,)?)) => {
        mod $backend {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $part() {
                let Some(scene) = super::backends::$backend(super::TINY).await else { return };
                tokio::time::timeout(super::PATIENCE, super::$part(&scene.store)).await.unwrap();
            })+

            #[test]
            fn any_split_of_the_bytes_gives_the_same_object() {
                super::any_split(|| super::backends::$backend(super::TINY));
            }
        }
    };
}

contract!(filesystem, s3s_fs, seaweedfs, azurite, google, hostile: (
    bytes_out_are_bytes_in,
    a_digest_is_of_the_algorithm_asked_for,
    bytes_of_another_digest_are_no_object,
    a_chunk_larger_than_a_batch_is_taken,
    an_upload_goes_on_where_it_was_suspended,
    an_upload_without_new_bytes_goes_on_all_the_same,
    what_lies_behind_the_known_offset_is_cut,
    a_dropped_writer_is_forgotten,
    a_session_that_claims_more_than_is_there_is_refused,
    a_session_whose_object_is_gone_is_refused,
    any_range_can_be_read,
    an_object_that_is_not_there_is_an_error_before_the_first_byte,
    an_object_of_another_size_is_an_error_before_the_first_byte,
    deleting_twice_is_no_error,
    a_list_has_every_object_of_its_shard_in_order,
    an_object_is_hashed_from_first_to_last_byte,
    writers_under_a_tiny_budget_all_finish,
    a_writer_comes_back_when_its_time_is_over,
    a_body_that_breaks_off_keeps_what_arrived,
));

async fn store(store: &Store, bytes: &Bytes) -> Object {
    let mut writing = Session::begin(Algorithm::Sha256).write(store);
    writing.bytes(bytes, 60_000).await;
    writing.finish(bytes).await
}

async fn read(store: &Store, object: &Object, range: std::ops::Range<u64>) -> Vec<u8> {
    let pieces = store.read(&object.key, object.size_bytes, range).await.unwrap();
    pieces.map_ok(|piece| piece.to_vec()).try_concat().await.unwrap()
}

async fn bytes_out_are_bytes_in(to: &Store) {
    let lengths = [0, 1, BATCH - 1, BATCH, BATCH + 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 3];
    for (seed, length) in lengths.into_iter().enumerate() {
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
    let mut writing = Session::begin(Algorithm::Sha512).write(to);
    writing.bytes(&bytes, 10_000).await;
    assert_eq!(writing.finish(&bytes).await.digest, Digest::of(Algorithm::Sha512, &bytes));
}

async fn bytes_of_another_digest_are_no_object(to: &Store) {
    for (first, all) in [(60_000, 100_000), (PART + 60_000, 2 * PART + 100_000)] {
        let bytes = content(12, all);
        let mut writing = Session::begin(Algorithm::Sha256).write(to);
        writing.bytes(&bytes.slice(..first), 10_000).await;
        let known = writing.suspend().await.unwrap();
        let mut writing = known.write(to);
        writing.bytes(&content(13, 50_000), 10_000).await;

        let finished = writing.finish_as(&Digest::of(Algorithm::Sha256, &bytes)).await;

        assert!(matches!(finished, Finished::Differs(_)), "{finished:?}");
        let mut writing = known.write(to);
        writing.bytes(&bytes.slice(first..), 10_000).await;
        let object = writing.finish(&bytes).await;
        assert!(read(to, &object, 0..object.size_bytes).await == bytes);
    }
}

async fn a_chunk_larger_than_a_batch_is_taken(to: &Store) {
    for length in [5 * BATCH + 1, 2 * PART + 1] {
        let bytes = content(1, length);
        let mut writing = Session::begin(Algorithm::Sha256).write(to);

        writing.bytes(&bytes, bytes.len()).await;

        let object = writing.finish(&bytes).await;
        assert!(read(to, &object, 0..object.size_bytes).await == bytes);
    }
}

async fn an_upload_goes_on_where_it_was_suspended(to: &Store) {
    for (length, part) in [(2 * BATCH + 77, 400_001), (3 * PART + 77, 3_500_001), (2 * PART, PART)] {
        let bytes = content(2, length);
        let mut session = Session::begin(Algorithm::Sha256);
        for part in bytes.chunks(part) {
            let mut writing = session.write(to);
            writing.bytes(&Bytes::copy_from_slice(part), 70_000).await;
            session = writing.suspend().await.unwrap();
        }

        let object = session.write(to).finish(&bytes).await;

        assert_eq!(object.digest, Digest::of(Algorithm::Sha256, &bytes));
        assert!(read(to, &object, 0..object.size_bytes).await == bytes);
    }
}

async fn an_upload_without_new_bytes_goes_on_all_the_same(to: &Store) {
    for length in [1_000, PART + 1_000] {
        let bytes = content(20, length);
        let mut writing = Session::begin(Algorithm::Sha256).write(to);
        writing.bytes(&bytes, 70_000).await;
        let mut session = writing.suspend().await.unwrap();
        for _ in 0..2 {
            session = session.write(to).suspend().await.unwrap();
            assert_eq!(session.offset, length as u64);
        }
        let object = session.write(to).finish(&bytes).await;
        assert!(read(to, &object, 0..object.size_bytes).await == bytes);
    }
}

async fn what_lies_behind_the_known_offset_is_cut(to: &Store) {
    for (known, all) in [(100_000, 300_000), (PART + 100_000, 2 * PART + 300_000)] {
        let bytes = content(3, all);
        let mut writing = Session::begin(Algorithm::Sha256).write(to);
        writing.bytes(&bytes.slice(..known), 50_000).await;
        let session = writing.suspend().await.unwrap();
        // A crash: these were stored and never accounted for.
        let mut writing = session.write(to);
        writing.bytes(&content(4, 500_000), 50_000).await;
        writing.suspend().await.unwrap();

        let mut writing = session.write(to);
        writing.bytes(&bytes.slice(known..), 50_000).await;

        let object = writing.finish(&bytes).await;
        assert_eq!(to.size(&object.key).await.unwrap(), Some(all as u64));
        assert_eq!(object.digest, Digest::of(Algorithm::Sha256, &bytes));
        assert!(read(to, &object, 0..all as u64).await == bytes);
    }
}

async fn a_dropped_writer_is_forgotten(to: &Store) {
    let session = Session::begin(Algorithm::Sha256);
    let mut writing = session.write(to);
    writing.bytes(&content(5, 100_000), 50_000).await;
    drop(writing);

    let object = session.write(to).finish(b"").await;

    assert_eq!(object.digest, Digest::of(Algorithm::Sha256, b""));
    assert_eq!(to.size(&object.key).await.unwrap(), Some(0));
}

async fn a_session_that_claims_more_than_is_there_is_refused(to: &Store) {
    let mut writing = Session::begin(Algorithm::Sha256).write(to);
    writing.bytes(&content(6, 1_000), 1_000).await;
    let session = writing.suspend().await.unwrap();
    let key = session.key().clone();

    let refused = go_on(to, &session.claiming(1_001)).await;

    assert!(matches!(refused, StoreError::WrongSize { expected: 1_001, actual: 1_000, .. }), "{refused:?}");
    assert_eq!(to.size(&key).await.unwrap(), Some(1_000), "it is left as it was");
}

async fn a_session_whose_object_is_gone_is_refused(to: &Store) {
    let mut writing = Session::begin(Algorithm::Sha256).write(to);
    writing.bytes(&content(7, 1_000), 1_000).await;
    let session = writing.suspend().await.unwrap();
    let key = session.key().clone();
    assert!(to.delete(&key, None).await.unwrap());

    let refused = go_on(to, &session).await;

    assert!(matches!(refused, StoreError::Missing { .. }), "{refused:?}");
    assert_eq!(to.size(&key).await.unwrap(), None, "it is not made again");
}

/// Sends a session one more byte, which must fail.
async fn go_on(to: &Store, session: &Session) -> StoreError {
    let mut writing = session.write(to);
    let mut byte = stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(b"x"))]);
    match writing.take(&mut byte).await {
        Err(WriteError::Store(error)) => error,
        _ => writing.suspend().await.unwrap_err(),
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
    let refused = to.read(&key, 10, 0..10).await.err();
    assert!(matches!(refused, Some(StoreError::Missing { .. })), "{refused:?}");
    assert!(matches!(to.hash(&key, 10, Algorithm::Sha256).await, Err(StoreError::Missing { .. })));
    assert_eq!(to.size(&key).await.unwrap(), None);
}

async fn an_object_of_another_size_is_an_error_before_the_first_byte(to: &Store) {
    let object = store(to, &content(9, 5_000)).await;
    for expected in [4_999, 5_001, 10_000, 0] {
        let refused = to.read(&object.key, expected, 0..expected.min(10)).await.err();
        assert!(matches!(refused, Some(StoreError::WrongSize { actual: 5_000, .. })), "{refused:?}");
        let last = expected.saturating_sub(1)..expected;
        let refused = to.read(&object.key, expected, last).await.err();
        assert!(matches!(refused, Some(StoreError::WrongSize { actual: 5_000, .. })), "{refused:?}");
        let refused = to.hash(&object.key, expected, Algorithm::Sha256).await;
        assert!(matches!(refused, Err(StoreError::WrongSize { actual: 5_000, .. })), "{refused:?}");
    }
}

async fn deleting_twice_is_no_error(to: &Store) {
    let object = store(to, &content(10, 5_000)).await;
    assert!(to.delete(&object.key, None).await.unwrap());
    to.delete(&object.key, None).await.unwrap();
    assert_eq!(to.size(&object.key).await.unwrap(), None);
    assert!(matches!(to.read(&object.key, 5_000, 0..1).await.err(), Some(StoreError::Missing { .. })));
}

async fn a_list_has_every_object_of_its_shard_in_order(to: &Store) {
    assert!(to.is_empty().await.unwrap());
    let key = |text: &str| Key::try_from(text.repeat(16)).unwrap();
    let [first, second, other] = ["a0", "a0", "a1"].map(key);
    let second = Key::try_from(format!("{}b", &second.as_str()[..31])).unwrap();
    for (key, length) in [(&second, 2_000), (&first, 1_000), (&other, 3_000)] {
        let mut writing = Session::under(key.clone(), Algorithm::Sha256).write(to);
        let bytes = content(11, length);
        writing.bytes(&bytes, 1_000).await;
        assert_eq!(writing.finish(&bytes).await.key, *key);
    }
    let listed = |key: &Key, size_bytes| Listed { key: key.clone(), size_bytes };
    until_listed(to, 0xa0, &[listed(&first, 1_000), listed(&second, 2_000)]).await;
    until_listed(to, 0xa1, &[listed(&other, 3_000)]).await;
    assert_eq!(to.list(0xff).await.unwrap(), []);
    assert!(!to.is_empty().await.unwrap());
}

/// Waits until a list is what it should be: those of some stores are some seconds old.
async fn until_listed(to: &Store, shard: u8, expected: &[Listed]) {
    loop {
        let found = to.list(shard).await.unwrap();
        if found == expected {
            return;
        }
        assert!(found.iter().all(|object| expected.contains(object)), "{found:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
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
    let uploads = (0..40).map(|seed| async move {
        let bytes = content(seed, if seed % 10 == 0 { PART + BATCH } else { BATCH + BATCH / 2 });
        let object = store(to, &bytes).await;
        assert_eq!(object.digest, Digest::of(Algorithm::Sha256, &bytes));
    });
    future::join_all(uploads).await;
}

async fn a_writer_comes_back_when_its_time_is_over(to: &Store) {
    let mut writing = Session::begin(Algorithm::Sha256).write(to);
    let first = stream::iter([Ok::<_, std::convert::Infallible>(content(14, 100))]);
    let mut body = first.chain(stream::pending()).boxed();

    let written = writing.take_until(&mut body, Instant::now() + Duration::from_millis(50)).await;

    assert!(matches!(written, Ok(Written::More)), "{written:?}");
    assert_eq!(writing.suspend().await.unwrap().offset, 100);
}

async fn a_body_that_breaks_off_keeps_what_arrived(to: &Store) {
    for length in [2 * BATCH + 5, PART + 5] {
        let bytes = content(15, length);
        let mut writing = Session::begin(Algorithm::Sha256).write(to);
        let arrived = bytes.chunks(65_536).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        let arrived: Vec<_> = arrived.chain([Err("cut")]).collect();

        let broken = writing.take(&mut stream::iter(arrived)).await;

        assert!(matches!(broken, Err(WriteError::Body("cut"))), "{broken:?}");
        let kept = writing.suspend().await.unwrap();
        assert_eq!(kept.offset, length as u64);
        assert_eq!(kept.upload().digest(), Digest::of(Algorithm::Sha256, &bytes));
        let object = kept.write(to).finish(&bytes).await;
        assert!(read(to, &object, 0..object.size_bytes).await == bytes);
    }
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

fn plan(longest: usize) -> impl Strategy<Value = Plan> {
    let cuts = prop::collection::vec((0..longest, any::<bool>()), 0..6);
    (0..longest, cuts, 1_000usize..700_000, any::<bool>()).prop_map(|(length, cuts, piece, sha512)| Plan {
        length,
        cuts,
        piece,
        sha512,
    })
}

async fn any_split_gives_the_same_object(to: &Store, plan: Plan) {
    let algorithm = if plan.sha512 { Algorithm::Sha512 } else { Algorithm::Sha256 };
    let bytes = content(plan.length as u64, plan.length);
    let mut cuts: Vec<_> = plan.cuts.iter().map(|(cut, crash)| (*cut.min(&plan.length), *crash)).collect();
    cuts.push((plan.length, false));
    cuts.sort_unstable();
    let mut session = Session::begin(algorithm);
    for (end, crash) in cuts {
        let start = usize::try_from(session.offset).unwrap();
        if crash {
            let mut writing = session.write(to);
            writing.bytes(&bytes.slice(start..end), plan.piece).await;
        }
        let mut writing = session.write(to);
        writing.bytes(&bytes.slice(start..end), plan.piece).await;
        session = writing.suspend().await.unwrap();
    }
    let object = session.write(to).finish(&bytes).await;
    assert_eq!(object.digest, Digest::of(algorithm, &bytes));
    assert!(read(to, &object, 0..object.size_bytes).await == bytes);
    to.delete(&object.key, None).await.unwrap();
}

fn any_split<F>(open: impl Fn() -> F)
where
    F: Future<Output = Option<backends::Scene>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let Some(scene) = runtime.block_on(open()) else { return };
    let (cases, longest) = if scene.store.writes_aside() { (12, 3 * PART) } else { (40, 1_500_000) };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(cases));
    let outcome = runner.run(&plan(longest), |plan| {
        runtime.block_on(any_split_gives_the_same_object(&scene.store, plan));
        Ok(())
    });
    outcome.unwrap();
}
