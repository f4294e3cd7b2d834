//! How long to wait after a failure: doubling delays with a cap, and a quiet time after which failures are forgotten.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Delays between attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Delay after the second failure in a row; the first failure is retried at once.
    pub base: Duration,
    /// Delays grow no further than this.
    pub max: Duration,
    /// Something that worked this long starts afresh.
    pub reset_after: Duration,
}

impl Default for Policy {
    /// The kubelet's: 10 s, doubling to five minutes, forgotten after ten minutes of running.
    fn default() -> Self {
        Self {
            base: Duration::from_secs(10),
            max: Duration::from_mins(5),
            reset_after: Duration::from_mins(10),
        }
    }
}

impl Policy {
    /// Delay before the attempt that follows `failures` failures in a row.
    pub fn delay(&self, failures: u32) -> Duration {
        match failures.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => self.base.saturating_mul(1 << doublings.min(20)).min(self.max),
        }
    }
}

/// Failures in a row, and when the last one was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Backoff {
    /// Failures in a row.
    pub failures: u32,
    /// When the last failure happened.
    pub last: Option<SystemTime>,
}

impl Backoff {
    /// Notes a failure at `now` of something that had worked for `ran`.
    pub fn fail(&mut self, policy: &Policy, now: SystemTime, ran: Duration) {
        self.failures = if ran >= policy.reset_after {
            1
        } else {
            self.failures.saturating_add(1)
        };
        self.last = Some(now);
    }

    /// When the next attempt may be made; `None` for at once.
    pub fn not_before(&self, policy: &Policy) -> Option<SystemTime> {
        let delay = policy.delay(self.failures);
        if delay.is_zero() {
            None
        } else {
            self.last.map(|last| last + delay)
        }
    }

    /// Time left at `now` until the next attempt. A clock that went backwards never makes the wait longer than the delay.
    pub fn remaining(&self, policy: &Policy, now: SystemTime) -> Option<Duration> {
        let not_before = self.not_before(policy)?;
        let left = not_before.duration_since(now).ok()?;
        (!left.is_zero()).then(|| left.min(policy.delay(self.failures)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        base: Duration::from_secs(10),
        max: Duration::from_mins(5),
        reset_after: Duration::from_mins(10),
    };

    #[test]
    fn delays_double_up_to_the_cap() {
        let delays: Vec<_> = (0..10).map(|failures| POLICY.delay(failures).as_secs()).collect();
        assert_eq!(delays, [0, 0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(POLICY.delay(u32::MAX), POLICY.max);
    }

    #[test]
    fn a_long_run_wipes_the_slate() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.fail(&POLICY, now, Duration::from_secs(1));
        }
        assert_eq!(backoff.remaining(&POLICY, now), Some(Duration::from_secs(40)));
        assert_eq!(backoff.remaining(&POLICY, now + Duration::from_secs(40)), None);
        backoff.fail(&POLICY, now, POLICY.reset_after);
        assert_eq!((backoff.failures, backoff.remaining(&POLICY, now)), (1, None));
    }

    #[test]
    fn a_clock_set_back_does_not_stretch_the_wait() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let backoff = Backoff {
            failures: 2,
            last: Some(now),
        };
        assert_eq!(
            backoff.remaining(&POLICY, now - Duration::from_secs(5_000)),
            Some(Duration::from_secs(10))
        );
    }
}
