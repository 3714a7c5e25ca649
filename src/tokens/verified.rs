//! Tokens of ours whose signature was found good: to check one costs more than all the rest of a request.

use std::sync::Arc;

use berth_auth::AccessToken;
use moka::sync::Cache;

/// What is remembered at most, in bytes.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// What a token takes besides its text, about.
const REST_BYTES: usize = 1024;

/// Tokens that were verified, by their signature.
///
/// Two tokens with one signature are the same text or not both good, so that the text is compared, and never
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
        let entry = self.0.get(signature(text)?)?;
        (*entry.text == *text).then_some(entry.token)
    }

    /// Remembers a token that was verified.
    pub(super) fn keep(&self, text: &str, token: AccessToken) -> Arc<AccessToken> {
        let token = Arc::new(token);
        if let Some(signature) = signature(text) {
            self.0.insert(signature.into(), Entry { text: text.into(), token: Arc::clone(&token) });
        }
        token
    }
}

fn signature(text: &str) -> Option<&str> {
    text.starts_with("eyJ").then(|| text.rsplit_once('.'))?.map(|(_, signature)| signature)
}
