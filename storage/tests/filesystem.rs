//! What only a store in a folder can meet: a disk that is full, a folder that is not ours.

mod backends;
mod session;

use std::convert::Infallible;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use berth_storage::{Algorithm, Digest, Memory, Store, StoreError, Upload, WriteError};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::backends::{TINY, content};
use self::session::Session;

const MEMORY: Memory = Memory { upload_bytes: 16 * 1024 * 1024, download_bytes: 16 * 1024 * 1024 };

/// A file system of a test's own. It is unmounted when this value is dropped.
struct Mount(PathBuf);

impl Mount {
    /// None, after saying so, for who is not root. In CI that is a failure.
    fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "in CI these tests run as root");
            // Not eprintln, whose text the test runner keeps to itself when a test passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED a test of a mounted disk: root is missing");
            return None;
        }
        mount(&["-t", "tmpfs", "-o", options, "tmpfs"], at);
        Some(Self(at.to_owned()))
    }

    fn make_read_only(&self) {
        mount(&["-o", "remount,ro"], &self.0);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str], at: &Path) {
    let status = Command::new("mount").args(arguments).arg(at).status().unwrap();
    assert!(status.success(), "mount {arguments:?} {}", at.display());
}

fn body(bytes: &Bytes) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Unpin + use<> {
    stream::iter([Ok(bytes.clone())])
}

async fn refusal(root: &Path) -> StoreError {
    Store::open_filesystem(root, MEMORY).await.unwrap_err()
}

#[tokio::test]
async fn an_upload_that_fills_the_disk_goes_on_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::tmpfs(folder.path(), "size=2m") else { return };
    let store = Store::open_filesystem(folder.path(), MEMORY).await.unwrap();
    let filler = folder.path().join("00").join("filler");
    fs::write(&filler, vec![0; 1_200_000]).unwrap();
    let bytes = Bytes::from(vec![7; 1_500_000]);
    let mut writing = Session::begin(Algorithm::Sha256).write(&store);
    writing.take(&mut body(&bytes.slice(..300_000))).await.unwrap();

    let full = writing.take(&mut body(&bytes.slice(300_000..))).await.unwrap_err();

    assert!(matches!(full, WriteError::Store(StoreError::Full(_))), "{full:?}");
    let kept = writing.suspend().await.unwrap();
    assert_eq!(kept.offset, 300_000, "it stands where it stood");
    assert_eq!(kept.upload().digest(), Digest::of(Algorithm::Sha256, &bytes[..300_000]));
    assert_eq!(store.size(kept.key()).await.unwrap(), Some(300_000), "nothing of the rest takes room");

    fs::remove_file(&filler).unwrap();
    let mut writing = kept.write(&store);
    writing.take(&mut body(&bytes.slice(300_000..))).await.unwrap();
    let object = writing.finish(&bytes).await;
    let read = store.read(&object.key, object.size_bytes, 0..object.size_bytes).await.unwrap();
    assert!(read.map_ok(|piece| piece.to_vec()).try_concat().await.unwrap() == bytes);
}

#[tokio::test]
async fn a_long_upload_that_fills_the_disk_keeps_what_was_written_before() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::tmpfs(folder.path(), "size=8m") else { return };
    let store = Store::open_filesystem(folder.path(), MEMORY).await.unwrap();
    let filler = folder.path().join("00").join("filler");
    fs::write(&filler, vec![0; 4_000_000]).unwrap();
    let bytes = content(17, 6_000_000);
    let mut writing = Session::begin(Algorithm::Sha256).write(&store);
    let pieces: Vec<_> =
        bytes.chunks(65_536).map(|piece| Ok::<_, Infallible>(bytes.slice_ref(piece))).collect();

    let full = writing.take(&mut stream::iter(pieces)).await.unwrap_err();

    assert!(matches!(full, WriteError::Store(StoreError::Full(_))), "{full:?}");
    let kept = writing.suspend().await.unwrap();
    let offset = usize::try_from(kept.offset).unwrap();
    assert!((3_000_000..4_400_000).contains(&offset), "{offset}");
    assert_eq!(kept.upload().digest(), Digest::of(Algorithm::Sha256, &bytes[..offset]));
    assert_eq!(store.size(kept.key()).await.unwrap(), Some(kept.offset), "nothing of the rest takes room");

    fs::remove_file(&filler).unwrap();
    let mut writing = kept.write(&store);
    writing.bytes(&bytes.slice(offset..), 65_536).await;
    let object = writing.finish(&bytes).await;
    let read = store.read(&object.key, object.size_bytes, 0..object.size_bytes).await.unwrap();
    assert!(read.map_ok(|piece| piece.to_vec()).try_concat().await.unwrap() == bytes);
}

/// The thread that writes goes when nothing comes for a moment, and another takes up where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_with_pauses_loses_nothing() {
    let scene = backends::filesystem(MEMORY).await.unwrap();
    for seed in 0..8 {
        let bytes = content(seed, 50_000_000);
        let pieces = stream::iter(bytes.chunks(524_288).zip(0..)).then(|(piece, count)| {
            let piece = bytes.slice_ref(piece);
            // About as long as it waits, a little more with each piece.
            let pause = Duration::from_micros(1_000 + 50 * (seed + 7 * count) % 2_000);
            async move {
                tokio::time::sleep(pause).await;
                Ok::<_, Infallible>(piece)
            }
        });
        let mut writing = Session::begin(Algorithm::Sha256).write(&scene.store);
        writing.take(&mut pieces.boxed()).await.unwrap();
        let object = writing.finish(&bytes).await;
        let hashed = scene.store.hash(&object.key, object.size_bytes, Algorithm::Sha256).await.unwrap();
        assert_eq!(hashed, Digest::of(Algorithm::Sha256, &bytes));
    }
}

/// Each of these goes as fast as the disk, and its writer has to wait for a sync, which takes a thread too.
#[test]
fn more_fast_uploads_than_threads_all_get_their_turn() {
    const PATIENCE: Duration = Duration::from_mins(1);
    const PIECES: u64 = 100 * 16;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let scene = backends::filesystem(MEMORY).await.unwrap();
        let mut uploads = JoinSet::new();
        for _ in 0..4 {
            let mut writing = Session::begin(Algorithm::Sha256).write(&scene.store);
            uploads.spawn(async move {
                let piece = content(18, 65_536);
                let mut pieces = stream::iter((0..PIECES).map(|_| Ok::<_, Infallible>(piece.clone())));
                writing.take(&mut pieces).await.unwrap();
                writing.suspend().await.unwrap()
            });
        }
        let stopped = timeout(PATIENCE, uploads.join_all()).await.expect("they wait for each other");
        assert!(stopped.iter().all(|kept| kept.offset == PIECES * 65_536));
    });
}

/// The last bytes would begin a sync, which needs the thread that is about to sync all of it.
#[test]
fn an_upload_ends_with_the_only_thread_there_is() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let scene = backends::filesystem(MEMORY).await.unwrap();
        for length in (16_500_000..17_500_000).step_by(100_000) {
            let mut writing = Session::begin(Algorithm::Sha256).write(&scene.store);
            writing.bytes(&content(19, length), 60_000).await;
            let kept = timeout(Duration::from_mins(1), writing.suspend()).await.expect("it waits for itself");
            assert_eq!(kept.unwrap().offset, length as u64);
        }
    });
}

#[tokio::test]
async fn only_an_upload_whose_file_has_what_the_index_knows_is_closed_as_it_is() {
    let scene = backends::filesystem(TINY).await.unwrap();
    let store = &scene.store;
    let nothing = Session::begin(Algorithm::Sha256);
    assert!(!store.close_as_it_is(&nothing.upload()).await.unwrap(), "there is no file yet");
    let bytes = content(15, 1_000);
    let mut writing = nothing.write(store);
    writing.bytes(&bytes, 300).await;
    let kept = writing.suspend().await.unwrap();

    assert!(store.close_as_it_is(&kept.upload()).await.unwrap());

    let read = store.read(kept.key(), 1_000, 0..1_000).await.unwrap();
    assert!(read.map_ok(|piece| piece.to_vec()).try_concat().await.unwrap() == bytes);
    for offset in [999, 1_001] {
        let state = kept.upload().hash_state();
        let other = Upload::restore(kept.key().clone(), Algorithm::Sha256, offset, &state).unwrap();
        assert!(!store.close_as_it_is(&other).await.unwrap(), "{offset}");
    }
    assert_eq!(store.size(kept.key()).await.unwrap(), Some(1_000), "nothing was cut");
    // Its time may be over, and the index know nothing of it any more.
    let mut late = kept.write(store);
    late.checkpoint().await;
    assert!(!store.close_as_it_is(&kept.upload()).await.unwrap(), "a writer has it open");
    drop(late);
    assert!(store.close_as_it_is(&kept.upload()).await.unwrap());
}

#[tokio::test]
async fn a_download_beyond_the_memory_goes_on_in_smaller_pieces() {
    let scene = backends::filesystem(TINY).await.unwrap();
    let bytes = content(14, 1024 * 1024);
    let mut writing = Session::begin(Algorithm::Sha256).write(&scene.store);
    writing.bytes(&bytes, 60_000).await;
    let object = writing.finish(&bytes).await;
    let mut downloads = Vec::new();
    let mut held = Vec::new();
    for _ in 0..6 {
        let read = scene.store.read(&object.key, object.size_bytes, 0..object.size_bytes).await;
        let mut download = read.unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_stream_holds_no_memory() {
    const PATIENCE: Duration = Duration::from_mins(1);
    let scene = backends::filesystem(TINY).await.unwrap();
    let mut silent = JoinSet::new();
    for seed in 0..10 {
        let session = Session::begin(Algorithm::Sha256);
        let mut writing = session.write(&scene.store);
        silent.spawn(async move {
            let first = stream::iter([Ok::<_, Infallible>(content(seed, 100))]);
            writing.take(&mut first.chain(stream::pending()).boxed()).await
        });
        while scene.store.size(session.key()).await.unwrap() != Some(100) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    let bytes = content(13, 2 * 1024 * 1024);
    let mut writing = Session::begin(Algorithm::Sha256).write(&scene.store);
    timeout(PATIENCE, writing.bytes(&bytes, 60_000)).await.unwrap();
    writing.finish(&bytes).await;

    assert!(silent.try_join_next().is_none(), "they are still waiting");
}

#[tokio::test]
async fn a_full_disk_has_no_room_for_a_new_store() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::tmpfs(folder.path(), "size=1m,nr_inodes=100") else { return };
    let refused = refusal(folder.path()).await;
    assert!(matches!(refused, StoreError::NotWritable { .. } | StoreError::Full(_)), "{refused:?}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::tmpfs(folder.path(), "ro,size=1m") else { return };

    let refused = refusal(folder.path()).await;

    assert!(matches!(refused, StoreError::NotWritable { .. }), "{refused:?}");
    assert!(refused.to_string().contains(&folder.path().display().to_string()), "{refused}");
}

#[tokio::test]
async fn a_store_that_can_no_longer_be_written_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(folder.path(), "size=1m") else { return };
    drop(Store::open_filesystem(folder.path(), MEMORY).await.unwrap());
    mount.make_read_only();

    let refused = refusal(folder.path()).await;

    assert!(matches!(refused, StoreError::NotWritable { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_folder_with_something_else_in_it_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("holiday.jpg"), b"sea").unwrap();

    let refused = refusal(folder.path()).await;

    assert!(matches!(refused, StoreError::NotAStore { .. }), "{refused:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_path_that_is_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"bytes").unwrap();
    let refused = refusal(&file).await;
    assert!(matches!(refused, StoreError::NotWritable { .. }), "{refused:?}");
    assert_eq!(fs::read(&file).unwrap(), b"bytes");
}

#[tokio::test]
async fn a_store_of_another_version_is_refused_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open_filesystem(folder.path(), MEMORY).await.unwrap());
    let marker = folder.path().join("berth-store.json");
    fs::write(&marker, r#"{"format":2,"id":"x","shards":65536}"#).unwrap();

    let refused = refusal(folder.path()).await;

    assert!(matches!(refused, StoreError::Format { found: 2, supported: 1, .. }), "{refused:?}");
}

#[tokio::test]
async fn a_damaged_marker_is_refused_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open_filesystem(folder.path(), MEMORY).await.unwrap());
    let marker = folder.path().join("berth-store.json");
    for damaged in ["", "{", "[]", r#"{"format":"1"}"#, r#"{"format":1}"#] {
        fs::write(&marker, damaged).unwrap();
        let refused = refusal(folder.path()).await;
        assert!(matches!(refused, StoreError::Marker { .. }), "{damaged:?}: {refused:?}");
        assert!(refused.to_string().contains("berth-store.json"), "{refused}");
    }
}

#[tokio::test]
async fn a_store_keeps_its_name_and_its_objects() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_filesystem(folder.path(), MEMORY).await.unwrap();
    let mut writing = Session::begin(Algorithm::Sha256).write(&store);
    writing.take(&mut body(&Bytes::from_static(b"hello"))).await.unwrap();
    let object = writing.finish(b"hello").await;

    let again = Store::open_filesystem(folder.path(), MEMORY).await.unwrap();

    assert_eq!(again.id(), store.id());
    assert_eq!(again.size(&object.key).await.unwrap(), Some(5));
    let other = tempfile::tempdir().unwrap();
    assert_ne!(Store::open_filesystem(other.path(), MEMORY).await.unwrap().id(), store.id());
}

#[tokio::test]
async fn a_store_whose_making_was_cut_short_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["00", "01", "lost+found"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("berth-store.json.new"), "{\"for").unwrap();
    let store = Store::open_filesystem(folder.path(), MEMORY).await.unwrap();
    assert_eq!(store.list(0xff).await.unwrap(), []);
}

#[tokio::test]
async fn two_writers_never_have_one_object_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_filesystem(folder.path(), MEMORY).await.unwrap();
    let session = Session::begin(Algorithm::Sha256);
    let mut first = session.write(&store);
    first.checkpoint().await;

    let second = session.write(&store).suspend().await.unwrap_err();

    assert!(matches!(second, StoreError::Busy { .. }), "{second}");
    drop(first);
    session.write(&store).suspend().await.unwrap();
}

#[tokio::test]
async fn a_writer_that_comes_late_leaves_alone_what_is_there() {
    let scene = backends::filesystem(TINY).await.unwrap();
    let store = &scene.store;
    let bytes = content(16, 1_000);
    let begun = Session::begin(Algorithm::Sha256);
    let mut writing = begun.write(store);
    writing.bytes(&bytes.slice(..600), 300).await;
    let kept = writing.suspend().await.unwrap();
    for session in [&begun, &kept] {
        let late = session.clone().taken();

        for rest in [bytes.slice(600..600), bytes.slice(600..)] {
            let mut writing = late.write(store);
            writing.bytes(&rest, 300).await;
            let refused = writing.suspend().await.unwrap_err();
            assert!(matches!(refused, StoreError::Busy { .. }), "{refused}");
        }

        assert_eq!(store.size(kept.key()).await.unwrap(), Some(600), "nothing was cut or written");
    }
    kept.write(store).finish(&bytes.slice(..600)).await;
}

#[tokio::test]
async fn an_object_is_read_from_the_disk_as_it_is_from_memory() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_filesystem(folder.path(), MEMORY).await.unwrap();
    let bytes = Bytes::from((0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect::<Vec<_>>());
    let mut writing = Session::begin(Algorithm::Sha256).write(&store);
    writing.take(&mut body(&bytes)).await.unwrap();
    let object = writing.finish(&bytes).await;
    for times in 0..2 {
        let path = folder.path().join(&object.key.as_str()[..2]).join(object.key.as_str());
        let file = fs::File::open(path).unwrap();
        rustix::fs::fadvise(&file, 1_000_000, None, rustix::fs::Advice::DontNeed).unwrap();

        let pieces = store.read(&object.key, object.size_bytes, 0..object.size_bytes).await.unwrap();

        let read = pieces.map_ok(|piece| piece.to_vec()).try_concat().await.unwrap();
        assert!(read == bytes, "reading {times}");
    }
}
