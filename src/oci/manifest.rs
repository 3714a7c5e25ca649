//! Manifests and indexes: what Berth reads in them.
//!
//! A manifest is stored and served as the bytes that came, so nothing here writes one back. It is
//! read once, in one pass, for what the registry must know: its media type, what it refers to,
//! its subject, and what the referrers API shows of it. A document that two clients could
//! understand in two ways (CVE-2021-41190) is refused: duplicate keys at any depth, a media type
//! that is not that of the request, the members of a manifest and of an index in one. Media types
//! are otherwise free and unknown members are let be.
//!
//! The limits on size, depth and number of descriptors bound time and memory by a small multiple
//! of the bytes, which the HTTP layer limits in turn. `null` stands for an absent member, as Go
//! programs write it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use berth_storage::Digest;
use serde::Serialize;
use serde_json::value::RawValue;

use self::document::{Document, ReadDescriptor, Version};

mod document;

/// The media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of docker's image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The media type of docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The media types of docker's schema 1, which is not supported.
const DOCKER_SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// Prefixes of the media types of layers that a registry need not have.
const FOREIGN_LAYERS: [&str; 2] = [
    "application/vnd.oci.image.layer.nondistributable.v1.",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// How deep objects and arrays may nest; the document itself is the first level.
pub const DEPTH_MAX: usize = 32;

/// How many descriptors a document may have in all.
pub const DESCRIPTORS_MAX: usize = 10_000;

/// The longest media type, in bytes.
pub const MEDIA_TYPE_MAX_BYTES: usize = 255;

/// What Berth knows of a manifest or an index.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The media type to serve it with, without parameters; visible ASCII.
    pub media_type: String,
    /// What the referrers API shows as its artifact type: its own `artifactType`, else the media
    /// type of its config; of an index its own only.
    pub artifact_type: Option<String>,
    /// The manifest this one is about; it need not exist.
    pub subject: Option<Digest>,
    /// Its own annotations, verbatim: an object whose values are strings.
    pub annotations: Option<Box<RawValue>>,
    /// What it refers to, the subject apart, in the document's order and once per digest and role.
    pub references: Vec<Descriptor>,
}

/// A reference to a blob or to another manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The digest of what is referred to.
    pub digest: Digest,
    /// Its announced size; fits an `i64`.
    pub size_bytes: u64,
    /// Its announced media type.
    pub media_type: Option<String>,
    /// What it is to the manifest.
    pub role: Role,
    /// Whether the registry may be without it: a foreign layer, fetched from elsewhere.
    pub optional: bool,
    /// For messages to people: `os/architecture` or `os/architecture/variant` of an index entry.
    pub platform: Option<String>,
}

/// What a descriptor is to the manifest that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The `config` of an image manifest: a blob.
    Config,
    /// One of the `layers` (or `blobs`, in the former artifact manifest): a blob.
    Layer,
    /// One of the `manifests` of an index: a manifest, or a blob (build caches do so).
    Entry,
}

/// An entry of the image index that clients keep under a fallback tag.
#[derive(Clone, Debug)]
pub struct FallbackEntry {
    /// The referrer's digest.
    pub digest: Digest,
    /// The artifact type the client wrote down, if it did.
    pub artifact_type: Option<String>,
    /// The whole descriptor, verbatim.
    pub raw: Box<RawValue>,
}

/// Why a document is not accepted as a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are no text.
    #[error("the manifest is not UTF-8 text")]
    NotUtf8,
    /// The text is not one JSON value.
    #[error("the manifest is not valid JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// The JSON value is not an object.
    #[error("the manifest is not a JSON object")]
    NotAnObject,
    /// An object has a key twice, so readers may differ on which one counts.
    #[error("the manifest has the key {key:?} twice in one object; remove one of them")]
    DuplicateKey {
        /// The key, cut short if it is long.
        key: String,
    },
    /// Objects and arrays nest too deep.
    #[error("the manifest nests more than {DEPTH_MAX} levels deep")]
    TooDeep,
    /// There are too many descriptors.
    #[error("the manifest has more than {DESCRIPTORS_MAX} descriptors; split it into several")]
    TooManyDescriptors,
    /// A member has the wrong type.
    #[error("the manifest's {member} is not {expected}")]
    Member {
        /// The member's name.
        member: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// The schema version is none that is known.
    #[error("the manifest's schemaVersion is not 2")]
    SchemaVersion,
    /// The document is of docker's first format.
    #[error("docker schema 1 is not supported; push the image with a current client")]
    Schema1,
    /// A media type is unusable as one.
    #[error(
        "the {place} is not a media type; expected at most {MEDIA_TYPE_MAX_BYTES} visible ASCII characters such as {OCI_MANIFEST}"
    )]
    MediaType {
        /// Where it stands.
        place: &'static str,
    },
    /// The request says one media type and the document another.
    #[error(
        "the Content-Type is {content_type} but the manifest's mediaType is {document}; make them the same"
    )]
    MediaTypeMismatch {
        /// The media type of the request.
        content_type: String,
        /// The media type in the document.
        document: String,
    },
    /// Nothing says what the document is.
    #[error("nothing says what the manifest is; send its media type as Content-Type")]
    MediaTypeUnknown,
    /// The document has the members of a manifest and of an index.
    #[error(
        "the manifest has both manifests and config, layers or fsLayers, so it could be read as two things"
    )]
    Ambiguous,
    /// The document has members that its media type excludes.
    #[error("a manifest of type {media_type} cannot have {member}")]
    Excluded {
        /// The media type.
        media_type: String,
        /// The members that do not go with it.
        member: &'static str,
    },
    /// A descriptor lacks something or has it wrong.
    #[error("the descriptor {place} {problem}")]
    Descriptor {
        /// Where it stands, such as `layers[2]`.
        place: String,
        /// What is wrong, as the rest of a sentence.
        problem: &'static str,
    },
    /// The annotations are not strings by name.
    #[error("the manifest's annotations are not an object whose values are all strings")]
    Annotations,
}

impl Manifest {
    /// Reads a manifest pushed with `content_type`, whose parameters are ignored.
    ///
    /// Without a content type the document's own `mediaType` counts, and without that its form:
    /// `manifests` makes it an OCI index, `config` or `layers` an OCI image manifest.
    ///
    /// # Errors
    /// The document is malformed, ambiguous, or beyond a limit; see [`ManifestError`].
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, ManifestError> {
        Document::read(bytes)?.judge(content_type)
    }
}

/// Writes the descriptor that an index of referrers has for `manifest`: JSON text.
#[expect(clippy::missing_panics_doc, reason = "it cannot")]
pub fn referrer_descriptor(manifest: &Manifest, digest: &Digest, size_bytes: u64) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Referrer<'a> {
        media_type: &'a str,
        digest: &'a str,
        size: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        artifact_type: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        annotations: Option<&'a RawValue>,
    }
    serde_json::to_string(&Referrer {
        media_type: &manifest.media_type,
        digest: digest.as_str(),
        size: size_bytes,
        artifact_type: manifest.artifact_type.as_deref(),
        annotations: manifest.annotations.as_deref(),
    })
    .expect("strings, a number and checked JSON always serialise")
}

/// Reads the entries of an image index, each with its text as it stands there.
///
/// Entries that are no good descriptors are left out: the index of a fallback tag is written by
/// many clients, and one bad entry must not hide the others.
///
/// # Errors
/// The index itself is malformed or beyond a limit.
pub fn index_descriptors(bytes: &[u8]) -> Result<Vec<FallbackEntry>, ManifestError> {
    document::read_index(bytes)
}

impl Document<'_> {
    /// Judges the members together and makes a manifest of them.
    fn judge(self, content_type: Option<&str>) -> Result<Manifest, ManifestError> {
        let members = &self.members;
        if members.manifests && (members.image || members.fs_layers) {
            return Err(ManifestError::Ambiguous);
        }
        if self.version == Version::One
            || members.fs_layers
            || (members.signatures && self.version == Version::Absent)
        {
            return Err(ManifestError::Schema1);
        }
        let media_type = self.settle_media_type(content_type)?;
        if DOCKER_SCHEMA_1.contains(&media_type.as_str()) {
            return Err(ManifestError::Schema1);
        }
        let is_index = matches!(media_type.as_str(), OCI_INDEX | DOCKER_LIST);
        let is_image = matches!(media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST);
        if is_index && members.image {
            let member = "config or layers";
            return Err(ManifestError::Excluded { media_type, member });
        }
        if is_image && members.manifests {
            let member = "manifests";
            return Err(ManifestError::Excluded { media_type, member });
        }
        let config_media_type = self.config.as_ref().and_then(|config| config.media_type.clone());
        let config = self.config.map(|read| (Role::Config, read));
        let layers = self.layers.into_iter().map(|read| (Role::Layer, read));
        let entries = self.entries.into_iter().map(|read| (Role::Entry, read));
        Ok(Manifest {
            media_type,
            artifact_type: self.artifact_type.or(config_media_type),
            subject: self.subject,
            annotations: self.annotations.map(ToOwned::to_owned),
            references: references(config.into_iter().chain(layers).chain(entries)),
        })
    }

    /// Finds the one media type that request and document agree on.
    fn settle_media_type(&self, content_type: Option<&str>) -> Result<String, ManifestError> {
        let of_request = content_type
            .map(|value| value.split_once(';').map_or(value, |(essence, _)| essence).trim())
            .filter(|essence| !essence.is_empty());
        if let Some(essence) = of_request
            && !is_header_safe(essence)
        {
            return Err(ManifestError::MediaType { place: "Content-Type" });
        }
        if let Some(document) = &self.media_type
            && !is_header_safe(document)
        {
            let place = "manifest's mediaType";
            return Err(ManifestError::MediaType { place });
        }
        match (of_request, self.media_type.as_deref()) {
            (Some(essence), Some(document)) if essence != document => Err(ManifestError::MediaTypeMismatch {
                content_type: essence.to_owned(),
                document: document.to_owned(),
            }),
            (Some(media_type), _) | (None, Some(media_type)) => Ok(media_type.to_owned()),
            (None, None) if self.members.manifests => Ok(OCI_INDEX.to_owned()),
            (None, None) if self.members.image => Ok(OCI_MANIFEST.to_owned()),
            (None, None) => Err(ManifestError::MediaTypeUnknown),
        }
    }
}

/// Keeps one reference per digest and role. It is optional only if each of them was.
fn references(all: impl Iterator<Item = (Role, ReadDescriptor)>) -> Vec<Descriptor> {
    let mut kept: Vec<Descriptor> = Vec::new();
    let mut positions: HashMap<(Digest, Role), usize> = HashMap::new();
    for (role, read) in all {
        let foreign =
            |media_type: &String| FOREIGN_LAYERS.iter().any(|prefix| media_type.starts_with(prefix));
        let optional = role == Role::Layer && read.media_type.as_ref().is_some_and(foreign);
        match positions.entry((read.digest.clone(), role)) {
            Entry::Occupied(position) => kept[*position.get()].optional &= optional,
            Entry::Vacant(position) => {
                position.insert(kept.len());
                kept.push(Descriptor {
                    digest: read.digest,
                    size_bytes: read.size_bytes,
                    media_type: read.media_type,
                    role,
                    optional,
                    platform: read.platform,
                });
            }
        }
    }
    kept
}

/// Whether `text` may be the media type of the document, which a response carries in its
/// `Content-Type`: visible ASCII without parameters.
fn is_header_safe(text: &str) -> bool {
    text.len() <= MEDIA_TYPE_MAX_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';')
}

#[cfg(test)]
mod tests {
    use berth_storage::Algorithm;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }

    fn descriptor(text: &str) -> Value {
        json!({"mediaType": format!("application/{text}"), "digest": digest(text).as_str(), "size": text.len()})
    }

    fn parse(content_type: &str, document: &Value) -> Result<Manifest, ManifestError> {
        Manifest::parse(Some(content_type), document.to_string().as_bytes())
    }

    fn refusal(content_type: Option<&str>, text: &str) -> ManifestError {
        match Manifest::parse(content_type, text.as_bytes()) {
            Ok(manifest) => panic!("accepted {text}: {manifest:?}"),
            Err(error) => error,
        }
    }

    macro_rules! refused {
        ($content_type:expr, $text:expr, $pattern:pat) => {
            let error = refusal($content_type, $text);
            assert!(matches!(error, $pattern), "{}: {error:?}", $text);
        };
    }

    fn image() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor("config"),
            "layers": [descriptor("one"), descriptor("two")],
            "subject": descriptor("subject"),
            "annotations": {"a": "b", "c": "d"},
        })
    }

    #[test]
    fn an_image_manifest_refers_to_its_config_and_layers_but_not_to_its_subject() {
        let manifest = parse(OCI_MANIFEST, &image()).unwrap();
        assert_eq!(manifest.media_type, OCI_MANIFEST);
        assert_eq!(manifest.artifact_type.as_deref(), Some("application/config"));
        assert_eq!(manifest.subject, Some(digest("subject")));
        assert_eq!(manifest.annotations.unwrap().get(), r#"{"a":"b","c":"d"}"#);
        let references: Vec<_> = manifest
            .references
            .iter()
            .map(|reference| {
                (reference.role, reference.digest.clone(), reference.size_bytes, reference.optional)
            })
            .collect();
        assert_eq!(
            references,
            [
                (Role::Config, digest("config"), 6, false),
                (Role::Layer, digest("one"), 3, false),
                (Role::Layer, digest("two"), 3, false),
            ]
        );
        assert_eq!(manifest.references[1].media_type.as_deref(), Some("application/one"));
    }

    #[test]
    fn an_index_refers_to_its_entries_by_platform() {
        let mut arm = descriptor("arm");
        arm["platform"] = json!({"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1"});
        let mut amd = descriptor("amd");
        amd["platform"] = json!({"architecture": "amd64", "os": "linux"});
        let mut odd = descriptor("odd");
        odd["platform"] = json!([1]);
        for media_type in [OCI_INDEX, DOCKER_LIST] {
            let manifest =
                parse(media_type, &json!({"schemaVersion": 2, "manifests": [arm, amd, odd]})).unwrap();
            assert_eq!(manifest.artifact_type, None);
            let platforms: Vec<_> =
                manifest.references.iter().map(|entry| (entry.role, entry.platform.as_deref())).collect();
            assert_eq!(
                platforms,
                [
                    (Role::Entry, Some("linux/arm/v7")),
                    (Role::Entry, Some("linux/amd64")),
                    (Role::Entry, None)
                ]
            );
        }
    }

    #[test]
    fn the_artifact_type_is_the_manifests_own_before_its_configs() {
        let mut document = image();
        document["artifactType"] = json!("application/sbom");
        let manifest = parse(OCI_MANIFEST, &document).unwrap();
        assert_eq!(manifest.artifact_type.as_deref(), Some("application/sbom"));
        document["artifactType"] = json!("");
        let manifest = parse(OCI_MANIFEST, &document).unwrap();
        assert_eq!(manifest.artifact_type.as_deref(), Some("application/config"));
        let index = json!({"artifactType": "application/set", "manifests": []});
        let manifest = parse(OCI_INDEX, &index).unwrap();
        assert_eq!(manifest.artifact_type.as_deref(), Some("application/set"));
    }

    #[test]
    fn the_former_artifact_manifest_refers_to_its_blobs() {
        let media_type = "application/vnd.oci.artifact.manifest.v1+json";
        let document = json!({"mediaType": media_type, "artifactType": "a/b", "blobs": [descriptor("x")]});
        let manifest = parse(media_type, &document).unwrap();
        assert_eq!(manifest.artifact_type.as_deref(), Some("a/b"));
        assert_eq!(manifest.references[0].role, Role::Layer);
        assert_eq!(manifest.references[0].digest, digest("x"));
    }

    #[test]
    fn foreign_layers_may_be_missing() {
        let layer = |media_type: &str, text: &str| json!({"mediaType": media_type, "digest": digest(text).as_str(), "size": 1});
        let oci = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
        let docker = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        let plain = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layers = json!([layer(oci, "a"), layer(docker, "b"), layer(plain, "c"), layer(plain, "a")]);
        let manifest = parse(OCI_MANIFEST, &json!({"layers": layers})).unwrap();
        let optional: Vec<_> = manifest.references.iter().map(|layer| layer.optional).collect();
        // The first is also listed as an ordinary layer, so it has to be there.
        assert_eq!(optional, [false, true, false]);
    }

    #[test]
    fn a_digest_is_kept_once_per_role() {
        let document = json!({
            "config": descriptor("x"),
            "layers": [descriptor("x"), descriptor("y"), descriptor("x")],
        });
        let manifest = parse(OCI_MANIFEST, &document).unwrap();
        let references: Vec<_> =
            manifest.references.into_iter().map(|reference| (reference.role, reference.digest)).collect();
        assert_eq!(
            references,
            [(Role::Config, digest("x")), (Role::Layer, digest("x")), (Role::Layer, digest("y"))]
        );
    }

    #[test]
    fn any_media_type_of_sane_shape_is_accepted() {
        for content_type in ["application/vnd.example.thing.v1+json", "text/plain", "x"] {
            let manifest = Manifest::parse(Some(content_type), br#"{"anything": [1, {"a": null}]}"#).unwrap();
            assert_eq!(manifest.media_type, content_type);
            assert!(manifest.references.is_empty());
        }
        let parameters = format!(" {OCI_MANIFEST} ; charset=utf-8");
        assert_eq!(parse(&parameters, &image()).unwrap().media_type, OCI_MANIFEST);
    }

    #[test]
    fn without_a_content_type_the_document_decides() {
        let media_type = |text: &str| Manifest::parse(None, text.as_bytes()).unwrap().media_type;
        assert_eq!(media_type(r#"{"mediaType": "a/b", "layers": []}"#), "a/b");
        assert_eq!(media_type(r#"{"manifests": []}"#), OCI_INDEX);
        assert_eq!(media_type(r#"{"layers": []}"#), OCI_MANIFEST);
        assert_eq!(media_type(r#"{"mediaType": "", "config": null}"#), OCI_MANIFEST);
        refused!(None, "{}", ManifestError::MediaTypeUnknown);
        refused!(Some(" ; charset=utf-8"), "{}", ManifestError::MediaTypeUnknown);
    }

    #[test]
    fn two_media_types_are_refused() {
        refused!(Some(OCI_INDEX), &image().to_string(), ManifestError::MediaTypeMismatch { .. });
        refused!(Some("A/b"), r#"{"mediaType": "a/b"}"#, ManifestError::MediaTypeMismatch { .. });
    }

    #[test]
    fn unusable_media_types_are_refused() {
        let long = "a".repeat(256);
        for content_type in [long.as_str(), "a b", "a\u{7f}", "ä/b"] {
            refused!(Some(content_type), "{}", ManifestError::MediaType { .. });
            refused!(None, &json!({"mediaType": content_type}).to_string(), ManifestError::MediaType { .. });
        }
        refused!(None, r#"{"mediaType": "a/b;c=d"}"#, ManifestError::MediaType { .. });
        refused!(Some("a/b"), r#"{"mediaType": 1}"#, ManifestError::Member { .. });
        refused!(Some("a/b"), r#"{"artifactType": {}}"#, ManifestError::Member { .. });
        refused!(Some("a/b"), &json!({"artifactType": long}).to_string(), ManifestError::MediaType { .. });
        assert!(parse(&"a".repeat(255), &json!({})).is_ok());
    }

    #[test]
    fn what_is_both_manifest_and_index_is_refused() {
        for member in ["config", "layers", "fsLayers"] {
            let text = format!(r#"{{"manifests": [], "{member}": null}}"#);
            refused!(Some("a/b"), &text, ManifestError::Ambiguous);
        }
        refused!(Some(OCI_INDEX), r#"{"layers": []}"#, ManifestError::Excluded { .. });
        refused!(Some(DOCKER_MANIFEST), r#"{"manifests": []}"#, ManifestError::Excluded { .. });
    }

    #[test]
    fn docker_schema_1_is_refused_by_name() {
        for text in [
            r#"{"schemaVersion": 1}"#,
            r#"{"fsLayers": []}"#,
            r#"{"schemaVersion": 2, "fsLayers": []}"#,
            r#"{"signatures": []}"#,
        ] {
            refused!(Some("a/b"), text, ManifestError::Schema1);
        }
        refused!(Some(DOCKER_SCHEMA_1[1]), "{}", ManifestError::Schema1);
        for version in ["0", "3", "-2", "2.0", "\"2\"", "[]", "true"] {
            let text = format!(r#"{{"schemaVersion": {version}}}"#);
            refused!(Some("a/b"), &text, ManifestError::SchemaVersion);
        }
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        for text in ["", "{", "{}{}", "{} x", "{\"a\":}", "{\"a\":1,}", "\u{feff}{}", "{\"a\":\"\\ud800\"}"] {
            refused!(Some("a/b"), text, ManifestError::Json(_));
        }
        for text in ["[]", "null", "1", "-1", "1.5", "\"a\"", "true"] {
            refused!(Some("a/b"), text, ManifestError::NotAnObject);
        }
        for bytes in [&b"{\"a\":\"\xff\"}"[..], b"\xff", b"{\"annotations\":{\"a\":\"\xc3\"}}"] {
            assert!(matches!(Manifest::parse(Some("a/b"), bytes), Err(ManifestError::NotUtf8)));
        }
    }

    #[test]
    fn a_key_that_comes_twice_is_refused_at_any_depth() {
        let good = descriptor("x").to_string();
        let good = good.trim_end_matches('}');
        for text in [
            r#"{"a": 1, "a": 1}"#,
            r#"{"a": 1, "\u0061": 2}"#,
            r#"{"mediaType": "a/b", "mediaType": "a/b"}"#,
            r#"{"layers": [], "layers": []}"#,
            r#"{"x": [[{"y": {"z": 1, "q": 2, "z": 3}}]]}"#,
            r#"{"annotations": {"a": "b", "a": "c"}}"#,
            &format!(r#"{{"config": {good}, "digest": "x"}}}}"#),
            &format!(r#"{{"layers": [{good}, "u": {{"a": 1, "a": 1}}}}]}}"#),
            &format!(r#"{{"manifests": [{good}, "platform": {{"os": "a", "os": "b"}}}}]}}"#),
            &format!(r#"{{"subject": {good}, "size": 1}}}}"#),
        ] {
            refused!(Some("a/b"), text, ManifestError::DuplicateKey { .. });
        }
        let long = "k".repeat(1000);
        match refusal(Some("a/b"), &format!(r#"{{"{long}": 1, "{long}": 1}}"#)) {
            ManifestError::DuplicateKey { key } => assert_eq!(key.len(), 64),
            error => panic!("{error:?}"),
        }
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested =
            |levels: usize| format!(r#"{{"a": {}1{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert!(Manifest::parse(Some("a/b"), nested(DEPTH_MAX).as_bytes()).is_ok());
        refused!(Some("a/b"), &nested(DEPTH_MAX + 1), ManifestError::TooDeep);
        refused!(Some("a/b"), &"[".repeat(1_000_000), ManifestError::NotAnObject);
        let deep = "[".repeat(1_000_000);
        refused!(Some("a/b"), &format!("{{\"a\":{deep}"), ManifestError::TooDeep);
        let within = |member: &str, levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            let good = descriptor("x").to_string();
            let good = good.trim_end_matches('}');
            format!(r#"{{"manifests": [{good}, "{member}": {open}1{close}}}]}}"#)
        };
        for member in ["unknown", "platform"] {
            let text = within(member, DEPTH_MAX - 3);
            assert!(Manifest::parse(Some("a/b"), text.as_bytes()).is_ok(), "{member}");
            refused!(Some("a/b"), &within(member, DEPTH_MAX - 2), ManifestError::TooDeep);
            // RawValue checks this without recursion, so it must end before the stack does.
            let error = refusal(Some("a/b"), &within(member, 1_000_000));
            assert!(matches!(error, ManifestError::TooDeep), "{error:?}");
        }
        refused!(Some("a/b"), &format!(r#"{{"annotations": {deep}"#), ManifestError::Json(_));
    }

    #[test]
    fn descriptors_have_a_limit() {
        let one = descriptor("x").to_string();
        let many = |count: usize| format!(r#"{{"manifests": [{}]}}"#, vec![one.as_str(); count].join(","));
        let manifest = Manifest::parse(Some(OCI_INDEX), many(DESCRIPTORS_MAX).as_bytes()).unwrap();
        assert_eq!(manifest.references.len(), 1);
        refused!(Some(OCI_INDEX), &many(DESCRIPTORS_MAX + 1), ManifestError::TooManyDescriptors);
        let spread =
            format!(r#"{{"subject": {one}, "layers": [{}]}}"#, vec![one.as_str(); DESCRIPTORS_MAX].join(","));
        refused!(Some(OCI_MANIFEST), &spread, ManifestError::TooManyDescriptors);
        assert!(matches!(
            index_descriptors(many(DESCRIPTORS_MAX + 1).as_bytes()),
            Err(ManifestError::TooManyDescriptors)
        ));
    }

    #[test]
    fn bad_descriptors_are_refused_wherever_they_stand() {
        let digest = digest("x");
        for bad in [
            "1".to_owned(),
            "\"x\"".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            format!(r#"{{"digest": "{digest}"}}"#),
            r#"{"size": 1}"#.to_owned(),
            r#"{"digest": "sha256:x", "size": 1}"#.to_owned(),
            r#"{"digest": null, "size": 1}"#.to_owned(),
            r#"{"digest": 1, "size": 1}"#.to_owned(),
            format!(r#"{{"digest": "{digest}", "size": -1}}"#),
            format!(r#"{{"digest": "{digest}", "size": 1.5}}"#),
            format!(r#"{{"digest": "{digest}", "size": 1.0}}"#),
            format!(r#"{{"digest": "{digest}", "size": "1"}}"#),
            format!(r#"{{"digest": "{digest}", "size": null}}"#),
            format!(r#"{{"digest": "{digest}", "size": 9223372036854775808}}"#),
            format!(r#"{{"digest": "{digest}", "size": 99999999999999999999}}"#),
            format!(r#"{{"digest": "{digest}", "size": 1, "mediaType": 1}}"#),
            format!(r#"{{"digest": "{digest}", "size": 1, "mediaType": "a\nb"}}"#),
            format!(r#"{{"digest": "{digest}", "size": 1, "mediaType": "{}"}}"#, "a".repeat(256)),
        ] {
            for document in [
                format!(r#"{{"config": {bad}}}"#),
                format!(r#"{{"subject": {bad}}}"#),
                format!(r#"{{"layers": [{bad}]}}"#),
                format!(r#"{{"blobs": [{bad}]}}"#),
                format!(r#"{{"manifests": [{bad}]}}"#),
            ] {
                refused!(Some("a/b"), &document, ManifestError::Descriptor { .. });
            }
        }
        refused!(Some("a/b"), r#"{"layers": [null]}"#, ManifestError::Descriptor { .. });
        for value in ["{}", "1", "\"x\"", "true"] {
            refused!(Some("a/b"), &format!(r#"{{"layers": {value}}}"#), ManifestError::Member { .. });
        }
        let error = refusal(Some("a/b"), &json!({"layers": [descriptor("x"), {}]}).to_string());
        assert!(error.to_string().starts_with("the descriptor layers[1] has no valid digest"), "{error}");
    }

    #[test]
    fn null_is_absent_as_go_writes_it() {
        let text = r#"{"schemaVersion": 2, "config": null, "layers": null, "subject": null, "annotations": null, "artifactType": null, "mediaType": null}"#;
        let manifest = Manifest::parse(Some(OCI_MANIFEST), text.as_bytes()).unwrap();
        assert!(
            manifest.references.is_empty() && manifest.subject.is_none() && manifest.annotations.is_none()
        );
        assert!(Manifest::parse(Some(OCI_INDEX), br#"{"manifests": null}"#).is_ok());
    }

    #[test]
    fn annotations_are_strings_and_kept_verbatim() {
        for bad in ["[]", "1", "\"x\"", r#"{"a": 1}"#, r#"{"a": null}"#, r#"{"a": "b", "c": {}}"#] {
            let text = format!(r#"{{"annotations": {bad}}}"#);
            refused!(Some("a/b"), &text, ManifestError::Annotations);
        }
        let verbatim = "{ \"b\" : \"\\u00e9\",\n \"a\":\"é\\/\" }";
        let text = format!("{{\"annotations\" :  {verbatim}  }}");
        let manifest = Manifest::parse(Some("a/b"), text.as_bytes()).unwrap();
        assert_eq!(manifest.annotations.unwrap().get(), verbatim);
    }

    #[test]
    fn a_referrer_is_described_with_its_artifact_type_and_annotations() {
        let manifest = parse(OCI_MANIFEST, &image()).unwrap();
        let text = referrer_descriptor(&manifest, &digest("referrer"), 77);
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({
                "mediaType": OCI_MANIFEST,
                "digest": digest("referrer").as_str(),
                "size": 77,
                "artifactType": "application/config",
                "annotations": {"a": "b", "c": "d"},
            })
        );
        let bare = Manifest::parse(Some(OCI_INDEX), br#"{"manifests": []}"#).unwrap();
        let text = referrer_descriptor(&bare, &digest("referrer"), 1);
        assert_eq!(
            text,
            format!(r#"{{"mediaType":"{OCI_INDEX}","digest":"{}","size":1}}"#, digest("referrer"))
        );
    }

    #[test]
    fn the_index_of_a_fallback_tag_gives_its_good_entries_verbatim() {
        let good = format!(r#"{{ "size":1, "digest":"{}", "artifactType":"a/b", "x":[ 1 ] }}"#, digest("x"));
        let plain = descriptor("y").to_string();
        let deep = format!(
            r#"{{"digest": "{}", "size": 1, "a": {}{}}}"#,
            digest("z"),
            "[".repeat(1000),
            "]".repeat(1000)
        );
        let twice = format!(r#"{{"digest": "{}", "size": 1, "size": 2}}"#, digest("z"));
        let text = format!(
            r#"{{"schemaVersion": 2, "manifests": [{good}, null, 1, {{}}, {deep}, {twice}, {plain}]}}"#
        );
        let entries = index_descriptors(text.as_bytes()).unwrap();
        let texts: Vec<_> = entries.iter().map(|entry| entry.raw.get()).collect();
        assert_eq!(texts, [good.as_str(), plain.as_str()]);
        assert_eq!(entries[0].digest, digest("x"));
        assert_eq!(entries[0].artifact_type.as_deref(), Some("a/b"));
        assert_eq!(entries[1].artifact_type, None);
        assert!(index_descriptors(b"{}").unwrap().is_empty());
        assert!(index_descriptors(b"[]").is_err());
        assert!(index_descriptors(b"{\"manifests\": {}}").is_err());
        assert!(index_descriptors(b"\xff").is_err());
    }

    #[test]
    fn messages_stay_short_whatever_the_document_holds() {
        let long = "x".repeat(100_000);
        for text in [
            format!(r#""{long}""#),
            format!(r#"{{"layers": "{long}"}}"#),
            format!(r#"{{"layers": ["{long}"]}}"#),
            format!(r#"{{"layers": [{{"digest": "{long}"}}]}}"#),
            format!(r#"{{"schemaVersion": "{long}"}}"#),
            format!(r#"{{"annotations": "{long}"}}"#),
            format!(r#"{{"{long}": }}"#),
        ] {
            assert!(refusal(Some("a/b"), &text).to_string().len() < 300);
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~é]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,3}", inner, 0..4).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse(None, &bytes);
            let _ = index_descriptors(&bytes);
        }

        #[test]
        fn unknown_members_change_nothing(value in json_value()) {
            let mut document = image();
            document["unknown"] = value.clone();
            document["config"]["unknown"] = value.clone();
            document["layers"][0]["platform"] = value;
            let plain = parse(OCI_MANIFEST, &image()).unwrap();
            let manifest = parse(OCI_MANIFEST, &document).unwrap();
            prop_assert_eq!(&manifest.references[0], &plain.references[0]);
            prop_assert_eq!(manifest.references.len(), plain.references.len());
            prop_assert_eq!(manifest.artifact_type, plain.artifact_type);
        }

        #[test]
        fn a_member_of_any_value_is_read_or_refused(
            member in prop::sample::select(vec![
                "schemaVersion", "mediaType", "config", "layers", "manifests", "blobs", "subject", "annotations", "artifactType",
            ]),
            value in json_value(),
        ) {
            let mut document = image();
            document[member] = value;
            if let Ok(manifest) = parse(OCI_MANIFEST, &document) {
                prop_assert_eq!(manifest.media_type.as_str(), OCI_MANIFEST);
                let text = referrer_descriptor(&manifest, &digest("r"), 1);
                let index = format!(r#"{{"manifests":[{text}]}}"#);
                let entries = index_descriptors(index.as_bytes()).unwrap();
                prop_assert_eq!(entries[0].raw.get(), text);
                prop_assert_eq!(&entries[0].artifact_type, &manifest.artifact_type);
            }
        }
    }
}
