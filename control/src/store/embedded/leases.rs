//! Which leases live, and until when. The leases themselves are durable; their clocks start anew when the store opens.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::super::LeaseId;

struct Entry {
    ttl: Duration,
    deadline: Instant,
}

/// All leases that have not ended.
pub(super) struct LeaseTable {
    entries: HashMap<i64, Entry>,
}

impl LeaseTable {
    /// Leases found on disk get their whole time again: their holders could not reach the store meanwhile.
    pub(super) fn restored(leases: Vec<(i64, u64)>) -> Self {
        let mut table = Self {
            entries: HashMap::new(),
        };
        for (id, seconds) in leases {
            table.insert(LeaseId(id), Duration::from_secs(seconds));
        }
        table
    }

    pub(super) fn insert(&mut self, id: LeaseId, ttl: Duration) {
        self.entries.insert(
            id.0,
            Entry {
                ttl,
                deadline: Instant::now() + ttl,
            },
        );
    }

    pub(super) fn remove(&mut self, id: LeaseId) {
        self.entries.remove(&id.0);
    }

    /// False if the lease has ended.
    pub(super) fn keep_alive(&mut self, id: LeaseId) -> bool {
        let now = Instant::now();
        match self.entries.get_mut(&id.0) {
            Some(entry) if entry.deadline > now => {
                entry.deadline = now + entry.ttl;
                true
            }
            _ => false,
        }
    }

    /// Takes out the leases whose time is over.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<LeaseId> {
        let mut expired: Vec<_> = self
            .entries
            .extract_if(|_, entry| entry.deadline <= now)
            .map(|(id, _)| LeaseId(id))
            .collect();
        expired.sort_unstable();
        expired
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.entries.values().map(|entry| entry.deadline).min()
    }
}
