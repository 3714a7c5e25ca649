//! Metrics: their names, and what each counts. `docs/reference/metrics.md` is for people.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use berth_storage::{Reads, Store};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

/// Without TLS nothing is shown: an alert on a certificate that ended in 1970 would ring for ever.
const NO_CERTIFICATE: i64 = i64::MIN;

/// What happens, counted since the start. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    blobs_lost: Family<Found, Counter>,
    blobs_missing: Gauge,
    scrubbed_blobs: Counter,
    scrubbed_bytes: Counter,
    policy_is_bad: Gauge,
    keys: Arc<OnceLock<Keys>>,
    certificate_reload_failures: Counter,
    certificate_expires: Arc<AtomicI64>,
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
        let policy_is_bad = Gauge::default();
        registry.register(
            "policy_is_bad",
            "1 while the configuration or the policy folder holds rules that are not in force because they are bad",
            policy_is_bad.clone(),
        );
        let keys = Arc::default();
        registry.register_collector(Box::new(KeyExpiry(Arc::clone(&keys))));
        let certificate_reload_failures = Counter::default();
        let certificate_expires = Arc::new(AtomicI64::new(NO_CERTIFICATE));
        registry.register(
            "certificate_reload_failures",
            "Times that new certificate files were of no use, and the ones before stayed in use",
            certificate_reload_failures.clone(),
        );
        registry.register_collector(Box::new(CertificateExpiry(Arc::clone(&certificate_expires))));
        registry.register_collector(Box::new(StoreReads(store.clone())));
        Self {
            registry: Arc::new(registry),
            blobs_lost,
            blobs_missing,
            scrubbed_blobs,
            scrubbed_bytes,
            certificate_reload_failures,
            certificate_expires,
            policy_is_bad,
            keys,
        }
    }

    /// A blob was found to be lost or damaged.
    pub fn blob_lost(&self, found_by: FoundBy) {
        self.blobs_lost.get_or_create(&Found { found_by }).inc();
    }

    /// Shows when the keys of robots expire, as this says whenever it is asked.
    pub fn watch_keys(&self, keys: impl Fn() -> Vec<KeyLife> + Send + Sync + 'static) {
        // There is one set of keys in the life of a process.
        let _ = self.keys.set(Keys(Box::new(keys)));
    }

    /// Whether the configuration or the policy folder holds something that is not in force.
    pub fn policy_is_bad(&self, bad: bool) {
        self.policy_is_bad.set(bad.into());
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

    /// New certificate files were of no use.
    pub fn certificate_reload_failed(&self) {
        self.certificate_reload_failures.inc();
    }

    /// The certificate in use ends then, in unix seconds.
    pub fn certificate_expires(&self, unix_seconds: i64) {
        self.certificate_expires.store(unix_seconds, Ordering::Relaxed);
    }

    /// All of them as text, in the format `OpenMetrics`.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// When the certificate in use ends.
#[derive(Debug)]
struct CertificateExpiry(Arc<AtomicI64>);

impl Collector for CertificateExpiry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let expires = self.0.load(Ordering::Relaxed);
        if expires == NO_CERTIFICATE {
            return Ok(());
        }
        let (name, help) = ("certificate_expires", "When the certificate in use ends, as unix time");
        let gauge = ConstGauge::new(expires);
        gauge.encode(encoder.encode_descriptor(name, help, Some(&Unit::Seconds), gauge.metric_type())?)
    }
}

/// How long a key of a robot is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLife {
    /// The robot's name.
    pub robot: String,
    /// Which of its keys, the first being 0.
    pub key: u64,
    /// When it expires, unix seconds.
    pub expires: i64,
}

struct Keys(Box<dyn Fn() -> Vec<KeyLife> + Send + Sync>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// When the keys of robots expire.
#[derive(Debug)]
struct KeyExpiry(Arc<OnceLock<Keys>>);

impl Collector for KeyExpiry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(Keys(keys)) = self.0.get() else { return Ok(()) };
        let help = "When a key of a robot expires, as unix time, for keys that do";
        let mut encoder =
            encoder.encode_descriptor("key_expires", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for KeyLife { robot, key, expires } in keys() {
            let labels = [("robot", robot), ("key", key.to_string())];
            ConstGauge::new(expires).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
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
