//! What the control plane counts, as Prometheus metrics. Labels are closed sets.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use causeway_proto::Kind;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry as MetricRegistry,
};
use tonic::Code;

use crate::cache::KindCache;

pub mod http;
mod store;

pub use store::MeteredStore;

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// From 0.25 ms to 8 s.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
}

/// All metrics of the process.
pub struct Metrics {
    registry: Mutex<MetricRegistry>,
    requests: Family<Labels<3>, Counter>,
    request_seconds: Histograms<2>,
    store_seconds: Histograms<1>,
    store_errors: Family<Labels<1>, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(MetricRegistry::with_prefix("causeway")),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(latency),
            store_seconds: Family::new_with_constructor(latency),
            store_errors: Family::default(),
        };
        metrics.register_own();
        metrics
    }
}

impl Metrics {
    fn register_own(&self) {
        let mut registry = self.lock();
        registry.register(
            "api_requests",
            "Requests answered, by verb, kind and gRPC code; a watch counts when it begins",
            self.requests.clone(),
        );
        registry.register(
            "api_request_duration_seconds",
            "Time from request to answer; for a watch, to its beginning",
            self.request_seconds.clone(),
        );
        registry.register(
            "store_request_duration_seconds",
            "Time that the store took, failures included",
            self.store_seconds.clone(),
        );
        registry.register(
            "store_errors",
            "Requests that the store failed or refused",
            self.store_errors.clone(),
        );
    }

    fn lock(&self) -> MutexGuard<'_, MetricRegistry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what is read from the caches when metrics are asked for.
    pub fn observe_caches(&self, caches: &[Arc<KindCache>]) {
        self.lock().register_collector(Box::new(Caches(caches.to_vec())));
    }

    /// Adds metrics of another part of the process.
    pub fn register(&self, add: impl FnOnce(&mut MetricRegistry)) {
        add(&mut self.lock());
    }

    /// Counts an answered request.
    pub fn request(&self, verb: &'static str, kind: Option<Kind>, code: Code, took: Duration) {
        let kind = kind.map_or("none", Kind::name);
        self.requests
            .get_or_create(&[("verb", verb), ("kind", kind), ("code", code_name(code))])
            .inc();
        self.request_seconds
            .get_or_create(&[("verb", verb), ("kind", kind)])
            .observe(took.as_secs_f64());
    }

    /// Counts an answered request to the store.
    fn store(&self, operation: &'static str, failed: bool, took: Duration) {
        let labels = [("operation", operation)];
        self.store_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        let errors = self.store_errors.get_or_create(&labels);
        if failed {
            errors.inc();
        }
    }

    /// All of them in Prometheus' text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.lock())?;
        Ok(text)
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Sizes of the caches, read at each scrape.
struct Caches(Vec<Arc<KindCache>>);

impl std::fmt::Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Caches")
    }
}

impl Collector for Caches {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut gauges = |name: &str, help: &str, value: fn(&KindCache) -> i64| {
            let mut family =
                encoder.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?;
            for cache in &self.0 {
                let labels: Labels<1> = [("kind", cache.kind().name())];
                ConstGauge::new(value(cache)).encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        };
        gauges("objects", "Objects stored, by kind", |cache| count(cache.len()))?;
        gauges("api_watchers", "Watches that clients hold, by kind", |cache| {
            count(cache.watchers())
        })?;
        gauges(
            "cache_revision",
            "Store revision up to which the watch cache is complete, by kind",
            KindCache::revision,
        )
    }
}
