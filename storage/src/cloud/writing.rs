//! An object on its way into an object store: in one request if it fits one part, else in parts.
//!
//! Bytes are hashed and collected until a part is full, which then goes its own way while the next
//! one fills. Whatever is in memory is covered by the budget of all uploads. What stands behind the
//! last part when a request ends is put under the writer's own key if the object has no parts yet, and
//! handed to the index otherwise: parts cannot be read back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use object_store::PutPayload;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Cloud, LOOK_WITHIN};
use crate::budget::{Budget, Held, PIECE_BYTES};
use crate::upload::{Context, Layout, Parts, Suspended};
use crate::{Digest, Finished, Hasher, Object, StoreError, Upload, WriteError, Written};

/// Parts of one upload that are on their way at a time, besides the one that fills.
const ON_THEIR_WAY: usize = 2;
/// A part is collected in pieces from this size to that of the budget's, copied out of whatever buffers
/// the network's pieces are part of.
const LEAST_BYTES: usize = 4 * 1024;
/// How long a part may take to fill while others wait for memory …
const PATIENCE: Duration = Duration::from_secs(15);
/// … and how often a silent stream is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An upload opened for writing.
pub(crate) struct Writer {
    cloud: Cloud,
    context: Context,
    budget: Arc<Budget>,
    /// All that was taken.
    taken: Upload,
    /// All that is stored.
    stored: Upload,
    /// Whether the bytes behind the last part, which an earlier writer left, are yet to be read.
    unread: bool,
    /// The bytes behind the last part.
    filling: Filling,
    /// What came when a part was full and the multipart upload had yet to be written down.
    pending: Bytes,
    on_their_way: JoinSet<(u64, Result<String, StoreError>)>,
    /// Parts from the first that is not yet known to be stored: where each ends, and what the store
    /// calls it once it has come.
    sent: BTreeMap<u64, Sent>,
    failed: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("taken", &self.taken)
            .field("stored", &self.stored)
            .finish_non_exhaustive()
    }
}

struct Sent {
    end: u64,
    hasher: Hasher,
    id: Option<String>,
}

/// A part that is being collected.
#[derive(Default)]
struct Filling {
    pieces: Vec<Bytes>,
    last: Vec<u8>,
    size_bytes: u64,
    memory: Option<Held>,
    since: Option<Instant>,
}

impl Writer {
    pub(super) fn new(cloud: Cloud, upload: Upload, context: Context, budget: Arc<Budget>) -> Self {
        let unread = match &upload.parts {
            Some(_) => upload.tail_bytes() > 0,
            None => upload.offset > 0,
        };
        Self {
            cloud,
            context,
            budget,
            taken: upload.clone(),
            stored: upload,
            unread,
            filling: Filling::default(),
            pending: Bytes::new(),
            on_their_way: JoinSet::new(),
            sent: BTreeMap::new(),
            failed: false,
        }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.taken.offset + self.pending.len() as u64
    }

    /// A stream that is slow while others wait for memory is told so.
    pub(crate) async fn write_from<S, E>(
        &mut self,
        body: &mut S,
        until: Instant,
    ) -> Result<Written, WriteError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let pending = std::mem::take(&mut self.pending);
        self.take(pending).await?;
        loop {
            let look_at = until.min(Instant::now() + LOOK_EVERY);
            match timeout_at(look_at, body.next()).await {
                Ok(None) => return Ok(Written::End),
                Ok(Some(Err(error))) => return Err(WriteError::Body(error)),
                Ok(Some(Ok(chunk))) => {
                    if let Some(multipart) = self.take(chunk).await? {
                        return Ok(Written::Opened(multipart));
                    }
                }
                Err(_) if look_at < until => {}
                Err(_) => return Ok(Written::More),
            }
            self.reap()?;
            if self.budget.is_crowded() && self.filling.is_slow() {
                return Ok(Written::Crowded);
            }
            if Instant::now() >= until {
                return Ok(Written::More);
            }
        }
    }

    /// Takes bytes. If that begins a multipart upload, what is left of them waits until the answer,
    /// its id, has been written down.
    async fn take(&mut self, mut chunk: Bytes) -> Result<Option<String>, StoreError> {
        while !chunk.is_empty() {
            self.make_room().await?;
            if self.filling.size_bytes == self.part_bytes() {
                if self.taken.parts.is_none() {
                    let multipart = self.open().await?;
                    self.pending = chunk;
                    return Ok(Some(multipart));
                }
                self.send();
                continue;
            }
            let room = self.part_bytes() - self.filling.size_bytes;
            let fits = usize::try_from(room).map_or(chunk.len(), |room| room.min(chunk.len()));
            let piece = chunk.split_to(fits);
            self.taken.hasher.update(&piece);
            self.taken.offset += piece.len() as u64;
            self.filling.push(&piece, &self.budget);
        }
        Ok(None)
    }

    /// The layout the object has, or will have if it is divided.
    fn layout(&self) -> Layout {
        let parts = self.taken.parts.as_ref().map(|parts| parts.layout);
        parts.unwrap_or_else(|| Layout::of(self.context.expected_bytes, self.cloud.part_bytes()))
    }

    /// Which part fills.
    fn index(&self) -> u64 {
        self.taken.parts.as_ref().map_or(0, |parts| parts.known)
            + self.sent.len() as u64
            + self.taken.parts.as_ref().map_or(0, |parts| parts.ids.len() as u64)
    }

    /// How large the part that fills will be.
    fn part_bytes(&self) -> u64 {
        self.layout().length(self.index())
    }

    /// Waits for memory for the part that fills, and reads what an earlier writer left of it.
    ///
    /// Nothing is held meanwhile but parts on their way, which come free by themselves.
    async fn make_room(&mut self) -> Result<(), StoreError> {
        if self.filling.memory.is_some() {
            return Ok(());
        }
        if self.index() >= Layout::MOST {
            return Err(StoreError::TooLarge { limit: self.layout().start(Layout::MOST) });
        }
        while self.on_their_way.len() >= ON_THEIR_WAY {
            self.settle_one().await?;
        }
        let start = self.taken.parts.as_ref().map_or(0, |_| self.layout().start(self.index()));
        let expected = self.context.expected_bytes.map_or(u64::MAX, |length| length.saturating_sub(start));
        let so_far = self.taken.offset - start.min(self.taken.offset);
        let wanted = self.part_bytes().min(expected.max(so_far + 1));
        self.filling.memory = Some(self.budget.take(wanted).await);
        self.filling.since = Some(Instant::now());
        if self.unread {
            self.read_back().await?;
        }
        Ok(())
    }

    async fn read_back(&mut self) -> Result<(), StoreError> {
        if self.taken.parts.is_some() {
            let tail = (&mut self.context.tail).await.map_err(StoreError::Index)?;
            if tail.len() as u64 != self.taken.tail_bytes() {
                return Err(wrong_size(&self.taken, tail.len() as u64));
            }
            self.filling.push(&tail, &self.budget);
        } else {
            // Another writer may have put more than it could account for.
            let found = self.cloud.size(&self.taken.key).await?;
            let found = found.ok_or_else(|| StoreError::Missing { key: self.taken.key.clone() })?;
            if found < self.taken.offset {
                return Err(wrong_size(&self.taken, found));
            }
            let mut bytes = self.cloud.stream(&self.taken.key, found, 0..self.taken.offset).await?;
            while let Some(piece) = bytes.try_next().await? {
                self.filling.push(&piece, &self.budget);
            }
        }
        self.unread = false;
        Ok(())
    }

    /// Begins a multipart upload, under the writer's own key.
    async fn open(&mut self) -> Result<String, StoreError> {
        let multipart = self.cloud.create_multipart(&self.context.key).await?;
        fail::fail_point!("storage::multipart_opened", |_| std::process::abort());
        let (layout, ids) = (self.layout(), Vec::new());
        self.taken.parts = Some(Parts { multipart: multipart.clone(), layout, known: 0, ids });
        self.taken.key = self.context.key.clone();
        Ok(multipart)
    }

    /// Sends the part that is full, or the last one, on its way.
    fn send(&mut self) {
        let index = self.index();
        let parts = self.taken.parts.as_ref().expect("parts are sent once the upload is divided");
        let (cloud, key, multipart) = (self.cloud.clone(), self.taken.key.clone(), parts.multipart.clone());
        let (payload, memory) = self.filling.take(&self.budget);
        self.on_their_way.spawn(async move {
            let put = cloud.put_part(&key, &multipart, index, payload).await;
            fail::fail_point!("storage::part_put", |_| std::process::abort());
            drop(memory);
            (index, put)
        });
        let (end, hasher) = (self.taken.offset, self.taken.hasher.clone());
        self.sent.insert(index, Sent { end, hasher, id: None });
    }

    /// Notes the parts that have arrived meanwhile.
    fn reap(&mut self) -> Result<(), StoreError> {
        while let Some(done) = self.on_their_way.try_join_next() {
            self.arrived(done)?;
        }
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<(), StoreError> {
        match self.on_their_way.join_next().await {
            Some(done) => self.arrived(done),
            None => Ok(()),
        }
    }

    /// Waits until all parts have arrived.
    async fn settle(&mut self) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        while !self.on_their_way.is_empty() {
            outcome = outcome.and(self.settle_one().await);
        }
        outcome
    }

    fn arrived(
        &mut self,
        done: Result<(u64, Result<String, StoreError>), tokio::task::JoinError>,
    ) -> Result<(), StoreError> {
        let (index, put) = done.map_err(|panic| {
            self.failed = true;
            StoreError::Remote { operation: "write a part", source: panic.into() }
        })?;
        let id = put.inspect_err(|_| self.failed = true)?;
        if let Some(sent) = self.sent.get_mut(&index) {
            sent.id = Some(id);
        }
        // Only what is stored without a gap can be gone on from.
        while let Some(first) = self.sent.first_entry()
            && first.get().id.is_some()
        {
            let Sent { end, hasher, id } = first.remove();
            let parts = self.taken.parts.as_mut().expect("a part was sent");
            parts.ids.extend(id);
            self.stored =
                Upload { key: self.taken.key.clone(), offset: end, hasher, parts: Some(parts.clone()) };
        }
        Ok(())
    }

    pub(crate) async fn checkpoint(&mut self) -> Result<&Upload, StoreError> {
        self.settle().await?;
        Ok(&self.stored)
    }

    pub(crate) async fn suspend(&mut self) -> Result<Suspended, StoreError> {
        if !self.failed {
            let put_away = self.put_away().await;
            self.failed = put_away.is_err();
            return put_away;
        }
        // What could not be stored is forgotten, with all that came behind it.
        self.on_their_way.shutdown().await;
        Ok(Suspended { upload: self.stored.clone(), tail: None })
    }

    async fn put_away(&mut self) -> Result<Suspended, StoreError> {
        let pending = std::mem::take(&mut self.pending);
        self.take(pending).await?;
        if self.taken.parts.is_some() && self.filling.size_bytes == self.part_bytes() {
            self.send();
        }
        self.settle().await?;
        let mut tail = None;
        if self.taken.offset > self.stored.offset {
            let (payload, memory) = self.filling.take(&self.budget);
            if self.taken.parts.is_some() {
                tail = Some(collect(&payload, memory));
            } else {
                self.cloud.put(&self.context.key, payload).await?;
                self.taken.key = self.context.key.clone();
            }
            self.stored = self.taken.clone();
            self.unread = true;
        }
        Ok(Suspended { upload: self.stored.clone(), tail })
    }

    pub(crate) async fn finish(
        mut self,
        announced: &Digest,
        earlier: Vec<String>,
    ) -> Result<Finished, StoreError> {
        let pending = std::mem::take(&mut self.pending);
        self.take(pending).await?;
        let digest = self.taken.hasher.digest();
        if digest.algorithm() == announced.algorithm() && digest != *announced {
            return Ok(Finished::Differs(digest));
        }
        let size_bytes = self.taken.offset;
        match self.taken.parts {
            Some(_) => self.complete(earlier).await?,
            // All of it was put by the request before.
            None if self.unread => {}
            None => {
                let (payload, _memory) = self.filling.take(&self.budget);
                self.cloud.put(&self.context.key, payload).await?;
                self.taken.key = self.context.key.clone();
            }
        }
        fail::fail_point!("storage::synced", |_| std::process::abort());
        let key = self.taken.key;
        // What the store says it has is what counts, not what it was sent.
        self.cloud.whole(&key, size_bytes).await.map_err(|error| match error {
            StoreError::WrongSize { key, expected, actual } => {
                StoreError::Altered { key, reason: format!("it has {actual} bytes instead of {expected}") }
            }
            StoreError::Missing { key } => StoreError::Altered { key, reason: "it is not there".into() },
            error => error,
        })?;
        Ok(Finished::Object(Object { key, size_bytes, digest }))
    }

    async fn complete(&mut self, earlier: Vec<String>) -> Result<(), StoreError> {
        match self.try_complete(earlier).await {
            Ok(()) => Ok(()),
            // An earlier try may have done it, and then there are no parts any more. Nobody else writes
            // under this key.
            Err(error) => {
                let look = self.cloud.whole(&self.taken.key, self.taken.offset);
                match timeout(LOOK_WITHIN, look).await {
                    Ok(Ok(())) => Ok(()),
                    _ => Err(error),
                }
            }
        }
    }

    async fn try_complete(&mut self, earlier: Vec<String>) -> Result<(), StoreError> {
        if self.unread {
            self.make_room().await?;
        }
        if self.filling.size_bytes > 0 {
            self.send();
        }
        self.settle().await?;
        let Some(parts) = &self.taken.parts else { return Ok(()) };
        let mut ids = earlier;
        // Parts that came with this writer may have been written down since.
        ids.truncate(usize::try_from(parts.known).unwrap_or(usize::MAX));
        ids.extend(parts.ids.iter().cloned());
        self.cloud.complete(&self.taken.key, &parts.multipart, ids).await
    }
}

/// A piece that goes back to the budget's when the store has its bytes.
struct Piece {
    bytes: Vec<u8>,
    budget: Arc<Budget>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.budget.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Filling {
    fn push(&mut self, mut bytes: &[u8], budget: &Arc<Budget>) {
        self.size_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.last.capacity() == 0 {
                let so_far = usize::try_from(self.size_bytes).unwrap_or(PIECE_BYTES).next_power_of_two();
                self.last = match so_far {
                    PIECE_BYTES.. => budget.piece(),
                    small => Vec::with_capacity(small.max(LEAST_BYTES)),
                };
            }
            let fits = bytes.len().min(self.last.capacity() - self.last.len());
            self.last.extend_from_slice(&bytes[..fits]);
            bytes = &bytes[fits..];
            if self.last.len() == self.last.capacity() {
                let bytes = std::mem::take(&mut self.last);
                self.pieces.push(Bytes::from_owner(Piece { bytes, budget: Arc::clone(budget) }));
            }
        }
    }

    /// What was collected, and the memory it is in.
    fn take(&mut self, budget: &Arc<Budget>) -> (PutPayload, Option<Held>) {
        let Self { mut pieces, last, memory, .. } = std::mem::take(self);
        if !last.is_empty() {
            pieces.push(Bytes::from_owner(Piece { bytes: last, budget: Arc::clone(budget) }));
        }
        (pieces.into_iter().collect(), memory)
    }

    fn is_slow(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() > PATIENCE)
    }
}

/// A tail that waits to be written down. It holds its memory until it is dropped: others may be before
/// it at the index.
struct Kept {
    bytes: Vec<u8>,
    _memory: Option<Held>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn collect(payload: &PutPayload, memory: Option<Held>) -> Bytes {
    let mut bytes = Vec::with_capacity(payload.content_length());
    payload.iter().for_each(|piece| bytes.extend_from_slice(piece));
    Bytes::from_owner(Kept { bytes, _memory: memory })
}

fn wrong_size(upload: &Upload, actual: u64) -> StoreError {
    StoreError::WrongSize { key: upload.key.clone(), expected: upload.offset, actual }
}
