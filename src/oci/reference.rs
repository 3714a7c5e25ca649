//! What names a manifest inside a repository: a tag or a digest.
//!
//! A tag has no colon and a digest always has one, so the colon alone tells which is meant, and
//! a mistyped digest is reported as a bad digest instead of a bad tag.

use std::fmt;
use std::str::FromStr;

use berth_storage::{Digest, DigestError};

use super::name::{Tag, TagError};

/// A tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// A name that moves.
    Tag(Tag),
    /// The content itself.
    Digest(Digest),
}

/// Why a string is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It has no colon and is not a tag.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// It has a colon and is not a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// The reference as it stands in a URL.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(tag) => tag.as_str(),
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(reference: &str) -> Result<Self, ReferenceError> {
        if reference.contains(':') {
            Ok(Self::Digest(reference.parse()?))
        } else {
            Ok(Self::Tag(reference.parse()?))
        }
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(reference: String) -> Result<Self, ReferenceError> {
        if reference.contains(':') {
            Ok(Self::Digest(reference.try_into()?))
        } else {
            Ok(Self::Tag(reference.try_into()?))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl From<Tag> for Reference {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

#[cfg(test)]
mod tests {
    use berth_storage::Algorithm;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_colon_makes_it_a_digest() {
        let digest = Digest::of(Algorithm::Sha256, b"manifest");
        assert_eq!(digest.as_str().parse::<Reference>().unwrap(), Reference::Digest(digest));
        assert!(matches!("v1".parse::<Reference>(), Ok(Reference::Tag(_))));
        assert!(matches!("sha256:baddigeststring".parse::<Reference>(), Err(ReferenceError::Digest(_))));
        assert!(matches!("".parse::<Reference>(), Err(ReferenceError::Tag(TagError::Empty))));
        assert!(matches!("a/b".parse::<Reference>(), Err(ReferenceError::Tag(_))));
    }

    proptest! {
        #[test]
        fn a_reference_reads_back_from_its_text(text in "[a-z0-9._:-]{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text.clone());
                prop_assert_eq!(Reference::try_from(text).unwrap(), reference);
            }
        }
    }
}
