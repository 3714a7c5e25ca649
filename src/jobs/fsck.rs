//! Compares the index with the store, shard by shard, in memory for one shard.

use std::collections::HashMap;

use berth_storage::{Algorithm, Digest, Key, Listed, Object, SHARDS, StoreError};

use super::{Context, JobError, Report, objects};
use crate::db::{blobs, doomed_objects, uploads};

/// How many [`Event::Step`]s a check has.
pub const STEPS: u64 = SHARDS as u64;

/// What a check does besides looking.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Hash every object.
    pub verify: bool,
    /// Mend what can be mended.
    pub repair: bool,
    /// Put objects nothing knows into the index.
    pub rebuild: bool,
}

/// What a check tells while it runs.
#[derive(Debug)]
pub enum Event {
    /// Another shard is done.
    Step {
        /// Bytes of the objects seen so far.
        bytes: u64,
    },
    /// Something was found.
    Found(Finding),
}

/// Something that does not match, or was mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A blob without its object.
    MissingObject {
        /// The blob.
        digest: Digest,
        /// The object.
        key: Key,
    },
    /// A blob whose object is too short or too long.
    WrongSize {
        /// The blob.
        digest: Digest,
        /// The object.
        key: Key,
        /// The blob's size in bytes.
        expected: u64,
        /// The object's size in bytes.
        actual: u64,
    },
    /// A blob whose object has other bytes.
    Damaged {
        /// The blob.
        digest: Digest,
        /// The object.
        key: Key,
        /// The digest of the object.
        actual: Digest,
    },
    /// An object nothing in the index knows.
    UnknownObject {
        /// The object.
        key: Key,
        /// Its size in bytes.
        size_bytes: u64,
    },
    /// A multipart upload nothing in the index knows: a crash fell between its beginning and the note of
    /// it.
    OpenMultipart {
        /// The object it was to become.
        key: Key,
    },
    /// An object that became a blob of the index.
    Restored {
        /// The blob.
        digest: Digest,
        /// The object.
        key: Key,
    },
    /// A blob that was known to be lost and is whole.
    Found {
        /// The blob.
        digest: Digest,
        /// The object.
        key: Key,
    },
}

/// What a check came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Blobs in the index.
    pub blobs: u64,
    /// Objects in the store.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What does not match.
    pub problems: u64,
    /// Of these, what was mended.
    pub mended: u64,
    /// Objects that became blobs.
    pub restored: u64,
}

struct Check<'a> {
    context: &'a Context,
    options: Options,
    tell: &'a mut (dyn FnMut(Event) + Send),
    summary: Summary,
}

/// Compares everything, and mends what `options` says.
pub async fn check(
    context: &Context,
    options: Options,
    tell: &mut (dyn FnMut(Event) + Send),
) -> Result<Summary, JobError> {
    let mut check = Check { context, options, tell, summary: Summary::default() };
    for shard in 0..SHARDS {
        check.shard(u8::try_from(shard).expect("shards are counted by a byte")).await?;
        (check.tell)(Event::Step { bytes: check.summary.bytes });
    }
    check.multiparts().await?;
    let summary = check.summary;
    if options.repair {
        objects::delete(context, &mut Report::default(), &mut |_| {}).await?;
    }
    Ok(summary)
}

impl Check<'_> {
    async fn shard(&mut self, shard: u8) -> Result<(), JobError> {
        let db = &self.context.db;
        let (from, before) = (format!("{shard:02x}"), bound(shard));
        // The store first: a key is in the index before its object is in the store, so an object that
        // is listed and has no row afterwards never had one, or lost it together with its bytes.
        let listed = self.context.store.list(shard).await?;
        self.summary.objects += listed.len() as u64;
        self.summary.bytes += listed.iter().map(|object| object.size_bytes).sum::<u64>();
        let mut unknown: HashMap<Key, Listed> =
            listed.into_iter().map(|object| (object.key.clone(), object)).collect();
        for session in uploads::keys(db, &from, &before).await? {
            unknown.remove(&session.storage_key);
            if let Some((key, _)) = session.writers_place() {
                unknown.remove(&key);
            }
        }
        // In the order in which keys move: one that moves meanwhile is seen where it was or where it is.
        let blobs = blobs::by_key(db, &from, &before).await?;
        let sizes: Vec<Option<u64>> = blobs
            .iter()
            .map(|blob| unknown.remove(&blob.storage_key).map(|object| object.size_bytes))
            .collect();
        for doomed in doomed_objects::keys(db, &from, &before).await? {
            unknown.remove(&doomed.storage_key);
        }
        for (blob, size_bytes) in blobs.into_iter().zip(sizes) {
            self.summary.blobs += 1;
            self.blob(blob, size_bytes).await?;
        }
        let mut unknown: Vec<Listed> = unknown.into_values().collect();
        unknown.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        for object in unknown {
            self.unknown(object).await?;
        }
        Ok(())
    }

    /// `listed` is the size of the blob's object, if the list had it.
    async fn blob(&mut self, blob: blobs::Stored, listed: Option<u64>) -> Result<(), JobError> {
        let (digest, key) = (blob.digest.clone(), blob.storage_key.clone());
        // Put since the list was made, or left out of it: some stores list late.
        let size_bytes = match listed {
            Some(size_bytes) if size_bytes == blob.size_bytes => Some(size_bytes),
            _ => self.context.store.size(&key).await?,
        };
        let problem = match size_bytes {
            None => Some(Finding::MissingObject { digest, key }),
            Some(actual) if actual != blob.size_bytes => {
                Some(Finding::WrongSize { digest, key, expected: blob.size_bytes, actual })
            }
            // What is known to be lost is only believed again when its bytes say so.
            Some(_) if self.options.verify || blob.missing_since.is_some() => self.hashed(&blob).await?,
            Some(_) => None,
        };
        match problem {
            Some(finding) => {
                // A server that runs beside this may have collected it, or healed it, since it was read.
                let now = blobs::stored(&self.context.db, &blob.digest).await?;
                if now.is_none_or(|now| now.storage_key != blob.storage_key) {
                    return Ok(());
                }
                self.problem(finding);
                if self.options.repair && blob.missing_since.is_none() {
                    self.lose(&blob).await?;
                }
            }
            None if blob.missing_since.is_some() => {
                let (digest, key) = (blob.digest.clone(), blob.storage_key.clone());
                self.problem(Finding::Found { digest, key });
                if self.options.repair {
                    self.find(&blob).await?;
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Multipart uploads that are open and belong to no session.
    async fn multiparts(&mut self) -> Result<(), JobError> {
        // The store first: whoever begins one has its key in the index already.
        for (key, multipart) in self.context.store.open_multiparts().await? {
            if uploads::is_key(&self.context.db, &key).await?
                || doomed_objects::is_key(&self.context.db, &key).await?
            {
                continue;
            }
            self.problem(Finding::OpenMultipart { key: key.clone() });
            if self.options.repair {
                self.context.store.abort(&key, &multipart).await?;
                self.summary.mended += 1;
            }
        }
        Ok(())
    }

    async fn hashed(&self, blob: &blobs::Stored) -> Result<Option<Finding>, JobError> {
        let (digest, key) = (blob.digest.clone(), blob.storage_key.clone());
        match self.context.store.hash(&key, blob.size_bytes, digest.algorithm()).await {
            Ok(actual) if actual == digest => Ok(None),
            Ok(actual) => Ok(Some(Finding::Damaged { digest, key, actual })),
            Err(StoreError::Missing { .. }) => Ok(Some(Finding::MissingObject { digest, key })),
            Err(error) => Err(error.into()),
        }
    }

    async fn unknown(&mut self, object: Listed) -> Result<(), JobError> {
        if self.options.rebuild && self.restore(&object).await? {
            return Ok(());
        }
        let Listed { key, size_bytes } = object;
        // A server that runs beside this may have ended an upload, and deleted what it had.
        if self.context.store.size(&key).await?.is_none() {
            return Ok(());
        }
        self.problem(Finding::UnknownObject { key: key.clone(), size_bytes });
        if self.options.repair {
            let now = self.context.clock.now();
            let mut tx = self.context.db.begin().await?;
            doomed_objects::insert(&mut tx, &key, None, now).await?;
            tx.commit().await?;
            self.summary.mended += 1;
        }
        Ok(())
    }

    /// Makes an object the blob of its bytes, unless another is.
    async fn restore(&mut self, object: &Listed) -> Result<bool, JobError> {
        let store = &self.context.store;
        let digest = store.hash(&object.key, object.size_bytes, Algorithm::Sha256).await?;
        let now = self.context.clock.now();
        let whole = Object { key: object.key.clone(), size_bytes: object.size_bytes, digest: digest.clone() };
        let mut tx = self.context.db.begin().await?;
        if blobs::insert(&mut tx, &digest, &whole, now).await? {
            // No repository holds it yet: it has gc.min_age to be pushed again.
            blobs::set_idle(&mut tx, &digest, now).await?;
        } else {
            let lost = blobs::stored(&mut tx, &digest).await?.filter(|blob| blob.missing_since.is_some());
            let Some(lost) = lost else { return Ok(false) };
            if !blobs::heal(&mut tx, &lost, &whole).await? {
                return Ok(false);
            }
            doomed_objects::insert(&mut tx, &lost.storage_key, None, now).await?;
        }
        tx.commit().await?;
        self.summary.restored += 1;
        (self.tell)(Event::Found(Finding::Restored { digest, key: object.key.clone() }));
        Ok(true)
    }

    async fn lose(&mut self, blob: &blobs::Stored) -> Result<(), JobError> {
        let now = self.context.clock.now();
        let mut tx = self.context.db.begin().await?;
        blobs::mark_missing(&mut tx, &blob.digest, &blob.storage_key, now).await?;
        tx.commit().await?;
        self.summary.mended += 1;
        Ok(())
    }

    async fn find(&mut self, blob: &blobs::Stored) -> Result<(), JobError> {
        let mut tx = self.context.db.begin().await?;
        blobs::mark_found(&mut tx, &blob.digest, &blob.storage_key).await?;
        tx.commit().await?;
        self.summary.mended += 1;
        Ok(())
    }

    fn problem(&mut self, finding: Finding) {
        self.summary.problems += 1;
        (self.tell)(Event::Found(finding));
    }
}

/// The least text behind every key of a shard.
fn bound(shard: u8) -> String {
    shard.checked_add(1).map_or_else(|| "g".to_owned(), |next| format!("{next:02x}"))
}
