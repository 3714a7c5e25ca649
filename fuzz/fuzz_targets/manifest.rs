//! Feeds bytes to the manifest parser, and holds what it accepts against a plain reading.
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

use std::collections::BTreeSet;

pub use digest::{Algorithm, Digest, DigestError};
pub use hasher::Hasher;
use libfuzzer_sys::fuzz_target;
use oci::manifest::{
    DEPTH_MAX, DESCRIPTORS_MAX, DOCKER_LIST, Manifest, OCI_INDEX, OCI_MANIFEST, Role, index_descriptors,
    referrer_descriptor,
};
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(None, bytes) {
        // What the document says of itself is also accepted when the request says it.
        let again = Manifest::parse(Some(&manifest.media_type), bytes).expect("the same media type");
        assert_eq!(again.references, manifest.references);
    }
    for content_type in [OCI_MANIFEST, OCI_INDEX, DOCKER_LIST, "application/vnd.example.v1+json"] {
        if let Ok(manifest) = Manifest::parse(Some(content_type), bytes) {
            assert_eq!(manifest.media_type, content_type);
            check(&manifest, bytes);
        }
    }
    if let Ok(entries) = index_descriptors(bytes) {
        let text = std::str::from_utf8(bytes).expect("an accepted index is text");
        for entry in entries {
            assert!(text.contains(entry.raw.get()), "an entry is not verbatim");
            let plain: Value = serde_json::from_str(entry.raw.get()).expect("an entry is JSON");
            assert_eq!(plain["digest"].as_str(), Some(entry.digest.as_str()));
            if let Some(artifact_type) = &entry.artifact_type {
                assert_eq!(plain["artifactType"].as_str(), Some(artifact_type.as_str()));
            }
        }
    }
});

/// Holds an accepted manifest against the same bytes read by `serde_json` alone.
fn check(manifest: &Manifest, bytes: &[u8]) {
    let plain: Value = serde_json::from_slice(bytes).expect("an accepted manifest is JSON");
    assert!(plain.is_object());
    assert!(depth(&plain) <= DEPTH_MAX, "nested too deep");
    assert_eq!(members(&plain), colons(bytes), "a member was lost, so its key was there twice");

    let images = ["config", "layers", "fsLayers"].iter().any(|member| plain.get(member).is_some());
    assert!(!(images && plain.get("manifests").is_some()), "two things at once");
    if let Some(media_type) = plain["mediaType"].as_str().filter(|text| !text.is_empty()) {
        assert_eq!(media_type, manifest.media_type);
    }

    let mut expected = BTreeSet::new();
    let lists = [("layers", Role::Layer), ("blobs", Role::Layer), ("manifests", Role::Entry)];
    for (member, role) in lists {
        for descriptor in plain[member].as_array().into_iter().flatten() {
            expected.insert((role, text_of(&descriptor["digest"])));
        }
    }
    if plain["config"].is_object() {
        expected.insert((Role::Config, text_of(&plain["config"]["digest"])));
    }
    let found: BTreeSet<_> =
        manifest.references.iter().map(|reference| (reference.role, reference.digest.to_string())).collect();
    assert_eq!(found, expected);
    assert_eq!(found.len(), manifest.references.len(), "a reference is there twice");
    assert!(found.len() <= DESCRIPTORS_MAX);
    for reference in &manifest.references {
        assert!(i64::try_from(reference.size_bytes).is_ok());
        assert!(reference.role == Role::Layer || !reference.optional);
    }
    assert_eq!(
        manifest.subject.as_ref().map(ToString::to_string),
        plain["subject"].is_object().then(|| text_of(&plain["subject"]["digest"]))
    );
    assert_eq!(manifest.annotations.is_some(), plain["annotations"].is_object());

    let subject = Digest::of(Algorithm::Sha256, b"");
    let referrer = referrer_descriptor(manifest, &subject, 1);
    let written: Value = serde_json::from_str(&referrer).expect("a descriptor is JSON");
    assert_eq!(written["mediaType"], manifest.media_type.as_str());
    if manifest.annotations.is_some() {
        assert_eq!(written["annotations"], plain["annotations"]);
    }
    let index = format!(r#"{{"manifests":[{referrer}]}}"#);
    let entries = index_descriptors(index.as_bytes()).expect("an index of a descriptor");
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].raw.get(), referrer);
    assert_eq!(entries[0].artifact_type, manifest.artifact_type);
}

fn text_of(value: &Value) -> String {
    value.as_str().expect("an accepted digest is a string").to_owned()
}

/// How many levels of objects and arrays a value has.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// How many members all objects of a value have together.
fn members(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(members).sum(),
        Value::Object(object) => object.len() + object.values().map(members).sum::<usize>(),
        _ => 0,
    }
}

/// How many colons valid JSON has outside its strings: one for each member.
fn colons(json: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b':' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}
