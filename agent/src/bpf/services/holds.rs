//! Which slots of a table remember whose they were, and until when.
//!
//! A slot that changes hands names its previous backend, so that flows that began with that one are sent on to it. It does
//! so for a hold time, not for good: who was silent for so long begins anew.

use std::time::Instant;

use super::arena::Range;

/// The slots of one table that remember.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holds {
    /// The soonest to end first. No position is in two.
    holds: Vec<Hold>,
}

/// Slots that changed hands together.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Hold {
    until: Instant,
    /// Places in the table, ascending.
    positions: Vec<u32>,
}

impl Holds {
    /// Whether no slot remembers anything.
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }

    /// Notes slots that changed hands; `positions` are ascending.
    pub fn add(&mut self, until: Instant, positions: Vec<u32>) {
        if !positions.is_empty() {
            self.holds.push(Hold { until, positions });
        }
    }

    /// The same holds in the table that follows this one: of `before` slots until now, of `after` then. Only what `carried`
    /// has, ascending places in the new table that kept their backend and what they remember, goes on.
    #[must_use]
    pub fn carry(&self, before: u32, after: u32, carried: &[u32]) -> Self {
        let is_carried = |position: &u32| carried.binary_search(position).is_ok();
        let mut holds = Vec::new();
        for hold in &self.holds {
            let positions: Vec<u32> = hold
                .positions
                .iter()
                .flat_map(|position| successors(*position, before, after))
                .filter(is_carried)
                .collect();
            if !positions.is_empty() {
                holds.push(Hold {
                    until: hold.until,
                    positions,
                });
            }
        }
        Self { holds }
    }

    /// Takes up to `budget` places whose hold is over, and counts the budget down.
    pub fn take_due(&mut self, now: Instant, budget: &mut usize) -> Vec<u32> {
        let mut due = Vec::new();
        while let Some(first) = self.holds.first_mut().filter(|hold| hold.until <= now) {
            let rest = first.positions.len().saturating_sub(*budget);
            *budget -= first.positions.len() - rest;
            due.extend(first.positions.drain(rest..));
            if !first.positions.is_empty() {
                break;
            }
            self.holds.remove(0);
        }
        due
    }

    /// When the next hold is over.
    pub fn next_due(&self) -> Option<Instant> {
        self.holds.first().map(|hold| hold.until)
    }

    /// When the last hold is over.
    pub fn last_due(&self) -> Option<Instant> {
        self.holds.last().map(|hold| hold.until)
    }

    /// All places that remember.
    pub fn positions(&self) -> impl Iterator<Item = u32> + '_ {
        self.holds.iter().flat_map(|hold| hold.positions.iter().copied())
    }
}

/// The place in a table of `before` slots that the hashes of `position` in one of `after` slots had (`hash × count >> 32`).
/// Both are powers of two. Where a table shrinks, the first of the merged slots speaks for all.
pub fn predecessor(position: u32, before: u32, after: u32) -> u32 {
    (u64::from(position) * u64::from(before) / u64::from(after)) as u32
}

/// The places in a table of `after` slots whose [`predecessor`] is `position`.
fn successors(position: u32, before: u32, after: u32) -> std::ops::Range<u32> {
    let place = |position: u32| (u64::from(position) * u64::from(after)).div_ceil(u64::from(before)) as u32;
    place(position)..place(position + 1)
}

/// A table's range and what its slots remember.
#[derive(Clone, Copy, Debug)]
pub struct Predecessor<'a> {
    /// Its slots.
    pub range: Range,
    /// Those that remember.
    pub holds: &'a Holds,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn every_slot_of_a_larger_table_has_one_before_it() {
        let before: Vec<u32> = (0..8).map(|position| predecessor(position, 4, 8)).collect();
        assert_eq!(before, [0, 0, 1, 1, 2, 2, 3, 3]);
        let merged: Vec<u32> = (0..2).map(|position| predecessor(position, 8, 2)).collect();
        assert_eq!(merged, [0, 4], "the first of those that were merged");
    }

    #[test]
    fn successors_are_the_inverse() {
        for (before, after) in [(1, 8), (4, 8), (8, 8), (8, 2), (8, 1)] {
            for position in 0..before {
                let expected: Vec<u32> = (0..after)
                    .filter(|later| predecessor(*later, before, after) == position)
                    .collect();
                assert_eq!(successors(position, before, after).collect::<Vec<_>>(), expected);
            }
        }
    }

    #[test]
    fn holds_end_in_their_order_and_within_the_budget() {
        let start = Instant::now();
        let mut holds = Holds::default();
        holds.add(at(start, 10), vec![1, 2, 3]);
        holds.add(at(start, 20), vec![5]);
        assert!(holds.take_due(at(start, 9), &mut 100).is_empty());
        let mut budget = 2;
        assert_eq!(holds.take_due(at(start, 30), &mut budget), [2, 3]);
        assert_eq!(budget, 0);
        assert_eq!(holds.next_due(), Some(at(start, 10)));
        let mut budget = 100;
        assert_eq!(holds.take_due(at(start, 30), &mut budget), [1, 5]);
        assert_eq!((budget, holds.is_empty()), (98, true));
    }

    #[test]
    fn a_hold_goes_on_in_a_larger_table_at_its_own_time() {
        let start = Instant::now();
        let mut holds = Holds::default();
        holds.add(at(start, 10), vec![0, 3]);
        let mut next = holds.carry(4, 8, &[0, 6, 7]);
        next.add(at(start, 20), vec![1]);
        assert_eq!(next.take_due(at(start, 10), &mut 100), [0, 6, 7]);
        assert_eq!(next.next_due(), Some(at(start, 20)));
    }
}
