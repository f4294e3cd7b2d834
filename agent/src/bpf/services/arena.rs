//! Which ranges of `SLOTS` belong to whom.
//!
//! Pure bookkeeping: the smallest free range that fits, neighbours merged. A freed range rests for a grace period before it is given out again,
//! because a BPF program may have read the old range from `SERVICES` just before the swap.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// A range of slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Range {
    /// First slot.
    pub base: u32,
    /// Number of slots; not 0.
    pub len: u32,
}

/// The arena.
#[derive(Debug)]
pub struct Arena {
    /// Free ranges: base → length; never adjacent.
    free: BTreeMap<u32, u32>,
    /// The same, by (length, base).
    by_len: BTreeSet<(u32, u32)>,
    /// Ranges that rest, oldest first.
    resting: VecDeque<(Instant, Range)>,
    grace: Duration,
    len: u32,
    free_slots: u32,
}

impl Arena {
    /// An arena of `len` slots, all free.
    pub fn new(len: u32, grace: Duration) -> Self {
        let mut arena = Self {
            free: BTreeMap::new(),
            by_len: BTreeSet::new(),
            resting: VecDeque::new(),
            grace,
            len,
            free_slots: len,
        };
        if len > 0 {
            arena.put(0, len);
        }
        arena
    }

    /// Marks a range as in use when the arena is rebuilt from what the maps hold. False, and nothing is marked, when it
    /// runs past the end or into a range that is in use.
    pub fn claim(&mut self, range: Range) -> bool {
        let Some((&base, &len)) = self.free.range(..=range.base).next_back() else {
            return false;
        };
        let Some(end) = range.base.checked_add(range.len) else {
            return false;
        };
        if end > base + len {
            return false;
        }
        self.take(base);
        self.free_slots -= range.len;
        if range.base > base {
            self.put(base, range.base - base);
        }
        if base + len > end {
            self.put(end, base + len - end);
        }
        true
    }

    /// Takes a free range of exactly `len` slots.
    pub fn allocate(&mut self, len: u32) -> Option<Range> {
        let (_, base) = *self.by_len.range((len, 0)..).next()?;
        let range = Range { base, len };
        self.claim(range).then_some(range)
    }

    /// Gives a range back at `now`; it can be taken again a grace period later.
    pub fn release(&mut self, range: Range, now: Instant) {
        self.resting.push_back((now, range));
    }

    /// Frees what has rested long enough.
    pub fn settle(&mut self, now: Instant) {
        while let Some((since, range)) = self.resting.front().copied()
            && now.duration_since(since) >= self.grace
        {
            self.resting.pop_front();
            self.merge(range);
        }
    }

    /// Number of slots.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it has no slots at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of free slots.
    pub fn free_slots(&self) -> u32 {
        self.free_slots
    }

    fn merge(&mut self, range: Range) {
        let Range { mut base, mut len } = range;
        self.free_slots += len;

        if let Some(next) = self.take(base + len) {
            len += next;
        }
        if let Some((&before, &before_len)) = self.free.range(..base).next_back()
            && before + before_len == base
        {
            self.take(before);
            base = before;
            len += before_len;
        }
        self.put(base, len);
    }

    fn put(&mut self, base: u32, len: u32) {
        self.free.insert(base, len);
        self.by_len.insert((len, base));
    }

    /// Takes out the free range that begins at `base`.
    fn take(&mut self, base: u32) -> Option<u32> {
        let len = self.free.remove(&base)?;
        self.by_len.remove(&(len, base));
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[test]
    fn a_released_range_rests_before_it_is_taken_again() {
        let start = Instant::now();
        let mut arena = Arena::new(10, GRACE);
        let range = arena.allocate(10).unwrap();
        arena.release(range, start);
        arena.settle(start + Duration::from_millis(4_999));
        assert_eq!(arena.allocate(1), None);
        arena.settle(start + GRACE);
        assert_eq!(arena.allocate(10), Some(range));
    }

    #[test]
    fn what_the_maps_hold_is_claimed_once() {
        let mut arena = Arena::new(100, GRACE);
        assert!(arena.claim(Range { base: 10, len: 20 }));
        assert!(!arena.claim(Range { base: 29, len: 1 }), "overlap");
        assert!(!arena.claim(Range { base: 5, len: 6 }), "overlap from below");
        assert!(!arena.claim(Range { base: 90, len: 11 }), "past the end");
        assert!(!arena.claim(Range { base: u32::MAX, len: 2 }), "overflow");
        assert_eq!(arena.free_slots(), 80);
    }

    proptest! {
        /// Whatever is taken and given back, no two live ranges overlap and in the end everything is free and whole.
        #[test]
        fn ranges_never_overlap(steps in proptest::collection::vec((1_u32..40, any::<proptest::sample::Index>()), 1..200)) {
            let mut now = Instant::now();
            let mut arena = Arena::new(500, GRACE);
            let mut live: Vec<Range> = Vec::new();
            for (len, index) in steps {
                now += Duration::from_secs(1);
                arena.settle(now);
                if let Some(range) = arena.allocate(len) {
                    prop_assert!(range.base + range.len <= 500);
                    for other in &live {
                        prop_assert!(range.base + range.len <= other.base || other.base + other.len <= range.base);
                    }
                    live.push(range);
                } else if !live.is_empty() {
                    arena.release(live.swap_remove(index.index(live.len())), now);
                }
            }
            for range in live {
                arena.release(range, now);
            }
            arena.settle(now + GRACE);
            prop_assert_eq!(arena.allocate(500), Some(Range { base: 0, len: 500 }));
        }
    }
}
