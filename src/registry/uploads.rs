//! Upload sessions: a blob on its way in.
//!
//! A session's key is chosen, and written down, before its first byte is stored; that is what lets a
//! crash at any point leave nothing we cannot find again. Who writes to a session holds a lease on
//! it, renewed while bytes come: two writers cannot interleave, on any replica.

use std::time::Duration;

use berth_auth::Push;
use berth_storage::{
    Algorithm, Context, Digest, Finished, Key, Object, StoreError, Suspended, Upload, WriteError, Writer,
    Written,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
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
/// How long what a writer left is let lie whose time ran out: a request of its may still be on its way.
const REST: Duration = Duration::from_mins(10);

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
        let session = uploads::Session::new(
            Key::generate().to_string(),
            upload.key().clone(),
            algorithm.to_string(),
            upload.hash_state(),
        );
        let mut tx = self.db.begin_one().await?;
        let expires_at = self.clock.after(self.settings.upload_ttl);
        uploads::insert(&mut tx, &session, &owner(permit), self.clock.now(), expires_at).await?;
        tx.commit_lightly().await?;
        fail::fail_point!("uploads::started", |_| std::process::abort());
        Ok(Session { id: session.id, offset: 0 })
    }

    /// Where a session stands.
    pub async fn upload(&self, permit: &Permit<Push>, id: &str) -> Result<Session> {
        let session = uploads::find(&self.db, &owner(permit), id).await?;
        let session = session.ok_or(RegistryError::UploadUnknown)?;
        Ok(Session { id: session.id, offset: session.offset_bytes })
    }

    /// Adds bytes to a session. A body that breaks off keeps what came.
    pub async fn append(&self, permit: &Permit<Push>, id: &str, chunk: Chunk) -> Result<Session> {
        let mut turn = self.claim(permit, id).await?;
        // Who places a chunk is likely to send another.
        let expected = chunk.size_bytes.filter(|_| chunk.start.is_none());
        // What follows the bytes is boxed here and below: what waits for them, for hours maybe, would have the
        // room for it.
        Box::pin(turn.receive(Some(chunk), expected).await?.put_away()).await?;
        Ok(Session { id: id.to_owned(), offset: turn.row.offset_bytes })
    }

    /// Adds the last bytes, if any, and makes a session's bytes a blob of the permit's repository.
    pub async fn finish_upload(
        &self,
        permit: &Permit<Push>,
        id: &str,
        chunk: Option<Chunk>,
        expected: &Digest,
    ) -> Result<Blob> {
        if chunk.is_none()
            && let Some(blob) = self.finish_as_it_is(permit, id, expected).await?
        {
            return Ok(blob);
        }
        let mut turn = self.claim(permit, id).await?;
        let size_bytes = chunk.as_ref().map_or(Some(0), |chunk| chunk.size_bytes);
        let object = Box::pin(turn.receive(chunk, size_bytes).await?.close(expected)).await?;
        fail::fail_point!("uploads::stored", |_| std::process::abort());
        let blob = again(|| self.commit_blob(permit, &turn.row, &object, expected)).await?;
        blob.ok_or(RegistryError::UploadUnknown)
    }

    /// Makes a session's bytes a blob if nothing has to be written for it but the index, which takes no claim:
    /// of whoever else wants the session one is first. `None`, and nothing has happened, if it takes a writer,
    /// or has one by now.
    async fn finish_as_it_is(
        &self,
        permit: &Permit<Push>,
        id: &str,
        expected: &Digest,
    ) -> Result<Option<Blob>> {
        if self.store.writes_aside() {
            return Ok(None);
        }
        let row = uploads::find(&self.db, &owner(permit), id).await?.ok_or(RegistryError::UploadUnknown)?;
        let upload = stands(&row)?;
        // A digest of another algorithm is another one too: the file has to be read for it.
        if row.writer_until > 0 || upload.digest() != *expected || !self.store.close_as_it_is(&upload).await?
        {
            return Ok(None);
        }
        let object =
            Object { key: row.storage_key.clone(), size_bytes: upload.offset(), digest: expected.clone() };
        fail::fail_point!("uploads::stored", |_| std::process::abort());
        again(|| self.commit_blob(permit, &row, &object, expected)).await
    }

    /// Ends a session without a blob.
    pub async fn cancel_upload(&self, permit: &Permit<Push>, id: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let session = uploads::cancel(&mut tx, &owner(permit), id).await?;
        let session = session.ok_or(RegistryError::UploadUnknown)?;
        // A writer that has not noticed yet may still make the file; its lease says until when.
        self.doom_all(&mut tx, &session, session.writer_until.max(self.clock.now())).await?;
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
        // Most mounts are of a base image's layers, which are there since the first push.
        match self.confirm_blob(permit, digest).await {
            Err(RegistryError::BlobUnknown(_)) => {}
            confirmed => {
                // It may be another push's that is only just committed.
                self.db.settle().await?;
                return confirmed.map(Some);
            }
        }
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
            blobs::hold(tx, repository_id, &[digest]).await?;
        }
        Ok(())
    }

    /// Makes an object a blob, and ends its session; `None` if that is not as `known` any more.
    async fn commit_blob(
        &self,
        permit: &Permit<Push>,
        known: &uploads::Session,
        object: &Object,
        digest: &Digest,
    ) -> Result<Option<Blob>> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let Some(row) = uploads::remove(&mut tx, known).await? else { return Ok(None) };
        if row.storage_key != object.key && row.offset_bytes > 0 {
            doom(&mut tx, &row.place(), now).await?;
        }
        if !blobs::insert(&mut tx, digest, object, now).await? {
            let lost = blobs::stored(&mut tx, digest).await?.filter(|blob| blob.missing_since.is_some());
            let doomed = match &lost {
                Some(lost) if blobs::heal(&mut tx, lost, object).await? => &lost.storage_key,
                // The row that stands may be another push's: both carry the same bytes, so keep theirs
                // and doom ours. The other way round would break a pull that has already read their key.
                _ => &object.key,
            };
            doomed_objects::insert(&mut tx, doomed, None, now).await?;
        }
        self.hold_blob(&mut tx, permit.resource(), digest).await?;
        fail::fail_point!("uploads::before_commit", |_| std::process::abort());
        tx.commit().await?;
        fail::fail_point!("uploads::committed", |_| std::process::abort());
        Ok(Some(Blob { digest: digest.clone(), size_bytes: object.size_bytes }))
    }

    /// Becomes the one who writes to a session.
    async fn claim(&self, permit: &Permit<Push>, id: &str) -> Result<Turn<'_>> {
        let writer = Key::generate();
        let owner = owner(permit);
        let row = self.claim_row(&owner, id, &writer).await?;
        fail::fail_point!("uploads::claimed", |_| std::process::abort());
        Ok(Turn { registry: self, owner, row, writer, may_be_astray: false })
    }

    async fn claim_row(&self, owner: &uploads::Owner, id: &str, writer: &Key) -> Result<uploads::Session> {
        let until = self.clock.after(LEASE);
        let mut tx = self.db.begin_one().await?;
        if let Some(row) = uploads::claim(&mut tx, owner, id, writer, until).await? {
            tx.commit_lightly().await?;
            return Ok(row);
        }
        drop(tx);
        let late = uploads::find(&self.db, owner, id).await?.ok_or(RegistryError::UploadUnknown)?;
        let now = self.clock.now();
        if late.writer_until > now {
            return Err(RegistryError::UploadBusy);
        }
        let mut tx = self.db.begin().await?;
        let row = uploads::take_over(&mut tx, &late, writer, until, now).await?;
        let row = row.ok_or(RegistryError::UploadBusy)?;
        if let Some(place) = late.writers_place().filter(|_| self.store.writes_aside()) {
            doom(&mut tx, &place, self.clock.after(REST)).await?;
        }
        tx.commit_lightly().await?;
        Ok(row)
    }

    /// Dooms all that a session has, and that its writer may have.
    async fn doom_all(&self, tx: &mut db::Tx, row: &uploads::Session, not_before: i64) -> Result<()> {
        doom(tx, &row.place(), not_before).await?;
        if let Some(place) = row.writers_place().filter(|_| self.store.writes_aside())
            && place.0 != row.storage_key
        {
            doom(tx, &place, not_before).await?;
        }
        Ok(())
    }
}

async fn doom(tx: &mut db::Tx, place: &uploads::Place, not_before: i64) -> Result<()> {
    doomed_objects::insert(tx, &place.0, place.1.as_deref(), not_before).await?;
    Ok(())
}

/// Where a session stands.
fn stands(row: &uploads::Session) -> Result<Upload> {
    let algorithm = row.algorithm.parse().map_err(|_| RegistryError::SessionDamaged)?;
    let upload = Upload::restore(row.storage_key.clone(), algorithm, row.offset_bytes, &row.hash_state);
    Ok(upload.map_err(|_| RegistryError::SessionDamaged)?.with_parts(row.parts()))
}

/// A claimed session.
struct Turn<'a> {
    registry: &'a Registry,
    owner: uploads::Owner,
    /// What the row was last told.
    row: uploads::Session,
    /// The row's writer, and the key for whatever this writer puts.
    writer: Key,
    /// Whether something may be under the writer's key that the session does not stand on.
    may_be_astray: bool,
}

/// A claimed session whose bytes have come.
struct Received<'t, 'a> {
    turn: &'t mut Turn<'a>,
    writer: Writer,
    /// Where the session stood before.
    begun: Upload,
}

impl<'a> Turn<'a> {
    /// Goes on with the session at `upload`; it will have so many bytes if that is known.
    fn open(&self, upload: Upload, expected_bytes: Option<u64>) -> Writer {
        let (db, id) = (self.registry.db.clone(), self.row.id.clone());
        let tail = async move { Ok(uploads::tail(&db, &id).await?.into()) }.boxed();
        let (db, id, writer) = (self.registry.db.clone(), self.row.id.clone(), self.writer.clone());
        let is_ours = async move { Ok(uploads::is_writer(&db, &id, &writer).await?) }.boxed();
        let context = Context { key: self.writer.clone(), expected_bytes, tail, is_ours };
        self.registry.store.writer(upload, context)
    }

    /// Writes a chunk behind what the session has, after which it has `more` bytes and will have no
    /// others, if that is known. On any failure the session is let go, at the last byte that is known to
    /// be stored.
    async fn receive<'t>(&'t mut self, chunk: Option<Chunk>, more: Option<u64>) -> Result<Received<'t, 'a>> {
        let begun = stands(&self.row)?;
        let offset = begun.offset();
        if let Some(start) = chunk.as_ref().and_then(|chunk| chunk.start).filter(|start| *start != offset) {
            tracing::debug!(start, offset, "chunk out of order");
            self.save(&begun, None, 0).await?;
            return Err(RegistryError::OutOfOrder { offset });
        }
        let expected_bytes = more.map(|more| offset.saturating_add(more));
        let mut writer = self.open(begun.clone(), expected_bytes);
        let Some(mut chunk) = chunk else { return Ok(Received { turn: self, writer, begun }) };
        match self.write(&mut writer, &mut chunk, expected_bytes).await {
            Ok(()) => {}
            Err(RegistryError::BrokenOff(why, _)) => {
                Box::pin(Received { turn: &mut *self, writer, begun }.put_away()).await?;
                return Err(RegistryError::BrokenOff(why, self.row.offset_bytes));
            }
            Err(error) => return Err(Box::pin(self.break_off(writer, &begun, error)).await),
        }
        let found = writer.offset() - offset;
        match chunk.size_bytes {
            Some(announced) if announced != found => {
                let error = RegistryError::SizeMismatch { announced, found };
                Err(Box::pin(self.break_off(writer, &begun, error)).await)
            }
            _ => Ok(Received { turn: self, writer, begun }),
        }
    }

    async fn write(
        &mut self,
        writer: &mut Writer,
        chunk: &mut Chunk,
        expected_bytes: Option<u64>,
    ) -> Result<()> {
        let begun = writer.offset();
        loop {
            match writer.write_from(&mut chunk.source, Instant::now() + CHECKPOINT).await {
                Ok(Written::End) => return Ok(()),
                Ok(Written::Opened(multipart)) => self.note_multipart(multipart).await?,
                Ok(Written::More) => {
                    let found = writer.offset() - begun;
                    if let Some(announced) = chunk.size_bytes.filter(|announced| found > *announced) {
                        return Err(RegistryError::SizeMismatch { announced, found });
                    }
                    let upload = writer.checkpoint().await?.clone();
                    self.save(&upload, None, self.registry.clock.after(LEASE)).await?;
                    fail::fail_point!("uploads::checkpoint", |_| std::process::abort());
                }
                Ok(Written::Crowded) => {
                    let Suspended { upload, tail } = writer.suspend().await?;
                    self.save(&upload, tail.as_ref(), 0).await?;
                    Box::pin(self.claim_again()).await?;
                    *writer = self.open(stands(&self.row)?, expected_bytes);
                }
                Err(WriteError::Body(why)) => return Err(RegistryError::BrokenOff(why, 0)),
                Err(WriteError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// Takes the session that was just put away, as another writer with another key.
    async fn claim_again(&mut self) -> Result<()> {
        let writer = Key::generate();
        self.row = self.registry.claim_row(&self.owner, &self.row.id, &writer).await?;
        (self.writer, self.may_be_astray) = (writer, false);
        Ok(())
    }

    /// Writes down what the store calls the multipart upload it has begun, before its first part.
    async fn note_multipart(&mut self, multipart: String) -> Result<()> {
        let registry = self.registry;
        let mut tx = registry.db.begin_one().await?;
        let noted = uploads::open_multipart(&mut tx, &self.row, &multipart).await;
        let noted = match noted {
            Ok(noted) => tx.commit_lightly().await.map(|()| noted > 0),
            Err(error) => Err(error),
        };
        if !matches!(noted, Ok(true)) {
            // Nobody will know of it.
            if let Err(error) = registry.store.delete(&self.writer, Some(&multipart)).await {
                tracing::warn!(key = %self.writer, %error, "could not abort a multipart upload");
            }
        }
        if !noted? {
            return Err(RegistryError::UploadUnknown);
        }
        self.row.writer_multipart = Some(multipart);
        fail::fail_point!("uploads::multipart_noted", |_| std::process::abort());
        Ok(())
    }

    /// Ends a request whose bytes met trouble here; what came before that is kept if it can be.
    async fn break_off(&mut self, mut writer: Writer, begun: &Upload, error: RegistryError) -> RegistryError {
        match error {
            // Cancelled, or another's: there is nothing left to keep anything for.
            RegistryError::UploadUnknown | RegistryError::UploadBusy => return error,
            // The bytes announced and the bytes sent differ; neither is taken.
            RegistryError::SizeMismatch { .. } => {
                drop(writer);
                return self.go_back(begun, error).await;
            }
            _ => self.may_be_astray = true,
        }
        let Ok(kept) = writer.suspend().await else { return self.go_back(begun, error).await };
        if !is_full(&error) {
            return self.give_up(&kept.upload, kept.tail.as_ref(), error).await;
        }
        if self.save(&kept.upload, kept.tail.as_ref(), 0).await.is_err() {
            // The row needs the room that this request's bytes took: going on from there cuts them off,
            // once this writer has let go of them.
            drop(writer);
            let cut = self.open(begun.clone(), None).suspend().await.map(drop);
            tracing::debug!(upload = %self.row.id, ?cut, "cut an upload back to where its request began");
            return self.go_back(begun, error).await;
        }
        error
    }

    /// Lets go of the session where it stood when the request began, if that can be gone on from: parts
    /// that have come since cannot be undone, and then it ends.
    async fn go_back(&mut self, begun: &Upload, error: RegistryError) -> RegistryError {
        if self.can_go_back(begun) {
            return self.give_up(begun, None, error).await;
        }
        if let Err(second) = self.end().await {
            tracing::warn!(upload = %self.row.id, %second, "could not end an upload session after an error");
        }
        error
    }

    fn can_go_back(&self, to: &Upload) -> bool {
        let row = &self.row;
        to.key() == &row.storage_key
            && to.parts().map(|parts| &parts.multipart) == row.multipart.as_ref()
            && to
                .parts()
                .is_none_or(|parts| parts.count() == row.parts_count && to.offset() == row.offset_bytes)
    }

    /// Lets go of the session at `upload` because of `error`, which is what the client hears.
    async fn give_up(
        &mut self,
        upload: &Upload,
        tail: Option<&Bytes>,
        error: RegistryError,
    ) -> RegistryError {
        // What the row remembers is not in the store, or may not be: nothing can go on from there.
        let lost = matches!(
            error,
            RegistryError::Store(
                StoreError::Missing { .. } | StoreError::WrongSize { .. } | StoreError::Unsynced(_)
            )
        );
        let ended = if lost { self.end().await } else { self.save(upload, tail, 0).await };
        if let Err(second) = ended {
            tracing::warn!(upload = %self.row.id, %second, "could not save an upload session after an error");
        }
        match error {
            RegistryError::Store(StoreError::Missing { .. } | StoreError::WrongSize { .. }) => {
                RegistryError::SessionDamaged
            }
            RegistryError::Store(StoreError::Busy { .. }) => RegistryError::UploadBusy,
            error => error,
        }
    }

    /// Ends the session and dooms what it has.
    async fn end(&self) -> Result<()> {
        let mut tx = self.registry.db.begin().await?;
        if let Some(row) = uploads::remove(&mut tx, &self.row).await? {
            self.registry.doom_all(&mut tx, &row, self.registry.clock.now()).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Tells the row where the session stands, and lets go of it if `until` is 0.
    async fn save(&mut self, upload: &Upload, tail: Option<&Bytes>, until: i64) -> Result<()> {
        let (registry, before) = (self.registry, &self.row);
        let mut row = uploads::Session {
            offset_bytes: upload.offset(),
            hash_state: upload.hash_state(),
            storage_key: upload.key().clone(),
            writer_until: until,
            ..before.clone()
        };
        let mut new_parts: &[String] = &[];
        if let Some(parts) = upload.parts() {
            let saved = if row.multipart.as_ref() == Some(&parts.multipart) { before.parts_count } else { 0 };
            let known = usize::try_from(saved - parts.known).unwrap_or(usize::MAX);
            new_parts = parts.ids.get(known..).unwrap_or_default();
            row.multipart = Some(parts.multipart.clone());
            row.part_bytes = i64::try_from(parts.layout.part_bytes).unwrap_or(i64::MAX);
            row.parts_grow = i64::from(parts.layout.grows);
            row.parts_count = parts.count();
        }
        let now = registry.clock.now();
        let is_adopted = row.storage_key == self.writer;
        let left = (before.storage_key != row.storage_key && before.offset_bytes > 0).then(|| before.place());
        let astray = (until == 0
            && !is_adopted
            && registry.store.writes_aside()
            && (self.may_be_astray || before.writer_multipart.is_some()))
        .then(|| (self.writer.clone(), before.writer_multipart.clone()));
        if is_adopted || until == 0 {
            row.writer_multipart = None;
        }
        let has_moved = (row.offset_bytes, row.parts_count) != (before.offset_bytes, before.parts_count);
        let tail = tail.filter(|_| has_moved);
        let drop_tail = tail.is_none() && has_moved && before.multipart.is_some();
        let is_elsewhere = (&row.storage_key, &row.multipart) != (&before.storage_key, &before.multipart);
        let is_one =
            !is_elsewhere && new_parts.is_empty() && astray.is_none() && tail.is_none() && !drop_tail;
        let mut tx = if is_one { registry.db.begin_one().await? } else { registry.db.begin().await? };
        let saved = uploads::save(&mut tx, &row, registry.clock.after(registry.settings.upload_ttl)).await?;
        // Cancelled, or another's since the lease ran out: what was written is nobody's.
        if saved > 0 {
            if is_elsewhere {
                uploads::save_place(&mut tx, &row).await?;
            }
            let first = row.parts_count - new_parts.len() as u64;
            uploads::add_parts(&mut tx, &row.id, first, new_parts).await?;
            if let Some(tail) = tail {
                uploads::keep_tail(&mut tx, &row.id, tail).await?;
            } else if drop_tail {
                uploads::drop_tail(&mut tx, &row.id).await?;
            }
            for place in left.iter().chain(&astray) {
                doom(&mut tx, place, now).await?;
            }
        }
        tx.commit_lightly().await?;
        if saved == 0 {
            return Err(RegistryError::UploadUnknown);
        }
        self.row = row;
        Ok(())
    }
}

impl Received<'_, '_> {
    /// Keeps the bytes for the session's next request.
    async fn put_away(self) -> Result<()> {
        let Self { turn, mut writer, begun } = self;
        match writer.suspend().await {
            Ok(Suspended { upload, tail }) => {
                fail::fail_point!("uploads::suspended", |_| std::process::abort());
                turn.save(&upload, tail.as_ref(), 0).await
            }
            Err(error) => Err(turn.break_off(writer, &begun, error.into()).await),
        }
    }

    /// Makes the bytes a durable object, if they are what the client says they are. If not, the
    /// request adds nothing: what was damaged on its way can be sent again.
    async fn close(self, expected: &Digest) -> Result<Object> {
        let Self { turn, writer, begun } = self;
        let earlier = match turn.row.parts_count {
            0 => Vec::new(),
            _ => uploads::parts(&turn.registry.db, &turn.row.id).await?,
        };
        let mismatch = |actual| RegistryError::DigestMismatch { expected: expected.clone(), actual };
        let object = match writer.finish(expected, earlier).await {
            Ok(Finished::Object(object)) => object,
            Ok(Finished::Differs(actual)) => return Err(turn.go_back(&begun, mismatch(actual)).await),
            Err(error) => {
                // Back to where the request began, which makes room if that is what was missing, or to
                // what has been written down since.
                let back = if turn.can_go_back(&begun) { begun.clone() } else { stands(&turn.row)? };
                let writer = turn.open(back, None);
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
            Ok(actual) => {
                turn.may_be_astray = true;
                Err(turn.go_back(&begun, mismatch(actual)).await)
            }
            Err(error) => Err(turn.give_up(&begun, None, error.into()).await),
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

/// Whoever begins an upload goes on with it; to anyone else it does not exist (S3).
fn owner(permit: &Permit<Push>) -> uploads::Owner {
    uploads::Owner { repository: permit.resource().clone(), subject: permit.identity().subject() }
}
