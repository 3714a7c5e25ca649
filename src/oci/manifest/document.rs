//! The one pass over a manifest's JSON.
//!
//! Serde visitors written by hand, since derived ones keep the last of two equal keys, know no
//! depth and build what nobody asked for. Every object on the way is checked by
//! [`Reader::next_key`], every level by [`Reader::enter`]; members nobody knows are walked and
//! dropped.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;

use berth_storage::Digest;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{DEPTH_MAX, DESCRIPTORS_MAX, FallbackEntry, MEDIA_TYPE_MAX_BYTES, ManifestError};

/// The members of a document that matter, before they are judged together.
#[derive(Default)]
pub(super) struct Document<'de> {
    pub(super) version: Version,
    pub(super) media_type: Option<String>,
    pub(super) artifact_type: Option<String>,
    pub(super) config: Option<ReadDescriptor>,
    pub(super) layers: Vec<ReadDescriptor>,
    pub(super) entries: Vec<ReadDescriptor>,
    pub(super) subject: Option<Digest>,
    pub(super) annotations: Option<&'de RawValue>,
    pub(super) members: Members,
}

/// Which members a document has, be they `null`: other readers may not take `null` for absent.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "a set of members, not a state")]
pub(super) struct Members {
    pub(super) image: bool,
    pub(super) manifests: bool,
    pub(super) fs_layers: bool,
    pub(super) signatures: bool,
}

/// The `schemaVersion` of a document.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Version {
    #[default]
    Absent,
    One,
    Two,
}

/// A descriptor as read, before its role is known.
pub(super) struct ReadDescriptor {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) media_type: Option<String>,
    pub(super) artifact_type: Option<String>,
    pub(super) platform: Option<String>,
}

impl<'de> Document<'de> {
    /// Reads a document and refuses what is wrong in one member alone.
    pub(super) fn read(bytes: &'de [u8]) -> Result<Self, ManifestError> {
        let reader = Reader::default();
        reader.read(utf8(bytes)?, DocumentSeed { reader: &reader })
    }
}

/// Reads the entries of an index and leaves out the bad ones.
pub(super) fn read_index(bytes: &[u8]) -> Result<Vec<FallbackEntry>, ManifestError> {
    let reader = Reader::default();
    let raw_entries = reader.read(utf8(bytes)?, IndexSeed { reader: &reader })?;
    let entries = raw_entries.into_iter().filter_map(|raw| {
        let reader = Reader::default();
        let seed = DescriptorSeed {
            reader: &reader,
            place: Place { member: "manifests", position: None },
            depth: 2,
        };
        let read = reader.read(raw.get(), seed).ok()??;
        Some(FallbackEntry { digest: read.digest, artifact_type: read.artifact_type, raw: raw.to_owned() })
    });
    Ok(entries.collect())
}

/// `serde_json` would check the strings it keeps, and not those it skips.
fn utf8(bytes: &[u8]) -> Result<&str, ManifestError> {
    std::str::from_utf8(bytes).map_err(|_| ManifestError::NotUtf8)
}

/// Whether `text` may be a media type anywhere in a document.
fn is_media_type(text: &str) -> bool {
    text.len() <= MEDIA_TYPE_MAX_BYTES && !text.chars().any(char::is_control)
}

/// What all parts of one reading share.
///
/// An error raised inside a visitor passes through `serde_json`, which keeps its text only; the
/// error itself waits here.
#[derive(Default)]
struct Reader {
    failure: RefCell<Option<ManifestError>>,
    descriptors: Cell<usize>,
}

impl Reader {
    /// Reads `text`, all of it, as `seed` says.
    fn read<'de, S: DeserializeSeed<'de>>(&self, text: &'de str, seed: S) -> Result<S::Value, ManifestError> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        seed.deserialize(&mut deserializer)
            .and_then(|value| deserializer.end().map(|()| value))
            .map_err(|error| self.failure.take().unwrap_or(ManifestError::Json(error)))
    }

    /// Keeps `error` and makes the error that stops the reading.
    fn fail<E: de::Error>(&self, error: ManifestError) -> E {
        self.failure.replace(Some(error));
        E::custom("refused")
    }

    /// Goes one level deeper than `depth`.
    fn enter<E: de::Error>(&self, depth: usize) -> Result<usize, E> {
        if depth < DEPTH_MAX { Ok(depth + 1) } else { Err(self.fail(ManifestError::TooDeep)) }
    }

    /// Counts a descriptor.
    fn count<E: de::Error>(&self) -> Result<(), E> {
        self.descriptors.set(self.descriptors.get() + 1);
        if self.descriptors.get() > DESCRIPTORS_MAX {
            return Err(self.fail(ManifestError::TooManyDescriptors));
        }
        Ok(())
    }

    /// Reads the next key of an object, which must not be among its `keys` yet.
    fn next_key<'de, A: MapAccess<'de>>(
        &self,
        keys: &mut HashSet<Cow<'de, str>>,
        map: &mut A,
    ) -> Result<Option<Cow<'de, str>>, A::Error> {
        let Some(key) = map.next_key_seed(KeySeed)? else {
            return Ok(None);
        };
        if !keys.insert(key.clone()) {
            let key = key.chars().take(64).collect();
            return Err(self.fail(ManifestError::DuplicateKey { key }));
        }
        Ok(Some(key))
    }

    /// Reads a value whose text is kept, once checked like any other.
    fn next_raw<'de, A: MapAccess<'de>>(&self, map: &mut A, depth: usize) -> Result<&'de RawValue, A::Error> {
        let raw: &'de RawValue = map.next_value()?;
        self.read(raw.get(), AnySeed { reader: self, depth }).map_err(|error| self.fail(error))?;
        Ok(raw)
    }

    /// Reads a media type of the document's first level. An empty one is no media type.
    fn next_media_type<'de, A: MapAccess<'de>>(
        &self,
        map: &mut A,
        member: &'static str,
        place: &'static str,
    ) -> Result<Option<String>, A::Error> {
        match map.next_value_seed(AnySeed { reader: self, depth: 1 })? {
            Value::Null => Ok(None),
            Value::Text(text) if text.is_empty() => Ok(None),
            Value::Text(text) if is_media_type(&text) => Ok(Some(text.into_owned())),
            Value::Text(_) => Err(self.fail(ManifestError::MediaType { place })),
            Value::Unsigned(_) | Value::Other => {
                let expected = "a string";
                Err(self.fail(ManifestError::Member { member, expected }))
            }
        }
    }
}

/// Reads the key of a member, without a copy where it has no escapes.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// A value of any kind, as much of it as anyone asks for.
enum Value<'de> {
    Null,
    Unsigned(u64),
    Text(Cow<'de, str>),
    Other,
}

/// Reads any value, checking keys and depth all the way down.
#[derive(Clone, Copy)]
struct AnySeed<'r> {
    reader: &'r Reader,
    /// How many objects and arrays the value stands in.
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for AnySeed<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnySeed<'_> {
    type Value = Value<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Value::Unsigned(number))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Value::Other)
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let depth = self.reader.enter(self.depth)?;
        let inner = AnySeed { depth, ..self };
        while sequence.next_element_seed(inner)?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let depth = self.reader.enter(self.depth)?;
        let inner = AnySeed { depth, ..self };
        let mut keys = HashSet::new();
        while self.reader.next_key(&mut keys, &mut map)?.is_some() {
            map.next_value_seed(inner)?;
        }
        Ok(Value::Other)
    }
}

/// Makes a visitor refuse the named kinds of value with the error of its `refusal`.
macro_rules! refuse {
    ($($kind:ident)*) => { $(refuse!(@ $kind);)* };
    (@ unit) => {
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Err(self.reader.fail(self.refusal()))
        }
    };
    (@ scalar) => {
        refuse!(@ visit_bool bool);
        refuse!(@ visit_i64 i64);
        refuse!(@ visit_u64 u64);
        refuse!(@ visit_f64 f64);
        refuse!(@ visit_str &str);
    };
    (@ seq) => {
        fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(self.reader.fail(self.refusal()))
        }
    };
    (@ map) => {
        fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(self.reader.fail(self.refusal()))
        }
    };
    (@ $method:ident $type:ty) => {
        fn $method<E: de::Error>(self, _: $type) -> Result<Self::Value, E> {
            Err(self.reader.fail(self.refusal()))
        }
    };
}

/// Reads a whole document.
struct DocumentSeed<'r> {
    reader: &'r Reader,
}

impl DocumentSeed<'_> {
    #[expect(clippy::unused_self, reason = "called alike for every visitor")]
    fn refusal(&self) -> ManifestError {
        ManifestError::NotAnObject
    }

    /// Reads the value of the member `key` into `document`.
    fn member<'de, A: MapAccess<'de>>(
        &self,
        document: &mut Document<'de>,
        key: &str,
        map: &mut A,
    ) -> Result<(), A::Error> {
        let reader = self.reader;
        let any = AnySeed { reader, depth: 1 };
        let list = |member| ListSeed { reader, member };
        let one = |member| DescriptorSeed { reader, place: Place { member, position: None }, depth: 1 };
        match key {
            "schemaVersion" => {
                document.version = match map.next_value_seed(any)? {
                    Value::Null => Version::Absent,
                    Value::Unsigned(1) => Version::One,
                    Value::Unsigned(2) => Version::Two,
                    _ => return Err(reader.fail(ManifestError::SchemaVersion)),
                };
            }
            "mediaType" => {
                document.media_type = reader.next_media_type(map, "mediaType", "manifest's mediaType")?;
            }
            "artifactType" => {
                document.artifact_type =
                    reader.next_media_type(map, "artifactType", "manifest's artifactType")?;
            }
            "config" => {
                document.members.image = true;
                document.config = map.next_value_seed(one("config"))?;
            }
            "layers" => {
                document.members.image = true;
                document.layers.extend(map.next_value_seed(list("layers"))?);
            }
            "blobs" => document.layers.extend(map.next_value_seed(list("blobs"))?),
            "manifests" => {
                document.members.manifests = true;
                document.entries = map.next_value_seed(list("manifests"))?;
            }
            "subject" => {
                document.subject = map.next_value_seed(one("subject"))?.map(|subject| subject.digest);
            }
            "annotations" => {
                let raw: &RawValue = map.next_value()?;
                if raw.get() != "null" {
                    reader.read(raw.get(), AnnotationsSeed { reader }).map_err(|error| reader.fail(error))?;
                    document.annotations = Some(raw);
                }
            }
            "fsLayers" => {
                document.members.fs_layers = true;
                map.next_value_seed(any)?;
            }
            "signatures" => {
                document.members.signatures = true;
                map.next_value_seed(any)?;
            }
            _ => {
                map.next_value_seed(any)?;
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for DocumentSeed<'_> {
    type Value = Document<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DocumentSeed<'_> {
    type Value = Document<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut document = Document::default();
        let mut keys = HashSet::new();
        while let Some(key) = self.reader.next_key(&mut keys, &mut map)? {
            self.member(&mut document, &key, &mut map)?;
        }
        Ok(document)
    }

    refuse!(unit scalar seq);
}

/// Reads an array of descriptors that is a member of the document.
struct ListSeed<'r> {
    reader: &'r Reader,
    member: &'static str,
}

impl ListSeed<'_> {
    fn refusal(&self) -> ManifestError {
        ManifestError::Member { member: self.member, expected: "an array of descriptors" }
    }
}

impl<'de> DeserializeSeed<'de> for ListSeed<'_> {
    type Value = Vec<ReadDescriptor>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ListSeed<'_> {
    type Value = Vec<ReadDescriptor>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of descriptors")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut descriptors = Vec::new();
        loop {
            let place = Place { member: self.member, position: Some(descriptors.len()) };
            let seed = DescriptorSeed { reader: self.reader, place, depth: 2 };
            match sequence.next_element_seed(seed)? {
                Some(Some(descriptor)) => descriptors.push(descriptor),
                Some(None) => return Err(self.reader.fail(place.error(NOT_AN_OBJECT))),
                None => return Ok(descriptors),
            }
        }
    }

    refuse!(scalar map);
}

const NOT_AN_OBJECT: &str = "is not an object";
const NO_DIGEST: &str = "has no valid digest; expected sha256: or sha512: and lower-case hexadecimal digits";
const NO_SIZE: &str = "has no valid size; expected a whole number of bytes";
const NO_MEDIA_TYPE: &str = "has a mediaType that is not a string of at most 255 characters";

/// Where a descriptor stands in a document.
#[derive(Clone, Copy)]
struct Place {
    member: &'static str,
    position: Option<usize>,
}

impl Place {
    fn error(self, problem: &'static str) -> ManifestError {
        let place = match self.position {
            Some(position) => format!("{}[{position}]", self.member),
            None => self.member.to_owned(),
        };
        ManifestError::Descriptor { place, problem }
    }
}

/// Reads a descriptor, or nothing where `null` stands.
struct DescriptorSeed<'r> {
    reader: &'r Reader,
    place: Place,
    /// How many objects and arrays it stands in.
    depth: usize,
}

impl DescriptorSeed<'_> {
    fn refusal(&self) -> ManifestError {
        self.place.error(NOT_AN_OBJECT)
    }
}

impl<'de> DeserializeSeed<'de> for DescriptorSeed<'_> {
    type Value = Option<ReadDescriptor>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DescriptorSeed<'_> {
    type Value = Option<ReadDescriptor>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a descriptor")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let reader = self.reader;
        reader.count()?;
        let depth = reader.enter(self.depth)?;
        let any = AnySeed { reader, depth };
        let refuse = |problem| reader.fail(self.place.error(problem));
        let (mut digest, mut size_bytes) = (None, None);
        let (mut media_type, mut artifact_type, mut platform) = (None, None, None);
        let mut keys = HashSet::new();
        while let Some(key) = reader.next_key(&mut keys, &mut map)? {
            match &*key {
                "digest" => match map.next_value_seed(any)? {
                    Value::Text(text) => {
                        digest = Some(text.parse::<Digest>().map_err(|_| refuse(NO_DIGEST))?);
                    }
                    _ => return Err(refuse(NO_DIGEST)),
                },
                "size" => match map.next_value_seed(any)? {
                    // The index keeps sizes as signed 64-bit numbers.
                    Value::Unsigned(size) if i64::try_from(size).is_ok() => size_bytes = Some(size),
                    _ => return Err(refuse(NO_SIZE)),
                },
                "mediaType" => match map.next_value_seed(any)? {
                    Value::Null => {}
                    Value::Text(text) if is_media_type(&text) => {
                        media_type = Some(text.into_owned()).filter(|text| !text.is_empty());
                    }
                    _ => return Err(refuse(NO_MEDIA_TYPE)),
                },
                "artifactType" => {
                    if let Value::Text(text) = map.next_value_seed(any)? {
                        artifact_type = Some(text.into_owned()).filter(|text| !text.is_empty());
                    }
                }
                "platform" => platform = platform_text(reader.next_raw(&mut map, depth)?),
                _ => {
                    map.next_value_seed(any)?;
                }
            }
        }
        Ok(Some(ReadDescriptor {
            digest: digest.ok_or_else(|| refuse(NO_DIGEST))?,
            size_bytes: size_bytes.ok_or_else(|| refuse(NO_SIZE))?,
            media_type,
            artifact_type,
            platform,
        }))
    }

    refuse!(scalar seq);
}

/// Names a platform for messages; an odd one has no name, which is no reason to refuse it.
fn platform_text(raw: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Platform<'a> {
        #[serde(borrow)]
        os: Cow<'a, str>,
        #[serde(borrow)]
        architecture: Cow<'a, str>,
        #[serde(borrow, default)]
        variant: Option<Cow<'a, str>>,
    }
    let platform: Platform<'_> = serde_json::from_str(raw.get()).ok()?;
    let variant = platform.variant.filter(|variant| !variant.is_empty());
    let parts = [Some(platform.os), Some(platform.architecture), variant];
    let parts: Vec<Cow<'_, str>> = parts.into_iter().flatten().collect();
    let is_sane = |part: &Cow<'_, str>| {
        matches!(part.len(), 1..=64) && part.bytes().all(|byte| byte.is_ascii_graphic())
    };
    parts.iter().all(is_sane).then(|| parts.join("/"))
}

/// Checks the annotations of a document: an object whose values are strings.
struct AnnotationsSeed<'r> {
    reader: &'r Reader,
}

impl AnnotationsSeed<'_> {
    #[expect(clippy::unused_self, reason = "called alike for every visitor")]
    fn refusal(&self) -> ManifestError {
        ManifestError::Annotations
    }
}

impl<'de> DeserializeSeed<'de> for AnnotationsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnnotationsSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("annotations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reader = self.reader;
        let mut keys = HashSet::new();
        while reader.next_key(&mut keys, &mut map)?.is_some() {
            if !matches!(map.next_value_seed(AnySeed { reader, depth: 2 })?, Value::Text(_)) {
                return Err(reader.fail(self.refusal()));
            }
        }
        Ok(())
    }

    refuse!(unit scalar seq);
}

/// Reads the entries of an index as text.
struct IndexSeed<'r> {
    reader: &'r Reader,
}

impl IndexSeed<'_> {
    #[expect(clippy::unused_self, reason = "called alike for every visitor")]
    fn refusal(&self) -> ManifestError {
        ManifestError::NotAnObject
    }
}

impl<'de> DeserializeSeed<'de> for IndexSeed<'_> {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for IndexSeed<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an image index")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let reader = self.reader;
        let mut entries = Vec::new();
        let mut keys = HashSet::new();
        while let Some(key) = reader.next_key(&mut keys, &mut map)? {
            if key == "manifests" {
                entries = map.next_value_seed(EntriesSeed { reader })?;
            } else {
                map.next_value_seed(AnySeed { reader, depth: 1 })?;
            }
        }
        Ok(entries)
    }

    refuse!(unit scalar seq);
}

/// Reads the `manifests` of an index as text, whatever each of them is.
struct EntriesSeed<'r> {
    reader: &'r Reader,
}

impl EntriesSeed<'_> {
    #[expect(clippy::unused_self, reason = "called alike for every visitor")]
    fn refusal(&self) -> ManifestError {
        ManifestError::Member { member: "manifests", expected: "an array of descriptors" }
    }
}

impl<'de> DeserializeSeed<'de> for EntriesSeed<'_> {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for EntriesSeed<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of descriptors")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(raw) = sequence.next_element()? {
            self.reader.count()?;
            entries.push(raw);
        }
        Ok(entries)
    }

    refuse!(scalar map);
}
