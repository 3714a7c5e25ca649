//! Objects in pieces, each of which is read once for all who want it now.
//!
//! A reader goes through its range piece by piece, and has the next one fetched while it takes one, in the
//! same request. A piece that is on its way is joined from its first byte, and its fetch ends when the last
//! reader lets go of it. A piece that was taken stays a few seconds for those who come a little later, as
//! the nodes of a cluster do. All pieces together are bounded in memory; without room for another one a
//! reader goes on alone, with the bytes straight from the connection.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{Cloud, broken};
use crate::cache::Cache;
use crate::{ByteStream, Key, StoreError};

/// The size of a piece, at most.
const PIECE_BYTES: u64 = 4 * 1024 * 1024;
/// How long a piece stays when nobody wants it any more.
const STAY: Duration = Duration::from_secs(10);
/// How many stay, however small they are.
const RECENT: usize = 4096;
/// The unit memory is counted in.
const UNIT: u64 = 1024;

/// The pieces of all readers.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Those that somebody has.
    all: Mutex<HashMap<Name, Weak<Piece>>>,
    recent: Mutex<Recent>,
    /// What the recent ones may hold of the memory, in bytes.
    recent_bytes: u64,
    tasks: TaskTracker,
    memory: Arc<Semaphore>,
    /// Two of them, the one that is taken and the one that is fetched, are no more than a part.
    piece_bytes: u64,
    cache: OnceLock<Cache>,
}

/// Which bytes of which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    key: Key,
    start: u64,
    end: u64,
}

/// A piece on its way, or here.
#[derive(Debug)]
struct Piece {
    name: Name,
    arrived: watch::Receiver<Arrived>,
    /// What comes behind it, for the fetch of the next one.
    flow: Mutex<Option<oneshot::Receiver<Flow>>>,
    cloud: Cloud,
    is_recent: AtomicBool,
    _fetch: AbortOnDropHandle<()>,
    _held: OwnedSemaphorePermit,
}

/// Pieces that somebody has taken, oldest first.
#[derive(Debug, Default)]
struct Recent {
    pieces: VecDeque<Staying>,
    bytes: u64,
}

/// A piece that stays for a while.
#[derive(Debug)]
struct Staying {
    since: Instant,
    piece: Arc<Piece>,
    /// What lets it go in time.
    _end: AbortOnDropHandle<()>,
}

/// What there is of a piece.
#[derive(Debug, Default)]
struct Arrived {
    chunks: Vec<Bytes>,
    end: Option<Result<(), Arc<StoreError>>>,
}

/// What is still to come of a request.
struct Flow {
    bytes: ByteStream,
    /// What came at once with bytes of the piece before.
    left: Bytes,
    rest: Range<u64>,
}

/// What a piece is fetched with.
struct Order {
    name: Name,
    size_bytes: u64,
    /// Where a request that is begun for it ends, so that the pieces behind it need none.
    until: u64,
    before: Option<oneshot::Receiver<Flow>>,
}

/// One who reads a range.
struct Reader {
    cloud: Cloud,
    key: Key,
    size_bytes: u64,
    rest: Range<u64>,
    /// The piece that is being taken, and the next one.
    ahead: VecDeque<Taking>,
    /// The rest, where there was no memory for a piece.
    alone: Option<ByteStream>,
}

/// A piece, and how far it was taken.
struct Taking {
    piece: Arc<Piece>,
    arrived: watch::Receiver<Arrived>,
    chunks: usize,
    position: u64,
}

impl Pieces {
    pub(super) fn new(memory_bytes: u64, part_bytes: u64) -> Self {
        let units = usize::try_from(memory_bytes / UNIT).unwrap_or(usize::MAX);
        Self {
            all: Mutex::default(),
            recent: Mutex::default(),
            recent_bytes: memory_bytes / 4,
            tasks: TaskTracker::new(),
            memory: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            piece_bytes: PIECE_BYTES.min(part_bytes / 2),
            cache: OnceLock::new(),
        }
    }

    pub(super) fn keep_near(&self, cache: Cache) {
        self.cache.get_or_init(|| cache);
    }

    /// The piece that begins with, or contains, the first byte of `rest`, and where a request for `rest`
    /// ends. What is kept is kept whole; else nobody fetches more than is asked for.
    fn bounds(&self, rest: &Range<u64>, size_bytes: u64) -> (Range<u64>, u64) {
        let start = rest.start - rest.start % self.piece_bytes;
        let end = start + self.piece_bytes;
        match self.cache.get() {
            Some(_) => {
                let until = rest.end.next_multiple_of(self.piece_bytes);
                (start..end.min(size_bytes), until.min(size_bytes))
            }
            None => (rest.start..end.min(rest.end), rest.end),
        }
    }
}

impl Cloud {
    /// A piece that is here, or on its way from now on; `None` if there is no memory for it.
    fn piece(&self, name: &Name, before: Option<&Piece>, until: u64, size_bytes: u64) -> Option<Arc<Piece>> {
        loop {
            if let Some(piece) = self.join_or_fetch(name, before, until, size_bytes) {
                return Some(piece);
            }
            if !lock(&self.0.pieces.recent).let_go_if(|_| true) {
                return None;
            }
        }
    }

    fn join_or_fetch(
        &self,
        name: &Name,
        before: Option<&Piece>,
        until: u64,
        size_bytes: u64,
    ) -> Option<Arc<Piece>> {
        let pieces = &self.0.pieces;
        // Outlives the lock: the last one to have a piece looks for it among all.
        let found: Option<Arc<Piece>>;
        let mut all = lock(&pieces.all);
        found = all.get(name).and_then(Weak::upgrade);
        // One that broke off is held by those who have not come to its end yet.
        if found.as_ref().is_some_and(|piece| !piece.is_broken()) {
            return found;
        }
        let units = u32::try_from(name.memory_bytes().div_ceil(UNIT)).ok()?;
        let held = Arc::clone(&pieces.memory).try_acquire_many_owned(units).ok()?;
        let before = before.and_then(|before| lock(&before.flow).take());
        let order = Order { name: name.clone(), size_bytes, until, before };
        let (arriving, arrived) = watch::channel(Arrived::default());
        let (passing, flow) = oneshot::channel();
        let fetch = fetch(self.clone(), order, arriving, passing);
        let piece = Arc::new(Piece {
            name: name.clone(),
            arrived,
            flow: Mutex::new(Some(flow)),
            cloud: self.clone(),
            is_recent: AtomicBool::new(false),
            _fetch: AbortOnDropHandle::new(pieces.tasks.spawn(fetch)),
            _held: held,
        });
        all.insert(name.clone(), Arc::downgrade(&piece));
        Some(piece)
    }

    /// Lets a piece that was taken stay for a while.
    fn stay(&self, piece: Arc<Piece>) {
        if piece.is_recent.swap(true, Ordering::Relaxed) {
            return;
        }
        // A request that nobody goes on with ends.
        drop(lock(&piece.flow).take());
        let inner = Arc::downgrade(&self.0);
        let end = self.0.pieces.tasks.spawn(async move {
            sleep(STAY).await;
            if let Some(inner) = inner.upgrade() {
                let mut recent = lock(&inner.pieces.recent);
                while recent.let_go_if(|oldest| oldest.since.elapsed() >= STAY) {}
            }
        });
        let mut recent = lock(&self.0.pieces.recent);
        recent.bytes += piece.name.memory_bytes();
        let (since, end) = (Instant::now(), AbortOnDropHandle::new(end));
        recent.pieces.push_back(Staying { since, piece, _end: end });
        while recent.bytes > self.0.pieces.recent_bytes || recent.pieces.len() > RECENT {
            recent.let_go_if(|_| true);
        }
    }

    /// Forgets what there is of an object.
    pub(super) fn forget(&self, key: &Key) {
        lock(&self.0.pieces.recent).retain(|piece| piece.name.key != *key);
    }

    /// Forgets everything, once what is kept near is on its disk.
    pub(super) async fn end(&self) {
        if let Some(cache) = self.0.pieces.cache.get() {
            cache.close().await;
        }
        lock(&self.0.pieces.recent).retain(|_| false);
    }
}

impl Recent {
    /// Lets the oldest go, if there is one and it is to go.
    fn let_go_if(&mut self, is_to_go: impl FnOnce(&Staying) -> bool) -> bool {
        let Some(oldest) = self.pieces.pop_front_if(|oldest| is_to_go(oldest)) else { return false };
        self.bytes -= oldest.piece.name.memory_bytes();
        true
    }

    fn retain(&mut self, is_to_stay: impl Fn(&Piece) -> bool) {
        self.pieces.retain(|staying| is_to_stay(&staying.piece));
        self.bytes = self.pieces.iter().map(|staying| staying.piece.name.memory_bytes()).sum();
    }
}

impl Name {
    /// The connection's buffers are not full when they are passed on: they hold up to twice their bytes.
    fn memory_bytes(&self) -> u64 {
        2 * (self.end - self.start)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Piece {
    fn is_broken(&self) -> bool {
        matches!(self.arrived.borrow().end, Some(Err(_)))
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut all = lock(&self.cloud.0.pieces.all);
        // Another one may have begun under the name meanwhile.
        if all.get(&self.name).is_some_and(|piece| piece.strong_count() == 0) {
            all.remove(&self.name);
        }
    }
}

async fn fetch(cloud: Cloud, order: Order, arriving: watch::Sender<Arrived>, passing: oneshot::Sender<Flow>) {
    let (end, flow) = match bring(&cloud, order, &arriving).await {
        Ok(flow) => (Ok(()), flow),
        Err(error) => (Err(Arc::new(error)), None),
    };
    arriving.send_modify(|arrived| arrived.end = Some(end));
    if let Some(flow) = flow {
        // Whoever wanted it may have gone.
        let _ = passing.send(flow);
    }
}

/// Fetches a piece, and gives back what is to come behind it.
async fn bring(
    cloud: &Cloud,
    order: Order,
    arriving: &watch::Sender<Arrived>,
) -> Result<Option<Flow>, StoreError> {
    let Order { name: Name { key, start, end }, size_bytes, until, before } = order;
    let (cache, tally) = (cloud.0.pieces.cache.get(), &cloud.0.tally);
    if let Some(cache) = cache {
        if let Some(bytes) = cache.get(&key, start..end).await {
            tally.hit();
            arriving.send_modify(|arrived| arrived.chunks.push(bytes));
            return Ok(None);
        }
        tally.miss();
    }
    let before = match before {
        Some(before) => before.await.ok().filter(|flow| flow.rest.start == start && flow.rest.end >= end),
        None => None,
    };
    let mut flow = if let Some(flow) = before {
        flow
    } else {
        let bytes = cloud.stream(&key, size_bytes, start..until).await?;
        Flow { bytes, left: Bytes::new(), rest: start..until }
    };
    while let Some(chunk) = flow.next(end).await? {
        arriving.send_modify(|arrived| arrived.chunks.push(chunk));
    }
    if let Some(cache) = cache {
        cache.keep(&key, start..end, arriving.borrow().chunks.clone());
    }
    Ok(Some(flow).filter(|flow| !flow.rest.is_empty()))
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("rest", &self.rest).finish_non_exhaustive()
    }
}

impl Flow {
    /// The next bytes before `end`.
    async fn next(&mut self, end: u64) -> Result<Option<Bytes>, StoreError> {
        if self.rest.start >= end {
            return Ok(None);
        }
        if self.left.is_empty() {
            let Some(bytes) = self.bytes.try_next().await? else { return Ok(None) };
            self.left = bytes;
        }
        let wanted = usize::try_from(end - self.rest.start).unwrap_or(usize::MAX);
        let bytes = self.left.split_to(wanted.min(self.left.len()));
        self.rest.start += bytes.len() as u64;
        Ok(Some(bytes))
    }
}

/// Reads a range. That the object is not there, or not as it should be, is an error before the first byte.
pub(super) async fn begin(
    cloud: Cloud,
    key: Key,
    size_bytes: u64,
    range: Range<u64>,
) -> Result<ByteStream, StoreError> {
    let mut reader = Reader { cloud, key, size_bytes, rest: range, ahead: VecDeque::new(), alone: None };
    reader.look_ahead().await?;
    if let Some(taking) = reader.ahead.front_mut() {
        taking.more().await?;
    }
    Ok(stream::try_unfold(reader, Reader::next).boxed())
}

impl Reader {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreError> {
        while !self.rest.is_empty() {
            self.look_ahead().await?;
            let bytes = match (self.ahead.front_mut(), &mut self.alone) {
                (Some(taking), _) => taking.next(&self.rest).await?,
                (None, Some(alone)) => alone.try_next().await?,
                (None, None) => None,
            };
            let Some(bytes) = bytes else {
                return Err(broken(format!("{} bytes are missing", self.rest.end - self.rest.start)));
            };
            self.rest.start += bytes.len() as u64;
            self.let_taken_stay();
            if !bytes.is_empty() {
                return Ok(Some((bytes, self)));
            }
        }
        Ok(None)
    }

    fn let_taken_stay(&mut self) {
        let is_taken = |taking: &mut Taking| self.rest.is_empty() || taking.position >= taking.piece.name.end;
        if let Some(taking) = self.ahead.pop_front_if(is_taken) {
            self.cloud.stay(taking.piece);
        }
    }

    /// Has the next pieces on their way, or else the rest.
    async fn look_ahead(&mut self) -> Result<(), StoreError> {
        while self.ahead.len() < 2 && self.alone.is_none() {
            let before = self.ahead.back().map(|taking| &*taking.piece);
            let start = before.map_or(self.rest.start, |before| before.name.end);
            if start >= self.rest.end {
                break;
            }
            let pieces = &self.cloud.0.pieces;
            let (bounds, until) = pieces.bounds(&(start..self.rest.end), self.size_bytes);
            let name = Name { key: self.key.clone(), start: bounds.start, end: bounds.end };
            match self.cloud.piece(&name, before, until, self.size_bytes) {
                Some(piece) => self.ahead.push_back(Taking::new(piece)),
                // There may be room when it is this one's turn.
                None if !self.ahead.is_empty() => break,
                None => {
                    let alone = self.cloud.stream(&self.key, self.size_bytes, self.rest.clone()).await?;
                    self.alone = Some(alone);
                }
            }
        }
        Ok(())
    }
}

impl Taking {
    fn new(piece: Arc<Piece>) -> Self {
        Self { arrived: piece.arrived.clone(), position: piece.name.start, piece, chunks: 0 }
    }

    /// Waits until there is more than was taken; `false` at the end.
    async fn more(&mut self) -> Result<bool, StoreError> {
        let chunks = self.chunks;
        let is_more = |arrived: &Arrived| arrived.chunks.len() > chunks || arrived.end.is_some();
        let Ok(arrived) = self.arrived.wait_for(is_more).await else {
            return Err(broken("its fetch ended without a word"));
        };
        match &arrived.end {
            _ if arrived.chunks.len() > chunks => Ok(true),
            Some(Err(error)) => Err(StoreError::shared(error)),
            Some(Ok(())) | None => Ok(false),
        }
    }

    /// The next bytes that are in `wanted`, none if these are not; `None` at the end.
    async fn next(&mut self, wanted: &Range<u64>) -> Result<Option<Bytes>, StoreError> {
        if !self.more().await? {
            return Ok(None);
        }
        let chunk = self.arrived.borrow().chunks[self.chunks].clone();
        let length = chunk.len() as u64;
        let inside = |position: u64| position.saturating_sub(self.position).min(length);
        let [start, end] = [inside(wanted.start), inside(wanted.end)];
        self.chunks += 1;
        self.position += length;
        let index = |offset| usize::try_from(offset).expect("a chunk is in memory");
        Ok(Some(chunk.slice(index(start)..index(end))))
    }
}
