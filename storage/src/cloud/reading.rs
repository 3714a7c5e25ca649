//! An object on its way out of an object store, straight from the connection.
//!
//! Nothing is read ahead of whoever takes it but what the connection holds, and a reader that is dropped
//! closes it. A stream that breaks is taken up where it broke, as long as it gets on.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Cloud, broken, failed};
use crate::{ByteStream, Key, StoreError};

struct Reading {
    cloud: Cloud,
    key: Key,
    size_bytes: u64,
    rest: Range<u64>,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
}

pub(super) async fn begin(
    cloud: Cloud,
    key: Key,
    size_bytes: u64,
    range: Range<u64>,
) -> Result<ByteStream, StoreError> {
    let stream = cloud.get(&key, size_bytes, range.clone()).await?;
    let reading = Reading { cloud, key, size_bytes, rest: range, stream };
    Ok(stream::try_unfold(reading, Reading::next).boxed())
}

impl Reading {
    /// Waits for the next bytes, as long as any request is tried again; then it is an error.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreError> {
        let patience = self.cloud.0.patience.retry_for;
        let deadline = Instant::now() + patience;
        let mut failures = 0;
        while !self.rest.is_empty() {
            // Half of it, so that there is time to ask once more.
            let error = match timeout(patience / 2, self.stream.next()).await {
                Ok(Some(Ok(bytes))) if bytes.is_empty() => continue,
                Ok(Some(Ok(mut bytes))) => {
                    let wanted = self.rest.end - self.rest.start;
                    bytes.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
                    self.rest.start += bytes.len() as u64;
                    self.cloud.0.tally.bytes(bytes.len());
                    return Ok(Some((bytes, self)));
                }
                Ok(Some(Err(error))) => failed("read an object")(error),
                Ok(None) => self.broken("it ended early"),
                Err(_) => self.broken("the store fell silent"),
            };
            tracing::debug!(key = %self.key, %error, "a read broke off; going on behind what came");
            failures += 1;
            sleep(pause(failures)).await;
            let again = self.cloud.get(&self.key, self.size_bytes, self.rest.clone());
            match timeout_at(deadline, again).await {
                Ok(stream) => self.stream = stream?,
                Err(_) => return Err(error),
            }
        }
        Ok(None)
    }

    fn broken(&self, why: &str) -> StoreError {
        broken(format!("{why}, {} bytes before its end", self.rest.end - self.rest.start))
    }
}

fn pause(failures: u32) -> Duration {
    let mut random = [0; 1];
    // Without randomness everybody waits alike, no more.
    let _ = getrandom::fill(&mut random);
    Duration::from_millis(50 * (1 << failures.min(6)) + u64::from(random[0]))
}
