//! What an index remembers of an upload, here in memory: a session goes through it between two writers
//! as it would between two processes.

#![expect(dead_code, reason = "each test program uses some of it")]

use std::convert::Infallible;
use std::time::Duration;

use berth_storage::{
    Algorithm, Context, Digest, Finished, Key, Object, Parts, Store, StoreError, Suspended, Upload,
    WriteError, Writer, Written,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, Stream};
use tokio::time::Instant;

/// Ample, for a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// An upload session.
#[derive(Debug, Clone)]
pub struct Session {
    key: Key,
    algorithm: Algorithm,
    pub offset: u64,
    hash_state: Vec<u8>,
    parts: Option<Parts>,
    part_ids: Vec<String>,
    tail: Bytes,
    /// Multipart uploads that were begun, by the key they are under.
    pub opened: Vec<(Key, String)>,
    /// Whether the index names its writers.
    is_ours: bool,
}

/// A session with its writer.
#[derive(Debug)]
pub struct Writing {
    session: Session,
    own: Key,
    pub writer: Writer,
}

impl Session {
    pub fn begin(algorithm: Algorithm) -> Self {
        Self::under(Key::generate(), algorithm)
    }

    pub fn under(key: Key, algorithm: Algorithm) -> Self {
        let upload = Upload::begin(key.clone(), algorithm);
        let hash_state = upload.hash_state();
        let (parts, part_ids, tail, opened) = (None, Vec::new(), Bytes::new(), Vec::new());
        Self { key, algorithm, offset: 0, hash_state, parts, part_ids, tail, opened, is_ours: true }
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The same session, which claims to have another number of bytes.
    pub fn claiming(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    /// The same session, which is another's by now.
    pub fn taken(self) -> Self {
        Self { is_ours: false, ..self }
    }

    pub fn upload(&self) -> Upload {
        let upload =
            Upload::restore(self.key.clone(), self.algorithm, self.offset, &self.hash_state).unwrap();
        let known = self.part_ids.len() as u64;
        upload.with_parts(self.parts.clone().map(|parts| Parts { known, ids: Vec::new(), ..parts }))
    }

    /// Goes on where the session stands.
    pub fn write(&self, to: &Store) -> Writing {
        self.write_expecting(to, None)
    }

    pub fn write_expecting(&self, to: &Store, expected_bytes: Option<u64>) -> Writing {
        // Only an object store puts anything there; the session's own key is as good to begin with.
        let own = if self.offset == 0 && self.opened.is_empty() { self.key.clone() } else { Key::generate() };
        let (tail, is_ours) = (self.tail.clone(), self.is_ours);
        let (tail, is_ours) = (async move { Ok(tail) }.boxed(), async move { Ok(is_ours) }.boxed());
        let context = Context { key: own.clone(), expected_bytes, tail, is_ours };
        Writing { session: self.clone(), own, writer: to.writer(self.upload(), context) }
    }

    fn keep(mut self, Suspended { upload, tail }: Suspended) -> Self {
        let has_moved = upload.offset() != self.offset;
        if let Some(parts) = upload.parts() {
            let known = usize::try_from(parts.known).unwrap();
            self.part_ids.truncate(known);
            self.part_ids.extend(parts.ids.iter().cloned());
            self.parts = Some(parts.clone());
        }
        if has_moved {
            // Written down: the writer's own holds memory that others wait for.
            self.tail = Bytes::copy_from_slice(&tail.unwrap_or_default());
        }
        assert_eq!(self.tail.len() as u64, upload.tail_bytes(), "{upload:?}");
        (self.key, self.offset, self.hash_state) =
            (upload.key().clone(), upload.offset(), upload.hash_state());
        self
    }
}

impl Writing {
    /// Takes all that a body has. The multipart upload that this may begin is written down.
    pub async fn take<S, E>(&mut self, body: &mut S) -> Result<Written, WriteError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        self.take_until(body, Instant::now() + PATIENCE).await
    }

    pub async fn take_until<S, E>(&mut self, body: &mut S, until: Instant) -> Result<Written, WriteError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        loop {
            match self.writer.write_from(body, until).await {
                Ok(Written::Opened(multipart)) => self.session.opened.push((self.own.clone(), multipart)),
                other => return other,
            }
        }
    }

    /// Takes bytes as a network would bring them, in pieces of this size.
    pub async fn bytes(&mut self, bytes: &Bytes, size: usize) {
        let pieces = (0..bytes.len())
            .step_by(size.max(1))
            .map(|at| Ok::<_, Infallible>(bytes.slice(at..bytes.len().min(at + size))));
        let written = self.take(&mut futures_util::stream::iter(pieces.collect::<Vec<_>>())).await;
        assert!(matches!(written, Ok(Written::End)), "{written:?}");
    }

    pub async fn checkpoint(&mut self) -> Session {
        let upload = self.writer.checkpoint().await.unwrap().clone();
        self.session.clone().keep(Suspended { upload, tail: None })
    }

    pub async fn suspend(mut self) -> Result<Session, StoreError> {
        let suspended = self.writer.suspend().await?;
        Ok(self.session.keep(suspended))
    }

    pub async fn finish_as(self, announced: &Digest) -> Finished {
        self.try_finish(announced).await.unwrap()
    }

    pub async fn try_finish(self, announced: &Digest) -> Result<Finished, StoreError> {
        self.writer.finish(announced, self.session.part_ids).await
    }

    pub async fn finish(self, bytes: &[u8]) -> Object {
        let announced = Digest::of(self.session.algorithm, bytes);
        match self.finish_as(&announced).await {
            Finished::Object(object) => object,
            Finished::Differs(digest) => panic!("its bytes are {digest}"),
        }
    }
}
