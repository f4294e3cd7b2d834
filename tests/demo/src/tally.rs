//! Counts what came back: by pod, by node, errors with their times, latencies.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Failures listed one by one; beyond these only the count grows.
const LISTED_FAILURES: usize = 1000;

/// What one worker saw.
#[derive(Debug, Default)]
pub struct Tally {
    answers: u64,
    errors: u64,
    by_pod: BTreeMap<String, u64>,
    by_node: BTreeMap<String, u64>,
    last_connect_unix_ms: BTreeMap<String, u64>,
    failures: Vec<Failure>,
    latencies: Vec<Duration>,
}

/// A request that got no good answer.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// When the request was begun, in milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// How long it took to fail.
    pub after_ms: u64,
    /// What went wrong.
    pub error: String,
}

/// The tally as it is printed.
#[derive(Debug, Serialize)]
pub struct Report<'t> {
    answers: u64,
    errors: u64,
    by_pod: &'t BTreeMap<String, u64>,
    by_node: &'t BTreeMap<String, u64>,
    /// Per pod, when the last connection that it answered was begun.
    last_connect_unix_ms: &'t BTreeMap<String, u64>,
    latency_us: Latency,
    failures: &'t [Failure],
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    max: u64,
}

/// Now, in milliseconds since the epoch.
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

impl Tally {
    /// Counts an answer on a connection begun at `connected_at`.
    pub fn answer(&mut self, pod: &str, node: &str, connected_at_unix_ms: u64, latency: Duration) {
        self.answers += 1;
        *self.by_pod.entry(pod.to_owned()).or_default() += 1;
        *self.by_node.entry(node.to_owned()).or_default() += 1;
        let last = self.last_connect_unix_ms.entry(pod.to_owned()).or_default();
        *last = connected_at_unix_ms.max(*last);
        self.latencies.push(latency);
    }

    /// Counts a failed request.
    pub fn failure(&mut self, at_unix_ms: u64, after: Duration, error: String) {
        self.errors += 1;
        if self.failures.len() < LISTED_FAILURES {
            self.failures.push(Failure {
                at_unix_ms,
                after_ms: after.as_millis() as u64,
                error,
            });
        }
    }

    /// How many requests failed.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Adds what another worker saw.
    pub fn merge(&mut self, other: Self) {
        self.answers += other.answers;
        self.errors += other.errors;
        for (pod, count) in other.by_pod {
            *self.by_pod.entry(pod).or_default() += count;
        }
        for (node, count) in other.by_node {
            *self.by_node.entry(node).or_default() += count;
        }
        for (pod, at) in other.last_connect_unix_ms {
            let last = self.last_connect_unix_ms.entry(pod).or_default();
            *last = at.max(*last);
        }
        self.failures.extend(other.failures);
        self.latencies.extend(other.latencies);
    }

    /// The tally as it is printed.
    pub fn report(&self) -> Report<'_> {
        Report {
            answers: self.answers,
            errors: self.errors,
            by_pod: &self.by_pod,
            by_node: &self.by_node,
            last_connect_unix_ms: &self.last_connect_unix_ms,
            latency_us: Latency::of(&self.latencies),
            failures: &self.failures,
        }
    }
}

impl Latency {
    fn of(samples: &[Duration]) -> Self {
        let mut sorted: Vec<u64> = samples.iter().map(|sample| sample.as_micros() as u64).collect();
        sorted.sort_unstable();
        // Nearest rank: the smallest sample that `percent` of all do not exceed.
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Self {
            p50: rank(50),
            p99: rank(99),
            max: rank(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let samples: Vec<_> = (1..=200).rev().map(Duration::from_micros).collect();
        assert_eq!(
            Latency::of(&samples),
            Latency {
                p50: 100,
                p99: 198,
                max: 200
            }
        );
        assert_eq!(Latency::of(&[]), Latency { p50: 0, p99: 0, max: 0 });
    }

    #[test]
    fn merging_keeps_the_latest_connection_of_each_pod() {
        let mut a = Tally::default();
        a.answer("p", "n", 20, Duration::ZERO);
        let mut b = Tally::default();
        b.answer("p", "n", 10, Duration::ZERO);
        b.failure(5, Duration::ZERO, "refused".into());
        a.merge(b);
        assert_eq!(
            (a.answers, a.errors, a.by_pod["p"], a.last_connect_unix_ms["p"]),
            (2, 1, 2, 20)
        );
    }
}
