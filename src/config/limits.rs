//! `[limits]`: every limit.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Size};

/// Every limit.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// What all uploads together may hold in memory. Beyond it they wait. One upload holds at most
    /// 1.5 MiB, or in an object store three parts (`storage.part_size`).
    pub upload_memory: Size,
    /// What all downloads together may hold in memory, beside 32 KiB each. Beyond it they go on in
    /// smaller pieces. With an object store a quarter of it is kept for ten seconds, for those who pull the
    /// same.
    pub download_memory: Size,
    /// The largest manifest taken; a larger one is answered 413. At most 4 MiB, which is what
    /// clients read.
    pub manifest_bytes: Size,
    /// What all manifests on their way in and all pages of referrers on their way out may hold in memory, beside
    /// 32 KiB each. Beyond it they wait.
    pub manifest_memory: Size,
    /// The most tags one manifest push may set; more are answered 414.
    pub tags_per_push: usize,
    /// The most names a page of tags or repositories has, whatever `n` asks for.
    pub page: usize,
    /// The size a page of referrers stays below, unless a single one is larger. Clients read 4 MiB.
    pub referrers_page_bytes: Size,
    /// What pages of referrers may take that are kept in memory, to be sent again as long as the index says that
    /// they still hold.
    pub referrers_memory: Size,
    /// The most connections at a time. Beyond it new ones wait to be accepted.
    pub connections: usize,
    /// The longest request line and headers; longer ones are answered 414 or 431.
    pub header_bytes: Size,
}

const MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            upload_memory: Size::of(256 * 1024 * 1024),
            download_memory: Size::of(256 * 1024 * 1024),
            manifest_bytes: Size::of(MANIFEST_BYTES),
            manifest_memory: Size::of(64 * 1024 * 1024),
            tags_per_push: 100,
            page: 1000,
            referrers_page_bytes: Size::of(4_000_000),
            referrers_memory: Size::of(8 * 1024 * 1024),
            connections: 10_000,
            header_bytes: Size::of(32 * 1024),
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let rules = [
            (self.manifest_bytes.bytes() <= MANIFEST_BYTES, "limits.manifest_bytes must be at most 4MiB"),
            (self.manifest_bytes.bytes() >= 1024, "limits.manifest_bytes must be at least 1KiB"),
            (
                self.manifest_memory.bytes()
                    >= 4 * self.manifest_bytes.bytes().max(self.referrers_page_bytes.bytes()),
                "limits.manifest_memory must be at least four times limits.manifest_bytes and \
                 limits.referrers_page_bytes",
            ),
            (self.upload_memory.bytes() >= 1024 * 1024, "limits.upload_memory must be at least 1MiB"),
            (self.tags_per_push >= 10, "limits.tags_per_push must be at least 10, as the spec asks"),
            ((1..=10_000).contains(&self.page), "limits.page must be between 1 and 10000"),
            (
                (65_536..=MANIFEST_BYTES).contains(&self.referrers_page_bytes.bytes()),
                "limits.referrers_page_bytes must be between 64KiB and 4MiB",
            ),
            (self.connections >= 1, "limits.connections must be at least 1"),
            (
                (8192..=96 * 1024).contains(&self.header_bytes.bytes()),
                "limits.header_bytes must be between 8KiB and 96KiB",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, text)) => Err(ConfigError::Invalid(text.into())),
            None => Ok(()),
        }
    }
}
