//! Bytes made by hand: the same for the same seed, and as good as random to a compressor.

use sha2::{Digest, Sha256, Sha512};

/// Makes `length` bytes that depend on the seed alone.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    // SplitMix64.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    });
    words.take(length.div_ceil(8)).flatten().take(length).collect()
}

/// The digest of some bytes, with its algorithm: `sha256:…`.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The digest of some bytes, with its algorithm: `sha512:…`.
pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex::encode(Sha512::digest(bytes)))
}

/// The digest of some bytes by the algorithm of another digest.
pub fn digest_like(digest: &str, bytes: &[u8]) -> String {
    if digest.starts_with("sha512:") { sha512(bytes) } else { sha256(bytes) }
}
