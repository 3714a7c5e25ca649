//! Names of files: when they are durable. All in one folder become so together, so that one sync of it serves
//! all who wait for one (decision 0018).

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::{Key, SHARDS};

/// So many files are remembered whose names may be durable by now. For one that is forgotten its folder is synced
/// once more than it had to be.
const REMEMBERED: usize = 512;

/// The names in all folders of a store.
#[derive(Debug)]
pub(super) struct Names {
    shards: Vec<Shard>,
    /// What was made here, the oldest first, and the first sync of its folder that it was part of.
    made: Mutex<VecDeque<(Key, u64)>>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect(), made: Mutex::default() }
    }

    /// Notes that the file of `key` was made just now.
    pub(super) fn made(&self, key: &Key) {
        let part_of = self.shard(key).next();
        let mut made = lock(&self.made);
        if made.len() >= REMEMBERED {
            made.pop_front();
        }
        made.push_back((key.clone(), part_of));
    }

    /// Returns when the name of the file at `path` would survive a power cut. Blocks.
    pub(super) fn sync(&self, key: &Key, path: &Path) -> io::Result<()> {
        let part_of = self.forget(key);
        let shard = self.shard(key);
        shard.sync(part_of.unwrap_or_else(|| shard.next()), || sync_parent(path))
    }

    /// Returns when the name of a file that was removed just now would stay away after a power cut. Blocks.
    pub(super) fn sync_removed(&self, key: &Key, path: &Path) -> io::Result<()> {
        self.forget(key);
        let shard = self.shard(key);
        shard.sync(shard.next(), || sync_parent(path))
    }

    fn forget(&self, key: &Key) -> Option<u64> {
        let mut made = lock(&self.made);
        // The youngest are asked for most.
        let at = made.iter().rposition(|(other, _)| other == key)?;
        made.remove(at).map(|(_, part_of)| part_of)
    }

    fn shard(&self, key: &Key) -> &Shard {
        &self.shards[usize::from(key.shard_number())]
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().expect("an object is in a folder"))?.sync_all()
}

/// The syncs of one folder: one at a time, counted from 1.
#[derive(Debug, Default)]
struct Shard {
    syncs: Mutex<Syncs>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Syncs {
    /// The last that has begun.
    begun: u64,
    /// The last that has ended: this one, or the one before.
    ended: u64,
    /// The last that failed, and the system's number for why.
    failed: u64,
    error: Option<i32>,
}

impl Shard {
    /// The first sync that what has changed by now is part of: one that is running may have begun before.
    fn next(&self) -> u64 {
        lock(&self.syncs).begun + 1
    }

    /// Returns when a sync has ended that is not before `part_of`; it is done with `work` if nobody does one. Who
    /// waits for one that fails fails too; who comes after that has another.
    fn sync(&self, part_of: u64, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut syncs = lock(&self.syncs);
        loop {
            if syncs.ended >= part_of && syncs.failed < part_of {
                return Ok(());
            }
            if syncs.begun == syncs.ended {
                break;
            }
            let running = syncs.begun;
            let waited = self.ended.wait_while(syncs, |syncs| syncs.ended < running);
            syncs = waited.unwrap_or_else(PoisonError::into_inner);
            if running >= part_of && syncs.failed >= running {
                return Err(syncs.error.map_or(io::ErrorKind::Other.into(), io::Error::from_raw_os_error));
            }
            if running >= part_of {
                return Ok(());
            }
        }
        syncs.begun += 1;
        let number = syncs.begun;
        drop(syncs);
        let outcome = work();
        let mut syncs = lock(&self.syncs);
        syncs.ended = number;
        if let Err(error) = &outcome {
            (syncs.failed, syncs.error) = (number, error.raw_os_error());
        }
        drop(syncs);
        self.ended.notify_all();
        outcome
    }
}

/// Nothing that holds one of these can panic half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// A folder whose disk makes durable what was there when a sync began.
    #[derive(Default)]
    struct Disk {
        names: Mutex<BTreeSet<u64>>,
        durable: Mutex<BTreeSet<u64>>,
        syncs: AtomicU64,
    }

    impl Disk {
        fn sync(&self, takes: Duration) {
            let seen = lock(&self.names).clone();
            thread::sleep(takes);
            lock(&self.durable).extend(seen);
            self.syncs.fetch_add(1, Ordering::Relaxed);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn whoever_was_told_so_is_durable(
            waits in proptest::collection::vec((0..300_u64, 0..300_u64), 2..40),
            takes in 0..300_u64,
        ) {
            let (shard, disk) = (Shard::default(), Disk::default());
            let count = waits.len() as u64;
            thread::scope(|scope| {
                for (name, (before, between)) in (0..).zip(waits) {
                    let (shard, disk) = (&shard, &disk);
                    scope.spawn(move || {
                        thread::sleep(Duration::from_micros(before));
                        lock(&disk.names).insert(name);
                        let part_of = shard.next();
                        thread::sleep(Duration::from_micros(between));
                        let work = || {
                            disk.sync(Duration::from_micros(takes));
                            Ok(())
                        };
                        shard.sync(part_of, work).unwrap();
                        assert!(lock(&disk.durable).contains(&name), "{name} is not durable");
                    });
                }
            });
            prop_assert!(disk.syncs.load(Ordering::Relaxed) <= count);
        }
    }

    #[test]
    fn one_sync_serves_all_who_came_before_it_and_is_not_done_again_for_them() {
        let (shard, count) = (Shard::default(), AtomicU64::new(0));
        let work = || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let part_of: Vec<u64> = (0..10).map(|_| shard.next()).collect();
        for part_of in part_of {
            shard.sync(part_of, work).unwrap();
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
        shard.sync(shard.next(), work).unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn all_who_wait_for_a_sync_that_fails_fail_and_the_next_has_another() {
        let (shard, started, failing) = (Shard::default(), Barrier::new(2), Barrier::new(2));
        let part_of = shard.next();
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                shard.sync(part_of, || {
                    started.wait();
                    failing.wait();
                    Err(io::Error::from_raw_os_error(5))
                })
            });
            started.wait();
            let second = scope.spawn(|| shard.sync(part_of, || unreachable!("one is running")));
            // It waits by then, or finds that one has failed and does another, which says so.
            thread::sleep(Duration::from_millis(50));
            failing.wait();
            for waiting in [first, second] {
                assert_eq!(waiting.join().unwrap().unwrap_err().raw_os_error(), Some(5));
            }
        });
        let mut is_done = false;
        shard
            .sync(part_of, || {
                is_done = true;
                Ok(())
            })
            .unwrap();
        assert!(is_done, "what a failed sync was for is taken for durable");
    }

    #[test]
    fn a_file_made_before_the_last_sync_of_its_folder_needs_none() {
        let folder = tempfile::tempdir().unwrap();
        let (here, gone) = (folder.path().join("file"), folder.path().join("gone").join("file"));
        let names = Names::new();
        let keys: Vec<Key> = (0..2 * REMEMBERED).map(|_| Key::generate()).collect();
        let [key, other] =
            keys.array_windows().find(|[one, next]| one.shard_number() == next.shard_number()).unwrap();
        names.made(key);
        assert!(names.sync(key, &gone).is_err(), "a folder that is not there was synced");
        names.made(key);
        names.sync(other, &here).unwrap();
        names.sync(key, &gone).unwrap();
        assert!(names.sync(key, &gone).is_err(), "it is remembered once");
        assert!(names.sync_removed(other, &gone).is_err(), "a removal needs a sync after it");
        for key in &keys {
            names.made(key);
        }
        assert_eq!(lock(&names.made).len(), REMEMBERED);
    }
}
