//! Backends that take new connections again, until flows that began elsewhere meanwhile are over.
//!
//! With direct server return a slot decides alone where its flows go. While its backend takes no new connections, flows that begin go
//! to others and are written down, each of them. So as soon as none of those is left, the slot may decide alone again.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Instant,
};

use causeway_abi::service::{NO_BACKEND, Slot};

use super::writer::WrittenFlow;

/// When backends are looked at next.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    due: BTreeSet<(Instant, u32)>,
    by_index: HashMap<u32, Instant>,
}

impl Unsettled {
    /// Looks at a backend at a time, and not at the one that was said before.
    pub fn put(&mut self, index: u32, at: Instant) {
        if let Some(before) = self.by_index.insert(index, at) {
            self.due.remove(&(before, index));
        }
        self.due.insert((at, index));
    }

    /// When the next is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes those that are due.
    pub fn take_due(&mut self, now: Instant) -> Vec<u32> {
        let mut taken = Vec::new();
        while let Some((at, index)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            self.by_index.remove(&index);
            taken.push(index);
        }
        taken
    }
}

/// Whether a slot remembers nothing, so that only its backend can be unsettled.
fn is_at_rest(slot: Slot) -> bool {
    slot.previous == NO_BACKEND
}

/// Those backends of slots at rest whose flows are with others; flows come with their slots.
pub(super) fn missed(flows: &[(WrittenFlow, Slot)]) -> HashSet<u32> {
    let elsewhere = flows
        .iter()
        .filter(|(flow, slot)| is_at_rest(*slot) && flow.backend != slot.backend);
    elsewhere.map(|(_, slot)| slot.backend).collect()
}

/// The flows that a slot decides on alone once these backends are settled.
pub(super) fn settled_with(backends: &HashSet<u32>, flows: Vec<(WrittenFlow, Slot)>) -> Vec<WrittenFlow> {
    let decided = flows
        .into_iter()
        .filter(|(_, slot)| is_at_rest(*slot) && backends.contains(&slot.backend));
    decided.map(|(flow, _)| flow).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_returns_again_is_looked_at_later() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut unsettled = Unsettled::default();
        unsettled.put(7, at(5));
        unsettled.put(8, at(6));
        unsettled.put(7, at(9));
        assert_eq!(unsettled.next_due(), Some(at(6)));
        assert_eq!(unsettled.take_due(at(8)), [8]);
        assert_eq!(unsettled.take_due(at(9)), [7]);
        assert_eq!(unsettled.next_due(), None);
    }
}
