//! An object on its way in: hashed while it is written, stopped and taken up at any byte.
//!
//! What an [`Upload`] remembers is all that another process needs to go on: a folder needs the offset
//! and the hash; an object store also the parts it was given, and the bytes behind the last of them
//! (the *tail*), which it cannot read back.

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::{
    Algorithm, Cause, Digest, HashStateError, Hasher, Key, StoreError, WriteError, cloud, filesystem,
};

/// Where an upload stands: what a session row remembers of it.
#[derive(Debug, Clone)]
pub struct Upload {
    pub(crate) key: Key,
    pub(crate) offset: u64,
    pub(crate) hasher: Hasher,
    pub(crate) parts: Option<Parts>,
}

/// An object that is too large for one request, as far as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// What the store calls the multipart upload.
    pub multipart: String,
    /// How its bytes are divided.
    pub layout: Layout,
    /// How many parts the index knew when the writer began.
    pub known: u64,
    /// What the store calls the parts that came since, in order.
    pub ids: Vec<String>,
}

/// How an object is divided into parts.
///
/// Stores take 10,000 parts, the smallest of 5 MiB. An object whose length is known gets parts of
/// equal size, which some stores insist on; one whose length nobody knows begins with parts of the
/// usual size and gets larger ones when it turns out to be very large: 1 TiB fits with parts of 8 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The size of the first part, in bytes.
    pub part_bytes: u64,
    /// Whether later parts are larger.
    pub grows: bool,
}

/// A durable object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Where it is.
    pub key: Key,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// The digest of its bytes.
    pub digest: Digest,
}

/// What goes on with an upload besides its bytes.
pub struct Context {
    /// A key nobody else has, for what this writer puts.
    ///
    /// An object store cannot be locked: what a writer does whose time is over must not fall on the
    /// bytes of the next one, so it happens elsewhere. A folder has no use for it.
    pub key: Key,
    /// How long the object will be, in bytes, if that is known.
    pub expected_bytes: Option<u64>,
    /// Reads the tail, when there is memory for it. A folder has none.
    pub tail: Tail,
    /// Asks the index whether the upload is this writer's still. A file can be locked, but a writer that slept
    /// before it did so may come when others have been there, and what it has is a blob by then.
    pub is_ours: IsOurs,
}

/// Reads the bytes behind the last part, which the index keeps.
pub type Tail = BoxFuture<'static, Result<Bytes, Cause>>;

/// Asks whether the index names this writer.
pub type IsOurs = BoxFuture<'static, Result<bool, Cause>>;

/// An upload that was put away.
#[derive(Debug)]
pub struct Suspended {
    /// Where it stands.
    pub upload: Upload,
    /// Its tail, for the index to keep; `None` if it has not changed, or there is none. It holds memory of
    /// the budget until it is dropped.
    pub tail: Option<Bytes>,
}

impl Upload {
    /// An upload without a byte. Nothing is stored by this.
    pub fn begin(key: Key, algorithm: Algorithm) -> Self {
        Self { key, offset: 0, hasher: Hasher::new(algorithm), parts: None }
    }

    /// The upload that was at `offset` with this [`Upload::hash_state`].
    pub fn restore(
        key: Key,
        algorithm: Algorithm,
        offset: u64,
        state: &[u8],
    ) -> Result<Self, HashStateError> {
        Ok(Self { key, offset, hasher: Hasher::restore(algorithm, state)?, parts: None })
    }

    /// The same upload, with the parts it has.
    #[must_use]
    pub fn with_parts(self, parts: Option<Parts>) -> Self {
        Self { parts, ..self }
    }

    /// The key its bytes are under.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// How many bytes it has.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The state of its hash, to be restored later.
    pub fn hash_state(&self) -> Vec<u8> {
        self.hasher.save()
    }

    /// The digest of what it has.
    pub fn digest(&self) -> Digest {
        self.hasher.digest()
    }

    /// Its parts, if it has been divided.
    pub fn parts(&self) -> Option<&Parts> {
        self.parts.as_ref()
    }

    /// How many bytes are behind its last part, and so for the index to keep.
    pub fn tail_bytes(&self) -> u64 {
        self.parts.as_ref().map_or(0, |parts| self.offset - parts.end())
    }
}

impl Parts {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.known + self.ids.len() as u64
    }

    /// Where the last one ends, in bytes.
    pub fn end(&self) -> u64 {
        self.layout.start(self.count())
    }
}

impl Layout {
    /// The most parts an object may have.
    pub const MOST: u64 = 10_000;
    /// From this part on, a growing object has parts so many times as large.
    const GROWTH: [(u64, u64); 3] = [(0, 1), (2_000, 4), (4_000, 22)];

    /// How an object of this length, if it is known, is best divided.
    pub fn of(expected_bytes: Option<u64>, part_bytes: u64) -> Self {
        const MIB: u64 = 1024 * 1024;
        match expected_bytes {
            // So small that growth does not matter, or who knows how long.
            Some(length) if length > part_bytes * Self::GROWTH[1].0 => {
                let least = length.div_ceil(Self::MOST).div_ceil(MIB) * MIB;
                Self { part_bytes: part_bytes.max(least), grows: false }
            }
            _ => Self { part_bytes, grows: true },
        }
    }

    /// How many bytes part `index` has, unless it is the last.
    pub fn length(&self, index: u64) -> u64 {
        if !self.grows {
            return self.part_bytes;
        }
        let step = Self::GROWTH.iter().rev().find(|(from, _)| index >= *from);
        self.part_bytes * step.map_or(1, |(_, times)| *times)
    }

    /// Where part `index` begins, in bytes.
    pub fn start(&self, index: u64) -> u64 {
        if !self.grows {
            return index * self.part_bytes;
        }
        let ends = Self::GROWTH.iter().skip(1).map(|(from, _)| *from).chain([u64::MAX]);
        let steps = Self::GROWTH.iter().zip(ends);
        steps.map(|((from, times), end)| index.min(end).saturating_sub(*from) * self.part_bytes * times).sum()
    }
}

/// How far [`Writer::write_from`] came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// The stream has more.
    More,
    /// The stream ended.
    End,
    /// The store began a multipart upload under the writer's own key; it must be written down before
    /// the first part, or a crash would leave parts that nobody knows of.
    Opened(String),
    /// The stream is slow and others wait for memory: it is to be put away, and taken up again.
    Crowded,
}

/// What [`Writer::finish`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// A durable object.
    Object(Object),
    /// The bytes have this digest, not the one they were announced with. Nothing is kept of them.
    Differs(Digest),
}

/// An upload opened for writing.
///
/// Dropping it forgets what was written since it was opened; [`Writer::suspend`] keeps it.
#[derive(Debug)]
pub struct Writer(Kind);

#[derive(Debug)]
enum Kind {
    Filesystem(Box<filesystem::Writer>),
    Cloud(Box<cloud::Writer>),
}

impl From<filesystem::Writer> for Writer {
    fn from(writer: filesystem::Writer) -> Self {
        Self(Kind::Filesystem(Box::new(writer)))
    }
}

impl From<cloud::Writer> for Writer {
    fn from(writer: cloud::Writer) -> Self {
        Self(Kind::Cloud(Box::new(writer)))
    }
}

impl Writer {
    /// How many bytes have been taken.
    pub fn offset(&self) -> u64 {
        match &self.0 {
            Kind::Filesystem(writer) => writer.offset(),
            Kind::Cloud(writer) => writer.offset(),
        }
    }

    /// Takes what the stream has, until it ends or `until` has come.
    ///
    /// A stream that fails loses nothing that came before. A slow stream does not keep others from
    /// the memory they share.
    pub async fn write_from<S, E>(&mut self, body: &mut S, until: Instant) -> Result<Written, WriteError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        match &mut self.0 {
            Kind::Filesystem(writer) => writer.write_from(body, until).await,
            Kind::Cloud(writer) => writer.write_from(body, until).await,
        }
    }

    /// Makes what was taken survive a power cut, as far as that costs little, and says how far that
    /// is: a row that is saved with it tells the truth.
    ///
    /// An error leaves the upload behind the last bytes that were written.
    pub async fn checkpoint(&mut self) -> Result<&Upload, StoreError> {
        match &mut self.0 {
            Kind::Filesystem(writer) => writer.checkpoint().await,
            Kind::Cloud(writer) => writer.checkpoint().await,
        }
    }

    /// Puts the upload away until its next request, to the last byte that was taken. After an error
    /// from the store: to the last byte that is known to be stored.
    pub async fn suspend(&mut self) -> Result<Suspended, StoreError> {
        match &mut self.0 {
            Kind::Filesystem(writer) => {
                Ok(Suspended { upload: writer.checkpoint().await?.clone(), tail: None })
            }
            Kind::Cloud(writer) => writer.suspend().await,
        }
    }

    /// Closes the object, if its bytes have the digest they were announced with; one of another
    /// algorithm than the upload's is for the caller to compare. `earlier` are the parts that the index
    /// knew when the writer began. When this returns the object is durable.
    pub async fn finish(self, announced: &Digest, earlier: Vec<String>) -> Result<Finished, StoreError> {
        match self.0 {
            Kind::Filesystem(writer) => writer.finish(announced).await,
            Kind::Cloud(writer) => writer.finish(announced, earlier).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const TIB: u64 = 1024 * 1024 * MIB;

    #[test]
    fn parts_lie_behind_each_other() {
        for layout in [Layout::of(None, 8 * MIB), Layout::of(Some(300 * 1024 * MIB), 8 * MIB)] {
            let mut end = 0;
            for index in 0..Layout::MOST {
                assert_eq!(layout.start(index), end, "part {index}");
                end += layout.length(index);
            }
        }
    }

    #[test]
    fn a_tebibyte_fits_whether_or_not_its_length_is_known() {
        let unknown = Layout::of(None, 8 * MIB);
        assert!(unknown.start(Layout::MOST) >= TIB);
        let known = Layout::of(Some(TIB), 8 * MIB);
        assert!(known.start(Layout::MOST) >= TIB);
        assert!(known.part_bytes < 128 * MIB, "{known:?}");
    }

    #[test]
    fn parts_of_an_object_whose_length_is_known_are_of_equal_size() {
        for length in [1, 8 * MIB, 15 * 1024 * MIB, 100 * 1024 * MIB, TIB] {
            let layout = Layout::of(Some(length), 8 * MIB);
            let parts = (0..=Layout::MOST).find(|index| layout.start(*index) >= length).unwrap();
            assert!((0..parts).all(|index| layout.length(index) == layout.part_bytes), "{length}");
        }
    }
}
