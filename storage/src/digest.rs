//! Digests: the name of content, made from the content.

use std::fmt;
use std::str::FromStr;

use crate::Hasher;

/// A hash algorithm Berth stores content under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, what every client uses unless told otherwise.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name before the colon of a digest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn encoded_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(DigestError::Algorithm),
        }
    }
}

/// `algorithm:encoded`, as `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: String,
}

/// Why a text is not a [`Digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no colon.
    #[error("a digest is written algorithm:encoded")]
    Form,
    /// The algorithm is neither of ours.
    #[error("the digest algorithm must be sha256 or sha512")]
    Algorithm,
    /// The part after the colon is too short, too long, or not lower-case hexadecimal.
    #[error("the encoded part must be {expected} lower-case hexadecimal digits")]
    Encoded {
        /// How many digits the algorithm has.
        expected: usize,
    },
}

impl Digest {
    /// The digest of some bytes.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.digest()
    }

    pub(crate) fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Self {
        Self { algorithm, text: format!("{algorithm}:{}", hex::encode(hash)) }
    }

    /// The hash algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The whole digest.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part after the colon.
    pub fn encoded(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, encoded) = text.split_once(':').ok_or(DigestError::Form)?;
        let algorithm = algorithm.parse::<Algorithm>()?;
        let expected = algorithm.encoded_len();
        if encoded.len() != expected || !encoded.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Encoded { expected });
        }
        Ok(Self { algorithm, text: text.to_owned() })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        assert_eq!(Digest::of(Algorithm::Sha256, b"").as_str(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().map(|d| d.encoded().len()), Ok(64));
    }

    #[test]
    fn a_digest_must_be_exact() {
        for (text, error) in [
            ("", DigestError::Form),
            ("sha256", DigestError::Form),
            ("md5:abcd", DigestError::Algorithm),
            ("SHA256:abcd", DigestError::Algorithm),
            ("sha256:", DigestError::Encoded { expected: 64 }),
            ("sha256:../../etc/passwd", DigestError::Encoded { expected: 64 }),
            (&EMPTY.to_uppercase().replace("SHA", "sha"), DigestError::Encoded { expected: 64 }),
            (&format!("{EMPTY}0"), DigestError::Encoded { expected: 64 }),
            (&EMPTY.replace("256", "512"), DigestError::Encoded { expected: 128 }),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }
}
