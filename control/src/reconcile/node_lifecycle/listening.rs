//! Whether this process would have heard nodes speak. While the store is away agents cannot renew their leases, and while this process is
//! suspended it hears nothing; neither is a node's silence. Without this, all nodes would be taken for dead in the moment the store
//! returns.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

use crate::api::Registry;

/// Since when there was no interruption.
#[derive(Clone, Copy, Debug)]
struct Record {
    since: Instant,
    confirmed: Instant,
    /// A confirmation that is older than this does not count.
    tolerance: Duration,
}

impl Record {
    fn new(now: Instant, tolerance: Duration) -> Self {
        Self {
            since: now,
            confirmed: now,
            tolerance,
        }
    }

    fn note(&mut self, is_healthy: bool, now: Instant) {
        if !is_healthy || now.duration_since(self.confirmed) > self.tolerance {
            self.since = now;
        }
        self.confirmed = now;
    }

    fn lasted(&self, now: Instant) -> Duration {
        if now.duration_since(self.confirmed) > self.tolerance {
            return Duration::ZERO;
        }
        now.duration_since(self.since)
    }
}

/// Asks the store from time to time; ends when dropped.
#[derive(Debug)]
pub(super) struct Listening {
    record: Arc<Mutex<Record>>,
    asking: AbortHandle,
}

impl Listening {
    /// Begins to listen, often enough for silences of `grace_period`.
    pub(super) fn start(registry: Registry, grace_period: Duration) -> Self {
        let record = Arc::new(Mutex::new(Record::new(Instant::now(), grace_period / 2)));
        let shared = Arc::clone(&record);
        let asking = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(grace_period / 10);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let is_healthy = registry.store().health().await.is_ok();
                lock(&shared).note(is_healthy, Instant::now());
            }
        });
        Self {
            record,
            asking: asking.abort_handle(),
        }
    }

    /// How long every sign of life would have been heard.
    pub(super) fn lasted(&self, now: Instant) -> Duration {
        lock(&self.record).lasted(now)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_starts_the_count_anew() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut record = Record::new(start, Duration::from_secs(5));
        for second in 1..=20 {
            record.note(true, at(second));
        }
        assert_eq!(record.lasted(at(20)), Duration::from_secs(20));
        record.note(false, at(21));
        record.note(true, at(22));
        assert_eq!(record.lasted(at(22)), Duration::from_secs(1), "the store was away");
        record.note(true, at(28));
        assert_eq!(
            record.lasted(at(30)),
            Duration::from_secs(2),
            "nobody asked for six seconds"
        );
        assert_eq!(record.lasted(at(34)), Duration::ZERO, "an answer is overdue");
    }
}
