//! URLs that let anyone read one object for a while, so that its bytes need not pass through here.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use moka::sync::Cache;
use tokio::time::Instant;
use url::Url;

use super::{Cloud, Remote, failed};
use crate::s3::Credentials;
use crate::{Key, StoreError};

/// URLs that are kept to be given again: where an identity signs instead of a key, each new one is a
/// request to the provider.
const KEPT: u64 = 10_000;
/// A URL with less life than this is of no use to a client that begins a download.
const SHORTEST: Duration = Duration::from_secs(30);

/// Signs with the address that clients know.
#[derive(Debug)]
pub(super) struct Signing {
    pub(super) signer: Arc<dyn Remote>,
    /// Credentials that end, and what they signed with them.
    pub(super) credentials: Option<Arc<Credentials>>,
    life: Duration,
    kept: Cache<Key, Signed>,
}

#[derive(Debug, Clone)]
struct Signed {
    url: Url,
    /// Until then it has enough life left to be given to somebody else.
    fresh_until: Instant,
}

impl Signing {
    pub(super) fn new(
        signer: Arc<dyn Remote>,
        credentials: Option<Arc<Credentials>>,
        life: Duration,
    ) -> Self {
        let kept = Cache::builder().max_capacity(KEPT).time_to_live(life).build();
        Self { signer, credentials, life, kept }
    }

    /// `None` while the credentials have too little life left for it.
    pub(super) async fn url(&self, cloud: &Cloud, key: &Key) -> Result<Option<Url>, StoreError> {
        let now = Instant::now();
        if let Some(signed) = self.kept.get(key)
            && now < signed.fresh_until
        {
            return Ok(Some(signed.url));
        }
        // A URL stops working with the credentials that signed it, whatever it says itself.
        let left = match &self.credentials {
            Some(credentials) => credentials.time_left().await.map_err(failed("sign a URL"))?,
            None => None,
        };
        let life = left.map_or(self.life, |left| left.min(self.life));
        if life < SHORTEST.min(self.life) {
            return Ok(None);
        }
        let signed = self.signer.signed_url(Method::GET, &cloud.path(key), life).await;
        let url = signed.map_err(failed("sign a URL"))?;
        self.kept.insert(key.clone(), Signed { url: url.clone(), fresh_until: now + life / 3 });
        Ok(Some(url))
    }
}
