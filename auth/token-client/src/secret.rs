//! Tokens and passwords, which nothing prints.

use std::fmt;

use crate::{Error, Result};

/// The most a token may have. Tokens with hundreds of groups have some ten thousand bytes.
const LIMIT_BYTES: usize = 64 * 1024;

/// A token: not empty, printable ASCII without a blank.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a token as it is; `origin` names it in the error.
    pub fn new(token: impl Into<String>, origin: &str) -> Result<Self> {
        let token = token.into();
        let problem = if token.is_empty() {
            "is empty"
        } else if token.len() > LIMIT_BYTES {
            "is larger than 64 KiB"
        } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            // A line break here would end up in a header or in another program's protocol.
            "has a character that no token has, perhaps a blank or a line break"
        } else {
            return Ok(Self(token));
        };
        Err(Error::BadToken { origin: origin.to_owned(), problem })
    }

    /// Takes a token from a file, without the line break that editors and `echo` leave at the end.
    pub fn from_text(text: &str, origin: &str) -> Result<Self> {
        Self::new(text.trim_ascii_end(), origin)
    }

    /// Gives the token away.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_printable_and_of_one_line() {
        for bad in ["", "a b", "a\nb", "a\n", "\u{e9}", &"x".repeat(LIMIT_BYTES + 1)] {
            assert!(Secret::new(bad, "the token").is_err(), "{:?}", bad.get(..3));
        }
        assert_eq!(Secret::from_text("a.b-c_~\n", "the token").unwrap().reveal(), "a.b-c_~");
        assert!(Secret::from_text("a\nb\n", "the token").is_err());
    }

    #[test]
    fn nothing_prints_a_token() {
        let secret = Secret::new("hunter2", "the token").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret");
        let error = Secret::new("hunter2\n", "the token").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
