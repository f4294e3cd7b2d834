//! Service ids: small numbers that index `SERVICE_COUNTERS`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Ids 1 to `max`.
#[derive(Debug)]
pub struct ServiceIds {
    /// By id.
    used: Vec<bool>,
    next: u32,
    max: u32,
    /// Released ids, oldest first; they rest so that a program still counting for the old service is done.
    resting: VecDeque<(Instant, u32)>,
    /// Ids that were given back unused.
    unused: Vec<u32>,
    grace: Duration,
}

impl ServiceIds {
    /// All free.
    pub fn new(max: u32, grace: Duration) -> Self {
        Self {
            used: vec![false; max as usize + 1],
            next: 1,
            max,
            resting: VecDeque::new(),
            unused: Vec::new(),
            grace,
        }
    }

    /// Marks an id as used; false when it is used already or out of range.
    pub fn claim(&mut self, id: u32) -> bool {
        id >= 1 && id <= self.max && !std::mem::replace(&mut self.used[id as usize], true)
    }

    /// Takes an id: a new one while there are any, else the one that has rested longest.
    pub fn allocate(&mut self, now: Instant) -> Option<u32> {
        while let Some(id) = self.unused.pop() {
            if self.claim(id) {
                return Some(id);
            }
        }
        while self.next <= self.max {
            let id = self.next;
            self.next += 1;
            if self.claim(id) {
                return Some(id);
            }
        }
        let (since, id) = *self.resting.front()?;
        if now.duration_since(since) < self.grace {
            return None;
        }
        self.resting.pop_front();
        self.used[id as usize] = true;
        Some(id)
    }

    /// Gives back an id that no program has seen.
    pub fn release_unused(&mut self, id: u32) {
        self.used[id as usize] = false;
        self.unused.push(id);
    }

    /// Gives an id back.
    pub fn release(&mut self, id: u32, now: Instant) {
        self.used[id as usize] = false;
        if id < self.next {
            self.resting.push_back((now, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_used_once_and_again_only_after_a_rest() {
        let now = Instant::now();
        let grace = Duration::from_secs(5);
        let mut ids = ServiceIds::new(3, grace);
        assert!(ids.claim(2));
        assert!(!ids.claim(2) && !ids.claim(0) && !ids.claim(4));
        assert_eq!(
            (ids.allocate(now), ids.allocate(now), ids.allocate(now)),
            (Some(1), Some(3), None)
        );
        ids.release(2, now);
        assert_eq!(ids.allocate(now), None);
        assert_eq!(ids.allocate(now + grace), Some(2));
    }

    #[test]
    fn an_id_that_was_not_used_needs_no_rest() {
        let now = Instant::now();
        let mut ids = ServiceIds::new(1, Duration::from_secs(5));
        for _ in 0..3 {
            assert_eq!((ids.allocate(now), ids.allocate(now)), (Some(1), None));
            ids.release_unused(1);
        }
    }

    #[test]
    fn an_adopted_id_that_is_released_comes_back() {
        let now = Instant::now();
        let mut ids = ServiceIds::new(2, Duration::ZERO);
        assert!(ids.claim(2));
        ids.release(2, now);
        assert_eq!(
            (ids.allocate(now), ids.allocate(now), ids.allocate(now)),
            (Some(1), Some(2), None)
        );
    }
}
