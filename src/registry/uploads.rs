//! Upload sessions: a blob on its way in.
//!
//! A session's key is chosen, and written down, before its first byte is stored; that is what lets a
//! crash at any point leave nothing we cannot find again. Who writes to a session holds a lease on
//! it, renewed while bytes come: two writers cannot interleave, on any replica.

use std::time::Duration;

use berth_auth::Push;
use berth_storage::{
    Algorithm, Digest, Finished, Key, Object, StoreError, Upload, WriteError, Writer, Written,
};
use tokio::time::Instant;

use super::blobs::Blob;
use super::{Permit, Registry, RegistryError, Source, again};
use crate::db::{self, blobs, doomed_objects, manifests, repositories, uploads};
use crate::oci::RepositoryName;

type Result<T> = std::result::Result<T, RegistryError>;

/// How long a writer may be silent before its session is another's; longer than two clocks differ.
const LEASE: Duration = Duration::from_mins(1);
/// How often a writer saves how far it came, and renews its lease.
const CHECKPOINT: Duration = Duration::from_secs(10);

/// Where a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What the client knows it by.
    pub id: String,
    /// How many bytes it has.
    pub offset: u64,
}

/// Bytes for a session.
pub struct Chunk {
    /// The bytes.
    pub source: Source,
    /// Where they begin, if the client says so.
    pub start: Option<u64>,
    /// How many there are, if the client says so.
    pub size_bytes: Option<u64>,
}

/// Where a blob may be mounted from.
#[derive(Clone)]
pub enum MountFrom<'a> {
    /// A repository the caller may pull from.
    Repository(Permit<berth_auth::Pull>),
    /// Any repository that may be pulled from, as this answers.
    Any(&'a (dyn Fn(RepositoryName) -> Option<Permit<berth_auth::Pull>> + Sync)),
}

impl Registry {
    /// Begins a session. Bytes are hashed with `algorithm` as they come.
    pub async fn start_upload(&self, permit: &Permit<Push>, algorithm: Algorithm) -> Result<Session> {
        let upload = Upload::begin(Key::generate(), algorithm);
        let session = uploads::Session {
            id: Key::generate().to_string(),
            storage_key: upload.key().clone(),
            algorithm: algorithm.to_string(),
            offset_bytes: 0,
            hash_state: upload.hash_state(),
            writer_until: 0,
        };
        let mut tx = self.db.begin_one().await?;
        let expires_at = self.clock.after(self.settings.upload_ttl);
        uploads::insert(&mut tx, &session, permit.resource(), self.clock.now(), expires_at).await?;
        tx.commit_lightly().await?;
        fail::fail_point!("uploads::started", |_| std::process::abort());
        Ok(Session { id: session.id, offset: 0 })
    }

    /// Where a session stands.
    pub async fn upload(&self, permit: &Permit<Push>, id: &str) -> Result<Session> {
        let session = uploads::find(&self.db, permit.resource(), id).await?;
        let session = session.ok_or(RegistryError::UploadUnknown)?;
        Ok(Session { id: session.id, offset: session.offset_bytes })
    }

    /// Adds bytes to a session. A body that breaks off keeps what came.
    pub async fn append(&self, permit: &Permit<Push>, id: &str, chunk: Chunk) -> Result<Session> {
        let (mut turn, upload) = self.claim(permit, id).await?;
        turn.receive(upload, Some(chunk)).await?.put_away().await?;
        Ok(Session { id: id.to_owned(), offset: turn.offset })
    }

    /// Adds the last bytes, if any, and makes a session's bytes a blob of the permit's repository.
    pub async fn finish_upload(
        &self,
        permit: &Permit<Push>,
        id: &str,
        chunk: Option<Chunk>,
        expected: &Digest,
    ) -> Result<Blob> {
        let (mut turn, upload) = self.claim(permit, id).await?;
        let object = turn.receive(upload, chunk).await?.close(expected).await?;
        fail::fail_point!("uploads::stored", |_| std::process::abort());
        again(|| self.commit_blob(permit, &turn, &object, expected)).await
    }

    /// Ends a session without a blob.
    pub async fn cancel_upload(&self, permit: &Permit<Push>, id: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let session = uploads::cancel(&mut tx, permit.resource(), id).await?;
        let session = session.ok_or(RegistryError::UploadUnknown)?;
        // A writer that has not noticed yet may still make the file; its lease says until when.
        doomed_objects::insert(&mut tx, &session.storage_key, session.writer_until.max(self.clock.now()))
            .await?;
        fail::fail_point!("uploads::before_cancel", |_| std::process::abort());
        tx.commit().await?;
        fail::fail_point!("uploads::cancelled", |_| std::process::abort());
        Ok(())
    }

    /// Puts a blob that another repository holds into the permit's. `None` if there is none to be
    /// had: the client then uploads.
    pub async fn mount(
        &self,
        permit: &Permit<Push>,
        digest: &Digest,
        from: MountFrom<'_>,
    ) -> Result<Option<Blob>> {
        let found = match from {
            MountFrom::Repository(source) => blobs::find(&self.db, source.resource(), digest).await?,
            MountFrom::Any(may_pull) => self.find_readable(digest, may_pull).await?,
        };
        let Some(found) = found else { return Ok(None) };
        match again(|| self.commit_mount(permit.resource(), digest)).await {
            Ok(()) => Ok(Some(Blob { digest: found.digest, size_bytes: found.size_bytes })),
            // Collected since it was found.
            Err(RegistryError::Db(error)) if error.is_foreign_key_violation() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn commit_mount(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let mut tx = self.db.begin().await?;
        self.hold_blob(&mut tx, repository, digest).await?;
        fail::fail_point!("uploads::before_mount", |_| std::process::abort());
        tx.commit().await?;
        fail::fail_point!("uploads::mounted", |_| std::process::abort());
        Ok(())
    }

    async fn find_readable(
        &self,
        digest: &Digest,
        may_pull: &(dyn Fn(RepositoryName) -> Option<Permit<berth_auth::Pull>> + Sync),
    ) -> Result<Option<blobs::Blob>> {
        // A bounded look: past it an upload is cheaper than the search.
        const LOOK_AT: i64 = 100;
        for name in blobs::holders(&self.db, digest, "", LOOK_AT).await? {
            let Some(source) = name.parse().ok().and_then(may_pull) else { continue };
            if let Some(blob) = blobs::find(&self.db, source.resource(), digest).await? {
                return Ok(Some(blob));
            }
        }
        Ok(None)
    }

    /// Links a blob into a repository, with all that waited for it there.
    async fn hold_blob(&self, tx: &mut db::Tx, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let now = self.clock.now();
        if blobs::link(tx, repository, digest, now).await? == Some(false) {
            return Ok(());
        }
        // The first content of a repository, or a blob that a manifest was waiting for.
        let repository_id = repositories::ensure(tx, repository, now).await?;
        blobs::link(tx, repository, digest, now).await?;
        if manifests::blob_arrived(tx, repository_id, digest).await? > 0 {
            manifests::found_missing(tx, repository_id, digest).await?;
            blobs::hold(tx, repository_id, &[digest]).await?;
        }
        Ok(())
    }

    async fn commit_blob(
        &self,
        permit: &Permit<Push>,
        turn: &Turn<'_>,
        object: &Object,
        digest: &Digest,
    ) -> Result<Blob> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        if uploads::remove(&mut tx, &turn.id, &turn.writer).await? == 0 {
            return Err(RegistryError::UploadUnknown);
        }
        if !blobs::insert(&mut tx, digest, object, now).await? {
            let lost = blobs::stored(&mut tx, digest).await?.filter(|blob| blob.missing_since.is_some());
            let doomed = match &lost {
                Some(lost) if blobs::heal(&mut tx, lost, object).await? => &lost.storage_key,
                // The row that stands may be another push's: both carry the same bytes, so keep theirs
                // and doom ours. The other way round would break a pull that has already read their key.
                _ => &object.key,
            };
            doomed_objects::insert(&mut tx, doomed, now).await?;
        }
        self.hold_blob(&mut tx, permit.resource(), digest).await?;
        fail::fail_point!("uploads::before_commit", |_| std::process::abort());
        tx.commit().await?;
        fail::fail_point!("uploads::committed", |_| std::process::abort());
        Ok(Blob { digest: digest.clone(), size_bytes: object.size_bytes })
    }

    /// Becomes the one who writes to a session.
    async fn claim(&self, permit: &Permit<Push>, id: &str) -> Result<(Turn<'_>, Upload)> {
        let repository = permit.resource();
        let writer = Key::generate().to_string();
        let now = self.clock.now();
        let mut tx = self.db.begin_one().await?;
        let claimed = uploads::claim(&mut tx, repository, id, &writer, self.clock.after(LEASE), now).await?;
        let Some(session) = claimed else {
            drop(tx);
            let known = uploads::find(&self.db, repository, id).await?;
            return Err(known.map_or(RegistryError::UploadUnknown, |_| RegistryError::UploadBusy));
        };
        tx.commit_lightly().await?;
        fail::fail_point!("uploads::claimed", |_| std::process::abort());
        let algorithm = session.algorithm.parse().map_err(|_| RegistryError::SessionDamaged)?;
        let upload =
            Upload::restore(session.storage_key, algorithm, session.offset_bytes, &session.hash_state)
                .map_err(|_| RegistryError::SessionDamaged)?;
        let key = upload.key().clone();
        let turn = Turn { registry: self, id: session.id, key, writer, offset: upload.offset() };
        Ok((turn, upload))
    }
}

/// A claimed session.
struct Turn<'a> {
    registry: &'a Registry,
    id: String,
    key: Key,
    writer: String,
    /// What the row was last told.
    offset: u64,
}

/// A claimed session whose bytes have come.
struct Received<'t, 'a> {
    turn: &'t mut Turn<'a>,
    writer: Writer,
    /// Where the session stood before.
    begun: Upload,
}

impl<'a> Turn<'a> {
    /// Writes a chunk behind what the session has. On any failure the session is let go, at the
    /// last byte that is known to be stored.
    async fn receive<'t>(&'t mut self, upload: Upload, chunk: Option<Chunk>) -> Result<Received<'t, 'a>> {
        let begun = upload.clone();
        let offset = upload.offset();
        if let Some(start) = chunk.as_ref().and_then(|chunk| chunk.start).filter(|start| *start != offset) {
            tracing::debug!(start, offset, "chunk out of order");
            self.save(&begun, 0).await?;
            return Err(RegistryError::OutOfOrder { offset });
        }
        let mut writer = self.registry.store.writer(upload);
        let Some(mut chunk) = chunk else { return Ok(Received { turn: self, writer, begun }) };
        match self.write(&mut writer, &mut chunk).await {
            Ok(()) => {}
            Err(RegistryError::BrokenOff(why, _)) => {
                Received { turn: &mut *self, writer, begun }.put_away().await?;
                return Err(RegistryError::BrokenOff(why, self.offset));
            }
            Err(error) => return Err(self.break_off(writer, &begun, error).await),
        }
        let found = writer.offset() - offset;
        match chunk.size_bytes {
            Some(announced) if announced != found => {
                let error = RegistryError::SizeMismatch { announced, found };
                Err(self.break_off(writer, &begun, error).await)
            }
            _ => Ok(Received { turn: self, writer, begun }),
        }
    }

    /// Ends a request whose bytes met trouble here; what came before that is kept if it can be.
    async fn break_off(&mut self, writer: Writer, begun: &Upload, error: RegistryError) -> RegistryError {
        match error {
            // Cancelled, or another's: there is nothing left to keep anything for.
            RegistryError::UploadUnknown => return error,
            // The bytes announced and the bytes sent differ; neither is taken.
            RegistryError::SizeMismatch { .. } => {
                drop(writer);
                return self.give_up(begun, error).await;
            }
            _ => {}
        }
        let Ok(kept) = writer.suspend().await else { return self.give_up(begun, error).await };
        if !is_full(&error) {
            return self.give_up(&kept, error).await;
        }
        if self.save(&kept, 0).await.is_err() {
            // The row needs the room that this request's bytes took: going on from there cuts them off.
            let cut = self.registry.store.writer(begun.clone()).suspend().await.map(drop);
            tracing::debug!(upload = %self.id, ?cut, "cut an upload back to where its request began");
            return self.give_up(begun, error).await;
        }
        error
    }

    async fn write(&mut self, writer: &mut Writer, chunk: &mut Chunk) -> Result<()> {
        let begun = writer.offset();
        loop {
            let written = writer.write_from(&mut chunk.source, Instant::now() + CHECKPOINT).await;
            match written {
                Ok(Written::End) => return Ok(()),
                Ok(Written::More) => {
                    let found = writer.offset() - begun;
                    if let Some(announced) = chunk.size_bytes.filter(|announced| found > *announced) {
                        return Err(RegistryError::SizeMismatch { announced, found });
                    }
                    let upload = writer.checkpoint().await?.clone();
                    self.save(&upload, self.registry.clock.after(LEASE)).await?;
                    fail::fail_point!("uploads::checkpoint", |_| std::process::abort());
                }
                Err(WriteError::Body(why)) => return Err(RegistryError::BrokenOff(why, 0)),
                Err(WriteError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// Lets go of the session at `upload` because of `error`, which is what the client hears.
    async fn give_up(&mut self, upload: &Upload, error: RegistryError) -> RegistryError {
        // What the row remembers is not in the store, or may not be: nothing can go on from there.
        let lost = matches!(
            error,
            RegistryError::Store(
                StoreError::Missing { .. } | StoreError::WrongSize { .. } | StoreError::Unsynced(_)
            )
        );
        let ended = if lost { self.end().await } else { self.save(upload, 0).await };
        if let Err(second) = ended {
            tracing::warn!(upload = %self.id, %second, "could not save an upload session after an error");
        }
        match error {
            RegistryError::Store(StoreError::Missing { .. } | StoreError::WrongSize { .. }) => {
                RegistryError::SessionDamaged
            }
            RegistryError::Store(StoreError::Busy { .. }) => RegistryError::UploadBusy,
            error => error,
        }
    }

    /// Ends the session and dooms its object.
    async fn end(&self) -> Result<()> {
        let mut tx = self.registry.db.begin().await?;
        if uploads::remove(&mut tx, &self.id, &self.writer).await? > 0 {
            doomed_objects::insert(&mut tx, &self.key, self.registry.clock.now()).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    async fn save(&mut self, upload: &Upload, until: i64) -> Result<()> {
        let registry = self.registry;
        let expires_at = registry.clock.after(registry.settings.upload_ttl);
        let stands = (upload.offset(), upload.hash_state());
        let mut tx = registry.db.begin_one().await?;
        let saved =
            uploads::save(&mut tx, &self.id, &self.writer, (stands.0, &stands.1), until, expires_at).await?;
        tx.commit_lightly().await?;
        // Cancelled, or another's since the lease ran out: what was written is nobody's.
        if saved == 0 {
            return Err(RegistryError::UploadUnknown);
        }
        self.offset = upload.offset();
        Ok(())
    }
}

impl Received<'_, '_> {
    /// Keeps the bytes for the session's next request.
    async fn put_away(self) -> Result<()> {
        let Self { turn, mut writer, begun } = self;
        match writer.checkpoint().await {
            Ok(upload) => {
                fail::fail_point!("uploads::suspended", |_| std::process::abort());
                turn.save(upload, 0).await
            }
            Err(error) => Err(turn.break_off(writer, &begun, error.into()).await),
        }
    }

    /// Makes the bytes a durable object, if they are what the client says they are. If not, the
    /// request adds nothing: what was damaged on its way can be sent again.
    async fn close(self, expected: &Digest) -> Result<Object> {
        let Self { turn, writer, begun } = self;
        let mismatch = |actual| RegistryError::DigestMismatch { expected: expected.clone(), actual };
        let object = match writer.finish(expected).await {
            Ok(Finished::Object(object)) => object,
            Ok(Finished::Differs(actual)) => return Err(turn.give_up(&begun, mismatch(actual)).await),
            Err(error) => {
                // Back to where the request began, which makes room if that is what was missing.
                let writer = turn.registry.store.writer(begun.clone());
                return Err(turn.break_off(writer, &begun, error.into()).await);
            }
        };
        if object.digest.algorithm() == expected.algorithm() {
            return Ok(object);
        }
        // A client that names another algorithm only at the end costs one more reading.
        let store = &turn.registry.store;
        match store.hash(&object.key, object.size_bytes, expected.algorithm()).await {
            Ok(actual) if actual == *expected => Ok(object),
            Ok(actual) => Err(turn.give_up(&begun, mismatch(actual)).await),
            Err(error) => Err(turn.give_up(&begun, error.into()).await),
        }
    }
}

/// Whether the disk under the store or the index has no room left.
fn is_full(error: &RegistryError) -> bool {
    match error {
        RegistryError::Store(error) => matches!(error, StoreError::Full(_)),
        RegistryError::Db(error) => error.is_full(),
        _ => false,
    }
}
