//! Tokens of ours whose signature was found good: to check one costs more than all the rest of a request.

use std::sync::Arc;

use berth_auth::AccessToken;
use moka::sync::Cache;

/// What is remembered at most, in bytes.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// What a token takes besides its text, about.
const REST_BYTES: usize = 1024;

/// What of a token's end it is looked up by, in bytes: a part of its signature, which is longer.
const END_BYTES: usize = 32;

/// Tokens that were verified, by the end of their signature.
///
/// Two good tokens do not end alike, and of one that is not good the text differs: it is compared, and never
/// hashed.
pub(super) struct Verified(Cache<Arc<str>, Entry>);

#[derive(Clone)]
struct Entry {
    text: Arc<str>,
    token: Arc<AccessToken>,
}

impl Verified {
    pub(super) fn new() -> Self {
        let weigh = |_: &Arc<str>, entry: &Entry| {
            u32::try_from(2 * entry.text.len() + REST_BYTES).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().weigher(weigh).max_capacity(MOST_BYTES).build())
    }

    /// What a token says, if it was verified before.
    pub(super) fn get(&self, text: &str) -> Option<Arc<AccessToken>> {
        let entry = self.0.get(end(text)?)?;
        (*entry.text == *text).then_some(entry.token)
    }

    /// Remembers a token that was verified.
    pub(super) fn keep(&self, text: &str, token: AccessToken) -> Arc<AccessToken> {
        let token = Arc::new(token);
        if let Some(end) = end(text) {
            self.0.insert(end.into(), Entry { text: text.into(), token: Arc::clone(&token) });
        }
        token
    }
}

fn end(text: &str) -> Option<&str> {
    let from = text.len().checked_sub(END_BYTES).filter(|_| text.starts_with("eyJ"))?;
    text.get(from..)
}
