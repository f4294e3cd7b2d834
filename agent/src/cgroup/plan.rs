//! From limits to controller settings: pure arithmetic.

use serde::{Deserialize, Serialize};

/// What a cgroup may use. `None` is unbounded (or the kernel's default share).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Most processor time, in thousandths of a processor.
    pub cpu_limit_millis: Option<u64>,
    /// Processor time counted on, in thousandths of a processor: sets the share under contention.
    pub cpu_request_millis: Option<u64>,
    /// Most memory, in bytes, swap included.
    pub memory_limit_bytes: Option<u64>,
    /// Most processes and threads.
    pub pids_limit: Option<u64>,
}

/// Length of the period over which a processor limit is enforced, in microseconds (the kernel's and Kubernetes' default).
pub const CPU_PERIOD_US: u64 = 100_000;

/// Smallest quota the kernel takes, in microseconds (kernel/sched/core.c, `min_cfs_quota_period`).
const MIN_QUOTA_US: u64 = 1_000;

/// Smallest and largest `cpu.shares` (kernel/sched/sched.h, `MIN_SHARES`, `MAX_SHARES`).
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// Settings of one cgroup, in the kernel's units. `None` leaves the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Microseconds of processor time per [`CPU_PERIOD_US`].
    pub cpu_quota_us: Option<u64>,
    /// v1 `cpu.shares`.
    pub cpu_shares: Option<u64>,
    /// v2 `cpu.weight`.
    pub cpu_weight: Option<u64>,
    /// `memory.max`, or v1 `memory.limit_in_bytes`.
    pub memory_max_bytes: Option<u64>,
    /// `pids.max`.
    pub pids_max: Option<u64>,
}

/// The settings that enforce `resources`.
pub fn settings(resources: &Resources) -> Settings {
    // A limit without a request counts as the request, as Kubernetes' defaulting has it.
    let shares = resources.cpu_request_millis.or(resources.cpu_limit_millis).map(shares);
    Settings {
        cpu_quota_us: resources.cpu_limit_millis.filter(|millis| *millis > 0).map(quota_us),
        cpu_shares: shares,
        cpu_weight: shares.map(weight),
        memory_max_bytes: resources.memory_limit_bytes.filter(|bytes| *bytes > 0),
        pids_max: resources.pids_limit.filter(|count| *count > 0),
    }
}

fn quota_us(millis: u64) -> u64 {
    (millis.saturating_mul(CPU_PERIOD_US) / 1000).max(MIN_QUOTA_US)
}

/// 1024 shares are one processor.
fn shares(millis: u64) -> u64 {
    (millis.saturating_mul(1024) / 1000).clamp(*SHARES.start(), *SHARES.end())
}

/// Maps shares [2, 262144] linearly onto weights [1, 10000], as KEP-2254 does.
fn weight(shares: u64) -> u64 {
    1 + (shares - SHARES.start()) * 9_999 / (SHARES.end() - SHARES.start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(request: Option<u64>, limit: Option<u64>) -> Settings {
        settings(&Resources {
            cpu_request_millis: request,
            cpu_limit_millis: limit,
            ..Resources::default()
        })
    }

    #[test]
    fn nothing_asked_is_nothing_set() {
        assert_eq!(settings(&Resources::default()), Settings::default());
    }

    #[test]
    fn limits_become_quotas_of_the_period() {
        for (millis, quota) in [
            (100, 10_000),
            (250, 25_000),
            (1000, 100_000),
            (2500, 250_000),
            (1, 1000),
            (15, 1500),
        ] {
            assert_eq!(cpu(None, Some(millis)).cpu_quota_us, Some(quota), "{millis}m");
        }
        assert_eq!(cpu(None, Some(0)).cpu_quota_us, None);
    }

    #[test]
    fn requests_become_shares_and_weights() {
        for (millis, shares, weight) in [(0, 2, 1), (100, 102, 4), (1000, 1024, 39), (256_000, 262_144, 10_000)] {
            let settings = cpu(Some(millis), None);
            assert_eq!(
                (settings.cpu_shares, settings.cpu_weight),
                (Some(shares), Some(weight)),
                "{millis}m"
            );
        }
        assert_eq!(cpu(Some(u64::MAX), None).cpu_weight, Some(10_000));
        assert_eq!(cpu(None, Some(1000)).cpu_shares, Some(1024));
        assert_eq!(cpu(Some(500), Some(1000)).cpu_shares, Some(512));
    }

    #[test]
    fn zero_means_no_limit() {
        let resources = Resources {
            memory_limit_bytes: Some(0),
            pids_limit: Some(0),
            ..Resources::default()
        };
        assert_eq!(settings(&resources), Settings::default());
        let resources = Resources {
            memory_limit_bytes: Some(1 << 20),
            pids_limit: Some(7),
            ..Resources::default()
        };
        assert_eq!(settings(&resources).memory_max_bytes, Some(1 << 20));
        assert_eq!(settings(&resources).pids_max, Some(7));
    }
}
