//! The vocabulary of the OCI specifications, as types.
//!
//! Pure code: nothing here knows of HTTP, SQL or storage, reads a clock or touches a file. A
//! string from outside becomes one of these types at the door, so that whoever holds a
//! [`RepositoryName`] or a [`Manifest`] need not ask again whether it is one.

pub mod error;
pub mod manifest;
pub mod name;
pub mod range;
pub mod reference;

pub use error::{ErrorBody, ErrorCode};
pub use manifest::{Descriptor, FallbackEntry, Manifest, ManifestError, Role};
pub use name::{NameError, RepositoryName, Tag, TagError};
pub use range::{ByteRange, ContentRange, ContentRangeError, Ranges, range_until};
pub use reference::{Reference, ReferenceError};
