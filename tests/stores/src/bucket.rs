//! A bucket in memory.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use bytes::Bytes;
use crc_fast::CrcAlgorithm;

use crate::xml::Refusal;

/// The most that one answer lists.
pub(crate) const MOST_LISTED: usize = 1_000;

/// The least that a part has, in bytes, unless it is the last.
const LEAST_PART_BYTES: u64 = 5 * 1024 * 1024;

/// What stands for all bytes that are not kept.
static ZEROS: [u8; 1024 * 1024] = [0; 1024 * 1024];

/// Objects by key, and uploads that are to become objects.
#[derive(Default)]
pub(crate) struct Bucket {
    pub(crate) objects: BTreeMap<String, Object>,
    pub(crate) multiparts: BTreeMap<String, Multipart>,
}

/// An object, or a part of one.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) content: Content,
    pub(crate) e_tag: String,
    pub(crate) generation: u64,
    pub(crate) put_at: Instant,
}

/// A multipart upload.
pub(crate) struct Multipart {
    pub(crate) key: String,
    pub(crate) parts: BTreeMap<u32, Object>,
}

/// An object in a list.
pub(crate) struct Listed<'a> {
    pub(crate) key: &'a str,
    pub(crate) e_tag: &'a str,
    pub(crate) size_bytes: u64,
}

/// Bytes, in as many pieces as they came in.
#[derive(Clone, Default)]
pub(crate) struct Content {
    pieces: Vec<Bytes>,
    size_bytes: u64,
}

impl Bucket {
    /// All objects that have been there for so long, in the order of their keys.
    pub(crate) fn list(&self, since: Duration) -> impl Iterator<Item = Listed<'_>> {
        let objects = self.objects.iter().filter(move |(_, object)| object.put_at.elapsed() >= since);
        objects.map(|(key, object)| Listed {
            key,
            e_tag: &object.e_tag,
            size_bytes: object.content.size_bytes(),
        })
    }

    /// The multipart uploads that are open: of which key, and what each is called.
    pub(crate) fn open_multiparts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.multiparts.iter().map(|(upload, multipart)| (multipart.key.as_str(), upload.as_str()))
    }

    pub(crate) fn multipart(&mut self, upload: &str, key: &str) -> Result<&mut Multipart, Refusal> {
        let found = self.multiparts.get_mut(upload).filter(|multipart| multipart.key == key);
        found.ok_or(Refusal::NO_SUCH_UPLOAD)
    }

    /// The parts of an upload that a completion names, if it may.
    pub(crate) fn chosen(
        &mut self,
        upload: &str,
        key: &str,
        wanted: &[(u32, String)],
    ) -> Result<Vec<Content>, Refusal> {
        let multipart = self.multipart(upload, key)?;
        if !wanted.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Refusal::INVALID_PART_ORDER);
        }
        let chosen = wanted.iter().map(|(number, e_tag)| {
            let part = multipart.parts.get(number).filter(|part| part.e_tag == *e_tag);
            part.map(|part| part.content.clone()).ok_or(Refusal::INVALID_PART)
        });
        let chosen: Vec<_> = chosen.collect::<Result<_, _>>()?;
        let (_, all_but_last) = chosen.split_last().ok_or(Refusal::INVALID_PART)?;
        if all_but_last.iter().any(|part| part.size_bytes() < LEAST_PART_BYTES) {
            return Err(Refusal::ENTITY_TOO_SMALL);
        }
        Ok(chosen)
    }
}

impl Object {
    /// What was stored in one request.
    pub(crate) fn whole(content: Content, generation: u64) -> Self {
        let checksum = content.checksum(CrcAlgorithm::Crc64Nvme);
        let e_tag = format!("\"{checksum:016x}{:016x}\"", content.size_bytes());
        Self { content, e_tag, generation, put_at: Instant::now() }
    }

    /// What was put together from parts, which are one behind the other.
    pub(crate) fn of_parts(parts: Vec<Content>, generation: u64) -> Self {
        let e_tag = format!("\"{generation:032x}-{}\"", parts.len());
        Self { content: Content::concat(parts), e_tag, generation, put_at: Instant::now() }
    }
}

impl Content {
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(crate) fn push(&mut self, piece: Bytes) {
        self.size_bytes += piece.len() as u64;
        self.pieces.push(piece);
    }

    /// Adds so many bytes of which only the number counts.
    pub(crate) fn push_zeros(&mut self, mut count: usize) {
        while count > 0 {
            let piece = Bytes::from_static(&ZEROS[..count.min(ZEROS.len())]);
            count -= piece.len();
            self.push(piece);
        }
    }

    fn concat(contents: Vec<Self>) -> Self {
        let mut whole = Self::default();
        contents.into_iter().flat_map(|content| content.pieces).for_each(|piece| whole.push(piece));
        whole
    }

    /// The bytes in a range of them.
    pub(crate) fn slice(&self, range: Range<u64>) -> Self {
        let (mut slice, mut at) = (Self::default(), 0);
        for piece in &self.pieces {
            let end = at + piece.len() as u64;
            let [from, to] = [range.start.clamp(at, end), range.end.clamp(at, end)]
                .map(|edge| usize::try_from(edge - at).expect("it is within a piece"));
            if from < to {
                slice.push(piece.slice(from..to));
            }
            at = end;
        }
        slice
    }

    pub(crate) fn into_pieces(self) -> Vec<Bytes> {
        self.pieces
    }

    /// All bytes in one piece.
    pub(crate) fn bytes(&self) -> Bytes {
        match self.pieces.as_slice() {
            [only] => only.clone(),
            pieces => pieces.concat().into(),
        }
    }

    pub(crate) fn checksum(&self, algorithm: CrcAlgorithm) -> u64 {
        let mut digest = crc_fast::Digest::new(algorithm);
        self.pieces.iter().for_each(|piece| digest.update(piece));
        digest.finalize()
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        let mut content = Self::default();
        content.push(bytes);
        content
    }
}
