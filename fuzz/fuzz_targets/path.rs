//! Feeds text to the parsers of paths, names, tags, references and ranges.
//!
//! What is accepted must read back from what it is written as, and no range may exceed the blob.
#![no_main]
#![expect(dead_code, unused_imports, reason = "a target uses a part of what it contains")]

// The code under test is built into the target from its source, and stands here under the names it
// has at home. So the flags that show the fuzzer where it goes concern this crate alone, and nothing
// of the registry that only needs a network or a database is built.
extern crate self as berth_storage;

#[path = "../../storage/src/digest.rs"]
mod digest;
#[path = "../../storage/src/hasher.rs"]
mod hasher;
#[path = "../../src/oci/mod.rs"]
mod oci;
#[path = "../../src/http/path.rs"]
mod resource;

pub use digest::{Algorithm, Digest, DigestError};
pub use hasher::Hasher;
use libfuzzer_sys::fuzz_target;
use oci::name::{NAME_MAX_BYTES, RepositoryName, TAG_MAX_BYTES, Tag};
use oci::range::{ContentRange, RANGES_MAX, Ranges};
use oci::reference::Reference;
use resource::Resource;

fuzz_target!(|text: &str| {
    if let Ok(resource) = Resource::parse(text) {
        let written = write(&resource);
        assert_eq!(Resource::parse(&written).as_ref(), Ok(&resource), "{written}");
        // Decoding never makes a slash, or one part of a name would become two.
        let slashes = |path: &str| path.trim_end_matches('/').matches('/').count();
        assert_eq!(slashes(text), slashes(&written), "{written}");
    }
    if let Ok(name) = text.parse::<RepositoryName>() {
        check_name(&name);
        assert_eq!(name.as_str(), text);
        let path = format!("{text}/tags/list");
        assert_eq!(Resource::parse(&path), Ok(Resource::Tags { repository: name }));
    }
    if let Ok(tag) = text.parse::<Tag>() {
        check_tag(&tag);
        assert_eq!(tag.as_str(), text);
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
        if let Reference::Digest(digest) = reference {
            check_tag(&Tag::fallback_for(&digest));
        }
    }
    if let Ok(range) = ContentRange::parse(text) {
        assert!(range.start <= range.end_inclusive && range.len() >= 1);
        assert_eq!(ContentRange::parse(&range.to_string()), Ok(range));
    }
    for length in [0, 1, 1000, 1 << 40, u64::MAX] {
        check_ranges(text, length);
        check_ranges(&format!("bytes={text}"), length);
    }
});

/// Writes a resource as the path that names it.
fn write(resource: &Resource) -> String {
    match resource {
        Resource::Base => String::new(),
        Resource::Catalog => "_catalog".to_owned(),
        Resource::Blob { repository, digest } => {
            check_name(repository);
            format!("{repository}/blobs/{digest}")
        }
        Resource::Uploads { repository } => {
            check_name(repository);
            format!("{repository}/blobs/uploads/")
        }
        Resource::Upload { repository, id } => {
            check_name(repository);
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
            format!("{repository}/blobs/uploads/{id}")
        }
        Resource::Manifest { repository, reference } => {
            check_name(repository);
            format!("{repository}/manifests/{reference}")
        }
        Resource::Tags { repository } => {
            check_name(repository);
            format!("{repository}/tags/list")
        }
        Resource::Referrers { repository, digest } => {
            check_name(repository);
            format!("{repository}/referrers/{digest}")
        }
    }
}

fn check_name(name: &RepositoryName) {
    let text = name.to_string();
    assert_eq!(text.parse().as_ref(), Ok(name));
    assert!((1..=NAME_MAX_BYTES).contains(&text.len()));
    for part in text.split('/') {
        let edge =
            |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        assert!(edge(part.bytes().next()) && edge(part.bytes().last()), "{text}");
    }
}

fn check_tag(tag: &Tag) {
    let text = tag.to_string();
    assert_eq!(text.parse().as_ref(), Ok(tag));
    assert!((1..=TAG_MAX_BYTES).contains(&text.len()));
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)));
}

fn check_ranges(header: &str, length: u64) {
    let Ranges::Some(ranges) = Ranges::parse(Some(header), length) else {
        return;
    };
    assert!((1..=RANGES_MAX).contains(&ranges.len()));
    let mut free_from = 0;
    let mut total = 0_u64;
    for range in ranges {
        assert!(
            range.start >= free_from && range.start < range.end_exclusive && range.end_exclusive <= length
        );
        assert!(!range.is_empty());
        free_from = range.end_exclusive;
        total = total.checked_add(range.len()).expect("more bytes than there are");
        let _ = range.content_range(length);
    }
    assert!(total <= length);
}
