//! Hashing a stream, with a state that can be put away and taken up again.
//!
//! SHA-2 keeps a small state between blocks. Written into the session row it lets any replica go on
//! with an upload, and the last request of a push re-read nothing.

use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest as _, Sha256, Sha512};

use crate::{Algorithm, Digest};

/// The running hash of a stream.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// A running SHA-256.
    Sha256(Sha256),
    /// A running SHA-512.
    Sha512(Sha512),
}

/// A saved hash state that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the saved hash state is damaged")]
pub struct HashStateError;

impl Hasher {
    /// The hash of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Which algorithm this is.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of what has passed so far; the hasher can go on.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::from_hash(Algorithm::Sha256, &hash.clone().finalize()),
            Self::Sha512(hash) => Digest::from_hash(Algorithm::Sha512, &hash.clone().finalize()),
        }
    }

    /// The state as bytes, about a hundred or two.
    pub fn save(&self) -> Vec<u8> {
        match self {
            Self::Sha256(hash) => hash.serialize().to_vec(),
            Self::Sha512(hash) => hash.serialize().to_vec(),
        }
    }

    /// The hasher that [`Hasher::save`] was called on.
    pub fn restore(algorithm: Algorithm, state: &[u8]) -> Result<Self, HashStateError> {
        match algorithm {
            Algorithm::Sha256 => state
                .try_into()
                .ok()
                .and_then(|state| Sha256::deserialize(state).ok())
                .map(Self::Sha256)
                .ok_or(HashStateError),
            Algorithm::Sha512 => state
                .try_into()
                .ok()
                .and_then(|state| Sha512::deserialize(state).ok())
                .map(Self::Sha512)
                .ok_or(HashStateError),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hash_saved_anywhere_goes_on_as_if_nothing_had_happened(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            cuts in prop::collection::vec(0usize..2000, 0..5),
            sha512: bool,
        ) {
            let algorithm = if sha512 { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut hasher = Hasher::new(algorithm);
            for pair in cuts.windows(2) {
                hasher.update(&bytes[pair[0]..pair[1]]);
                hasher = Hasher::restore(algorithm, &hasher.save()).unwrap();
            }
            prop_assert_eq!(hasher.digest(), Digest::of(algorithm, &bytes));
        }
    }

    #[test]
    fn a_damaged_state_is_refused() {
        assert!(Hasher::restore(Algorithm::Sha256, b"short").is_err());
        assert!(Hasher::restore(Algorithm::Sha512, &Hasher::new(Algorithm::Sha256).save()).is_err());
    }
}
