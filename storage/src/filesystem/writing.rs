//! Writing a file as its bytes come: hashed on the thread that writes them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::Sink;
use crate::budget::{Budget, Held};
use crate::{Digest, Finished, Hasher, Object, StoreError, Upload, WriteError, Written};

/// How much is handed to the disk in one go. A writer fills one batch while another is being written,
/// so an upload holds at most two.
pub(crate) const BATCH_BYTES: usize = 512 * 1024;

/// How long a batch waits for more bytes. Waking the thread that writes costs more than a small write.
const LINGER: Duration = Duration::from_millis(20);

/// An upload opened for writing.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Where the upload stands: what has been written and hashed.
    upload: Upload,
    sink: Option<Sink>,
    on_its_way: Option<JoinHandle<Sent>>,
    /// What came last, kept for the thread that also syncs it: a small upload costs one hop.
    last: Option<Batch>,
    budget: Arc<Budget>,
}

/// A sink that is back from a thread that may block, and what it did there.
#[derive(Debug)]
struct Sent {
    sink: Sink,
    hasher: Hasher,
    size_bytes: u64,
    written: Result<(), StoreError>,
}

#[derive(Debug)]
struct Batch {
    chunks: Vec<Bytes>,
    size_bytes: usize,
    _held: Held,
}

impl Batch {
    /// Adds what comes until it is full, or too little comes; the answer is how the stream ended.
    async fn fill<S, E>(&mut self, body: &mut S) -> Option<Result<Written, WriteError<E>>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let until = Instant::now() + LINGER;
        while self.size_bytes < BATCH_BYTES {
            match timeout_at(until, body.next()).await {
                Err(_) => break,
                Ok(None) => return Some(Ok(Written::End)),
                Ok(Some(Err(error))) => return Some(Err(WriteError::Body(error))),
                Ok(Some(Ok(chunk))) => {
                    self.size_bytes += chunk.len();
                    self.chunks.push(chunk);
                }
            }
        }
        None
    }
}

impl Writer {
    pub(super) fn new(upload: Upload, sink: Sink, budget: Arc<Budget>) -> Self {
        Self { upload, sink: Some(sink), on_its_way: None, last: None, budget }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.upload.offset + self.last.as_ref().map_or(0, |batch| batch.size_bytes as u64)
    }

    /// A silent stream holds no part of the memory budget.
    pub(crate) async fn write_from<S, E>(
        &mut self,
        body: &mut S,
        until: Instant,
    ) -> Result<Written, WriteError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        if let Some(batch) = self.last.take() {
            self.send(batch, |_, _| Ok(()));
        }
        let outcome = loop {
            let first = match timeout_at(until, body.next()).await {
                Err(_) => break Ok(Written::More),
                Ok(None) => break Ok(Written::End),
                Ok(Some(Err(error))) => break Err(WriteError::Body(error)),
                Ok(Some(Ok(chunk))) => chunk,
            };
            // The permit is taken only once there are bytes to hold, and while it is held nothing is
            // waited for long but the disk: uploads cannot block each other for ever.
            let held = self.budget.take(BATCH_BYTES as u64).await;
            let mut batch = Batch { size_bytes: first.len(), chunks: vec![first], _held: held };
            // Filled while the one before is being written.
            let ended = batch.fill(body).await;
            self.settle().await?;
            if let Some(outcome) = ended {
                self.last = Some(batch);
                break outcome;
            }
            self.send(batch, |_, _| Ok(()));
        };
        self.settle().await?;
        outcome
    }

    /// Hands a batch to a thread that may block, without waiting for it. Once it is written and hashed,
    /// `then` is done on the same thread.
    fn send(
        &mut self,
        batch: impl Into<Option<Batch>>,
        then: impl FnOnce(&mut Sink, &Hasher) -> Result<(), StoreError> + Send + 'static,
    ) {
        let batch = batch.into();
        let mut sink = self.sink.take().expect("the sink is home after settle");
        let mut hasher = self.upload.hasher.clone();
        let offset = self.upload.offset;
        self.on_its_way = Some(tokio::task::spawn_blocking(move || {
            let mut size_bytes = 0;
            let mut written = Ok(());
            if let Some(batch) = batch {
                written = sink.write(offset, &batch.chunks);
                if written.is_ok() {
                    batch.chunks.iter().for_each(|chunk| hasher.update(chunk));
                    size_bytes = batch.size_bytes as u64;
                }
            }
            let written = written.and_then(|()| then(&mut sink, &hasher));
            Sent { sink, hasher, size_bytes, written }
        }));
    }

    /// Waits for the batch on its way; the upload moves forward only if all of it was written.
    async fn settle(&mut self) -> Result<(), StoreError> {
        let Some(task) = self.on_its_way.take() else { return Ok(()) };
        let Sent { sink, hasher, size_bytes, written } = task.await.map_err(|error| StoreError::Io {
            operation: "write an object",
            source: std::io::Error::other(error),
        })?;
        self.sink = Some(sink);
        self.upload.hasher = hasher;
        self.upload.offset += size_bytes;
        written
    }

    pub(crate) async fn checkpoint(&mut self) -> Result<&Upload, StoreError> {
        self.settle().await?;
        let last = self.last.take();
        self.send(last, |sink, _| sink.sync());
        self.settle().await?;
        Ok(&self.upload)
    }

    pub(crate) async fn finish(mut self, announced: &Digest) -> Result<Finished, StoreError> {
        self.settle().await?;
        let (last, announced) = (self.last.take(), announced.clone());
        let differs = move |hasher: &Hasher| {
            let digest = hasher.digest();
            digest.algorithm() == announced.algorithm() && digest != announced
        };
        let asked = differs.clone();
        self.send(last, move |sink, hasher| if asked(hasher) { Ok(()) } else { sink.finish() });
        self.settle().await?;
        let Upload { key, offset, hasher, .. } = self.upload;
        if differs(&hasher) {
            return Ok(Finished::Differs(hasher.digest()));
        }
        Ok(Finished::Object(Object { key, size_bytes: offset, digest: hasher.digest() }))
    }
}
