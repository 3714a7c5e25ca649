//! Metrics: their names, and what each counts. `docs/reference/metrics.md` is for people.

use std::fmt;
use std::sync::Arc;

use berth_storage::{Reads, Store};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, text,
};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// What happens, counted since the start. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    blobs_lost: Family<Found, Counter>,
    blobs_missing: Gauge,
    scrubbed_blobs: Counter,
    scrubbed_bytes: Counter,
}

/// Who found a blob lost or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum FoundBy {
    /// A client's request.
    #[expect(non_camel_case_types, reason = "it is the label's value")]
    read,
    /// The scrubber.
    #[expect(non_camel_case_types, reason = "it is the label's value")]
    scrub,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Found {
    found_by: FoundBy,
}

impl Metrics {
    /// All of them, at zero but what the store counts itself.
    pub fn new(store: &Store) -> Self {
        let (blobs_lost, blobs_missing) = (Family::<Found, Counter>::default(), Gauge::default());
        let (scrubbed_blobs, scrubbed_bytes) = (Counter::default(), Counter::default());
        // Both are there from the beginning: an alert on a rise needs something to rise from.
        for found_by in [FoundBy::read, FoundBy::scrub] {
            drop(blobs_lost.get_or_create(&Found { found_by }));
        }
        let mut registry = Registry::with_prefix("berth");
        registry.register("blobs_lost", "Blobs whose object was found lost or damaged", blobs_lost.clone());
        registry.register(
            "blobs_missing",
            "Blobs that are lost now; a push of their bytes restores them",
            blobs_missing.clone(),
        );
        registry.register("scrubbed_blobs", "Blobs that the scrubber has read again", scrubbed_blobs.clone());
        registry.register_with_unit(
            "scrubbed",
            "Bytes that the scrubber has read again",
            Unit::Bytes,
            scrubbed_bytes.clone(),
        );
        registry.register_collector(Box::new(StoreReads(store.clone())));
        Self { registry: Arc::new(registry), blobs_lost, blobs_missing, scrubbed_blobs, scrubbed_bytes }
    }

    /// A blob was found to be lost or damaged.
    pub fn blob_lost(&self, found_by: FoundBy) {
        self.blobs_lost.get_or_create(&Found { found_by }).inc();
    }

    /// So many blobs are lost now.
    pub fn blobs_missing(&self, count: i64) {
        self.blobs_missing.set(count);
    }

    /// The scrubber has read a blob.
    pub fn scrubbed(&self, size_bytes: u64) {
        self.scrubbed_blobs.inc();
        self.scrubbed_bytes.inc_by(size_bytes);
    }

    /// All of them as text, in the format `OpenMetrics`.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// What a store counts itself.
#[derive(Debug)]
struct StoreReads(Store);

impl Collector for StoreReads {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(Reads { requests, bytes, hits, misses }) = self.0.reads() else { return Ok(()) };
        let counts = [
            ("store_reads", "Requests for the bytes of an object, to the object store", None, requests),
            ("store_read", "Bytes read from the object store", Some(Unit::Bytes), bytes),
            ("cache_hits", "Pieces of blobs that were in the cache", None, hits),
            ("cache_misses", "Pieces of blobs that were not in the cache", None, misses),
        ];
        for (name, help, unit, count) in counts {
            let counter = ConstCounter::new(count);
            let encoder = encoder.encode_descriptor(name, help, unit.as_ref(), counter.metric_type())?;
            counter.encode(encoder)?;
        }
        Ok(())
    }
}
