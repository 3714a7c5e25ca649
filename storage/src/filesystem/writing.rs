//! Writing a file as its bytes come: hashed on the thread that writes them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};

use super::Sink;
use crate::budget::{Budget, Held};
use crate::{Digest, Finished, Hasher, Object, StoreError, Upload, WriteError, Written};

/// How much is handed to the disk in one go. An upload holds at most three batches: one that is filled, one
/// that is written, and one between them.
pub(crate) const BATCH_BYTES: usize = 512 * 1024;

/// How long a batch waits for more bytes. Waking the thread that writes costs more than a small write.
const LINGER: Duration = Duration::from_millis(20);

/// How long a thread that writes waits for the next batch. Falling asleep and being woken between two of a
/// fast client took a fifth of the time of a large layer.
const PATIENCE: Duration = Duration::from_millis(2);

/// After so much a thread lets others have their turn. It is less than what may be written behind a sync: were
/// all threads with uploads that wait for one, no sync would get a thread.
const TURN_BYTES: u64 = 4 * 1024 * 1024;

/// An upload opened for writing.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Where the upload stands: what has been written and hashed.
    upload: Upload,
    sink: Option<Sink>,
    away: Option<JoinHandle<Away>>,
    /// Where to send a batch, while there is a thread that waits for more.
    line: Option<mpsc::Sender<Batch>>,
    /// What came last, kept for the thread that also syncs it: a small upload costs one hop.
    last: Option<Batch>,
    budget: Arc<Budget>,
}

/// A sink on a thread that may block, and how far it came there.
#[derive(Debug)]
struct Away {
    sink: Sink,
    hasher: Hasher,
    offset: u64,
    written: Result<(), StoreError>,
}

impl Away {
    fn write(&mut self, batch: &Batch) {
        self.written = self.sink.write(self.offset, &batch.chunks);
        if self.written.is_ok() {
            batch.chunks.iter().for_each(|chunk| self.hasher.update(chunk));
            self.offset += batch.size_bytes as u64;
        }
    }

    /// Writes what comes down the line, until it is closed, its turn is over, nothing comes for a moment or
    /// something fails.
    fn write_all(mut self, mut line: mpsc::Receiver<Batch>) -> Self {
        let runtime = Handle::current();
        let end = self.offset + TURN_BYTES;
        while self.written.is_ok() {
            match runtime.block_on(async { timeout(PATIENCE, line.recv()).await }) {
                Ok(Some(batch)) => {
                    self.write(&batch);
                    // Not where the upload is synced right after it: what waits for a sync it has just begun would
                    // keep the thread the sync needs.
                    self.written = self.written.and_then(|()| self.sink.catch_up());
                }
                Ok(None) => break,
                // What has been sent by now still comes.
                Err(_) => line.close(),
            }
            if self.offset >= end {
                line.close();
            }
        }
        self
    }
}

#[derive(Debug)]
struct Batch {
    chunks: Vec<Bytes>,
    size_bytes: usize,
    _held: Held,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.size_bytes >= BATCH_BYTES
    }

    /// Adds what comes until it is full, or too little comes; the answer is how the stream ended.
    async fn fill<S, E>(&mut self, body: &mut S) -> Option<Result<Written, WriteError<E>>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let until = Instant::now() + LINGER;
        while !self.is_full() {
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
        Self { upload, sink: Some(sink), away: None, line: None, last: None, budget }
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
            self.send(batch).await?;
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
            // Filled while those before are being written.
            if let Some(outcome) = batch.fill(body).await {
                self.settle().await?;
                self.last = Some(batch);
                break outcome;
            }
            self.send(batch).await?;
        };
        self.settle().await?;
        outcome
    }

    /// Hands a batch to a thread that may block. Waits only for room in the line, which has one place.
    async fn send(&mut self, mut batch: Batch) -> Result<(), StoreError> {
        // Whoever is slow keeps no thread waiting.
        let is_fast = batch.is_full();
        loop {
            let line = match self.line.take() {
                Some(line) => line,
                None => self.open_line().await?,
            };
            match line.send(batch).await {
                Ok(()) => {
                    self.line = Some(line).filter(|_| is_fast);
                    return Ok(());
                }
                // The thread has gone: out of patience, or with an error.
                Err(mpsc::error::SendError(back)) => batch = back,
            }
        }
    }

    async fn open_line(&mut self) -> Result<mpsc::Sender<Batch>, StoreError> {
        self.settle().await?;
        let (line, batches) = mpsc::channel(1);
        let away = self.leave();
        self.away = Some(spawn_blocking(move || away.write_all(batches)));
        Ok(line)
    }

    /// Writes what came last, and then does what is left to do, on one thread.
    async fn end(
        &mut self,
        then: impl FnOnce(&mut Sink, &Hasher) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.settle().await?;
        let last = self.last.take();
        let mut away = self.leave();
        self.away = Some(spawn_blocking(move || {
            if let Some(batch) = last {
                away.write(&batch);
            }
            if away.written.is_ok() {
                away.written = then(&mut away.sink, &away.hasher);
            }
            away
        }));
        self.settle().await
    }

    fn leave(&mut self) -> Away {
        let sink = self.sink.take().expect("the sink is home after settle");
        Away { sink, hasher: self.upload.hasher.clone(), offset: self.upload.offset, written: Ok(()) }
    }

    /// Waits for what is on its way; the upload moves forward by whole batches that were written.
    async fn settle(&mut self) -> Result<(), StoreError> {
        self.line = None;
        let Some(task) = self.away.take() else { return Ok(()) };
        let Away { sink, hasher, offset, written } = task.await.map_err(|error| StoreError::Io {
            operation: "write an object",
            source: std::io::Error::other(error),
        })?;
        self.sink = Some(sink);
        self.upload.hasher = hasher;
        self.upload.offset = offset;
        written
    }

    pub(crate) async fn checkpoint(&mut self) -> Result<&Upload, StoreError> {
        self.end(|sink, _| sink.sync()).await?;
        Ok(&self.upload)
    }

    pub(crate) async fn finish(mut self, announced: &Digest) -> Result<Finished, StoreError> {
        let announced = announced.clone();
        let differs = move |hasher: &Hasher| {
            let digest = hasher.digest();
            digest.algorithm() == announced.algorithm() && digest != announced
        };
        let asked = differs.clone();
        self.end(move |sink, hasher| if asked(hasher) { Ok(()) } else { sink.finish() }).await?;
        let Upload { key, offset, hasher, .. } = self.upload;
        if differs(&hasher) {
            return Ok(Finished::Differs(hasher.digest()));
        }
        Ok(Finished::Object(Object { key, size_bytes: offset, digest: hasher.digest() }))
    }
}
