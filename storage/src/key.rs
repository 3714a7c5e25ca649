//! Keys: where an object is, chosen before its first byte and saying nothing of its content.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// So many keys that a process makes one after the other begin alike.
const RUN: u64 = 512;

/// 32 lower-case hexadecimal digits: six that a run of keys has in common, and 104 random bits.
///
/// Objects of about the same time lie in one folder by that, and their keys side by side in an index: what is
/// written for one is often written for its neighbours too. The runs go over all folders in turn.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// A text that is no [`Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a storage key is 32 lower-case hexadecimal digits")]
pub struct KeyError;

impl Key {
    /// A key nobody has had before.
    pub fn generate() -> Self {
        /// Counts from somewhere no other process does.
        static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(u64::from_le_bytes(random())));
        let [.., high, low, shard] = (NEXT.fetch_add(1, Ordering::Relaxed) / RUN).to_be_bytes();
        let mut bytes = random::<16>();
        bytes[..3].copy_from_slice(&[shard, high, low]);
        Self(hex::encode(bytes))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first two digits, which spread keys over folders.
    pub(crate) fn shard(&self) -> &str {
        &self.0[..2]
    }

    /// Which folder that is.
    pub(crate) fn shard_number(&self) -> u8 {
        u8::from_str_radix(self.shard(), 16).expect("a key is hexadecimal digits")
    }
}

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        let hexadecimal = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == 32 && hexadecimal { Ok(Self(text)) } else { Err(KeyError) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::SHARDS;

    #[test]
    fn keys_differ_come_in_runs_and_fill_all_shards_alike() {
        let keys: Vec<Key> = (0..u64::from(SHARDS) * RUN).map(|_| Key::generate()).collect();

        assert_eq!(keys.iter().map(|key| &key.as_str()[6..]).collect::<BTreeSet<_>>().len(), keys.len());
        let mut shards = BTreeMap::<&str, u64>::new();
        for key in &keys {
            *shards.entry(key.shard()).or_default() += 1;
        }
        assert_eq!(shards.len(), usize::from(SHARDS));
        // Other tests of the process make keys too.
        let runs = keys.chunk_by(|one, next| one.as_str()[..6] == next.as_str()[..6]);
        assert!(runs.count() <= shards.len() + 1);
        assert!(shards.values().all(|count| *count <= 2 * RUN), "{shards:?}");
    }
}
