//! What is pushed and pulled. Bytes and digests are made before a measurement starts, never in it.

use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::payload::{LastByte, Payload};

/// The media type of every manifest here.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG_BYTES: usize = 1024;
const LAYER_BYTES: usize = 16 * 1024;
const LAYERS: u64 = 3;
const FRAME_BYTES: u64 = 256 * 1024;
/// Images are spread over this many repositories.
const REPOSITORIES: u64 = 16;

/// Bytes and their digest.
#[derive(Clone)]
pub struct Blob {
    pub digest: String,
    pub bytes: Bytes,
}

impl Blob {
    /// Hashes the bytes.
    pub fn new(bytes: Bytes) -> Self {
        Self { digest: digest_of(Sha256::digest(&bytes).as_slice()), bytes }
    }
}

/// A small image: a config of 1 KiB, three layers of 16 KiB, a manifest, a tag.
#[derive(Clone)]
pub struct Image {
    pub repository: String,
    pub tag: String,
    /// The layers, then the config: the order in which clients push them.
    pub blobs: Vec<Blob>,
    pub manifest: Blob,
}

/// A blob too large to be held: a unique frame and then the same one many times.
#[derive(Clone)]
pub struct LargeBlob {
    pub digest: String,
    pub size_bytes: u64,
    head: Bytes,
    filler: Bytes,
    filler_times: u64,
}

/// Makes images and blobs that were never made before in this run.
#[derive(Default)]
pub struct Factory {
    made: u64,
}

impl Factory {
    /// Makes this many images, every blob of them unique.
    pub fn images(&mut self, count: usize) -> Vec<Image> {
        (0..count).map(|_| self.image()).collect()
    }

    /// Makes one image.
    pub fn image(&mut self) -> Image {
        let layers: Vec<_> = (0..LAYERS).map(|_| Blob::new(self.noise(LAYER_BYTES))).collect();
        let config = Blob::new(config_of(&layers));
        let manifest = Blob::new(Bytes::from(
            json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": descriptor(CONFIG_TYPE, &config),
                "layers": layers.iter().map(|layer| descriptor(LAYER_TYPE, layer)).collect::<Vec<_>>(),
            })
            .to_string(),
        ));
        let mut blobs = layers;
        blobs.push(config);
        Image {
            repository: format!("bench/app-{:02}", self.made / LAYERS % REPOSITORIES),
            tag: format!("build-{}", self.made),
            blobs,
            manifest,
        }
    }

    /// Makes a blob of `size_bytes`, rounded up to whole frames.
    pub fn large_blob(&mut self, size_bytes: u64) -> LargeBlob {
        let frames = size_bytes.div_ceil(FRAME_BYTES).max(2);
        let frame = usize::try_from(FRAME_BYTES).unwrap_or(usize::MAX);
        let (head, filler) = (self.noise(frame), self.noise(frame));
        let mut hasher = Sha256::new();
        hasher.update(&head);
        for _ in 1..frames {
            hasher.update(&filler);
        }
        let digest = digest_of(hasher.finalize().as_slice());
        LargeBlob { digest, size_bytes: frames * FRAME_BYTES, head, filler, filler_times: frames - 1 }
    }

    /// Makes bytes that no gzip makes smaller.
    pub fn noise(&mut self, size_bytes: usize) -> Bytes {
        self.made += 1;
        let mut state = self.made << 32;
        let mut bytes = BytesMut::with_capacity(size_bytes + 8);
        while bytes.len() < size_bytes {
            bytes.put_u64(split_mix(&mut state));
        }
        bytes.truncate(size_bytes);
        bytes.freeze()
    }
}

impl LargeBlob {
    /// The blob as a request body, in chunks or announced.
    pub fn payload(&self, announced: bool, last_byte: LastByte) -> Payload {
        Payload::repeated(self.head.clone(), self.filler.clone(), self.filler_times, announced, last_byte)
    }

    /// Writes the blob to a file.
    pub fn write(&self, file: &Path) -> Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(file)?);
        let mut payload = self.payload(true, LastByte::default());
        while let Some(frame) = payload.next_frame() {
            file.write_all(&frame)?;
        }
        Ok(file.flush()?)
    }
}

/// Writes a hash as a digest.
pub fn digest_of(hash: &[u8]) -> String {
    format!("sha256:{}", hex::encode(hash))
}

fn descriptor(media_type: &str, blob: &Blob) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.bytes.len() })
}

fn config_of(layers: &[Blob]) -> Bytes {
    let render = |author: &str| {
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.digest).collect();
        json!({
            "architecture": "amd64",
            "os": "linux",
            "author": author,
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string()
    };
    let padding = CONFIG_BYTES.saturating_sub(render("").len());
    Bytes::from(render(&"x".repeat(padding)))
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
