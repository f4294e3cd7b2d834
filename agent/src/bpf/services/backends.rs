//! Which index of `BACKENDS` belongs to which backend.
//!
//! An index is given to a backend, counted by the tables that point to it, and kept for a grace period after the last one
//! let go, so that established flows can end. Only then may it go to another backend, under the next generation.

use std::{
    collections::{VecDeque, hash_map},
    time::{Duration, Instant},
};

use super::super::desired::BackendId;
use crate::hash::HashMap;

/// The allocation of indexes.
#[derive(Debug)]
pub struct BackendIndexes {
    entries: Vec<Entry>,
    by_id: HashMap<BackendId, u32>,
    /// Indexes that had an owner and have none now, longest free first.
    freed: VecDeque<u32>,
    /// Indexes whose last reference went, for [`Self::retire_unreferenced`]. Some may have been taken up again.
    unreferenced: Vec<u32>,
    /// Indexes that were recovered and of which it is not known yet whether anybody wants them.
    recovered: Vec<u32>,
    /// Indexes nobody points to any more, with the time since when, oldest first. Some may have been taken up again.
    leaving: VecDeque<(Instant, u32)>,
    capacity: u32,
    grace: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    owner: Option<BackendId>,
    generation: u32,
    references: u32,
    left_at: Option<Instant>,
}

/// An index and the generation under which its owner holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Index in `BACKENDS`.
    pub index: u32,
    /// Generation of the owner.
    pub generation: u32,
}

impl BackendIndexes {
    /// Indexes 0 to `capacity` - 1, all free.
    pub fn new(capacity: u32, grace: Duration) -> Self {
        Self {
            entries: Vec::new(),
            by_id: HashMap::default(),
            freed: VecDeque::new(),
            unreferenced: Vec::new(),
            recovered: Vec::new(),
            leaving: VecDeque::new(),
            capacity,
            grace,
        }
    }

    /// Recovers one index from the map; to be called for 0, 1, 2, … in order. `owner` is `None` for a free element.
    pub fn recover(&mut self, owner: Option<BackendId>, generation: u32) {
        let index = self.entries.len() as u32;
        // Two elements for one backend cannot be told apart by flows; the first counts.
        let owner = owner.filter(|id| !self.by_id.contains_key(id));
        match owner {
            Some(id) => {
                self.by_id.insert(id, index);
                self.recovered.push(index);
            }
            None => self.freed.push_back(index),
        }
        self.entries.push(Entry {
            owner,
            generation,
            references: 0,
            left_at: None,
        });
    }

    /// Makes room for so many backends.
    pub fn reserve(&mut self, backends: usize) {
        let backends = backends.min(self.capacity as usize);
        self.by_id.reserve(backends.saturating_sub(self.by_id.len()));
        self.entries.reserve(backends.saturating_sub(self.entries.len()));
    }

    /// Where a backend is, if it has an index.
    pub fn held(&self, id: &BackendId) -> Option<Held> {
        let index = *self.by_id.get(id)?;
        Some(Held {
            index,
            generation: self.entries[index as usize].generation,
        })
    }

    /// The owner of an index.
    pub fn owner(&self, index: u32) -> Option<BackendId> {
        self.entries.get(index as usize)?.owner
    }

    /// Where a backend is, if anything references it.
    pub fn referenced(&self, id: &BackendId) -> Option<Held> {
        let held = self.held(id)?;
        (self.entries[held.index as usize].references > 0).then_some(held)
    }

    /// Counts one more reference to a backend, giving it an index if it has none. `None` when all are taken.
    pub fn acquire(&mut self, id: BackendId) -> Option<Held> {
        let index = match self.by_id.entry(id) {
            hash_map::Entry::Occupied(place) => *place.get(),
            hash_map::Entry::Vacant(place) => {
                *place.insert(allocate(id, &mut self.entries, &mut self.freed, self.capacity)?)
            }
        };
        let entry = &mut self.entries[index as usize];
        entry.references += 1;
        entry.left_at = None;
        Some(Held {
            index,
            generation: entry.generation,
        })
    }

    /// Counts one reference less.
    pub fn release(&mut self, id: &BackendId) {
        if let Some(&index) = self.by_id.get(id) {
            let references = &mut self.entries[index as usize].references;
            *references = references.saturating_sub(1);
            if *references == 0 {
                self.unreferenced.push(index);
            }
        }
    }

    /// Says that every table there is has been seen: who was recovered and has no reference by now has none.
    pub fn all_seen(&mut self) {
        self.unreferenced.append(&mut self.recovered);
    }

    /// Starts the grace period of every backend that nobody references, and answers those for which it starts now.
    pub fn retire_unreferenced(&mut self, now: Instant) -> Vec<(BackendId, Held)> {
        let mut retired = Vec::new();
        for index in self.unreferenced.drain(..) {
            let entry = &mut self.entries[index as usize];
            if entry.references == 0
                && entry.left_at.is_none()
                && let Some(id) = entry.owner
            {
                entry.left_at = Some(now);
                self.leaving.push_back((now, index));
                retired.push((
                    id,
                    Held {
                        index,
                        generation: entry.generation,
                    },
                ));
            }
        }
        retired
    }

    /// When the next grace period ends.
    pub fn next_due(&self) -> Option<Instant> {
        self.leaving.front().map(|(since, _)| *since + self.grace)
    }

    /// Frees one backend that has left long enough ago, and answers it.
    pub fn settle(&mut self, now: Instant) -> Option<(BackendId, Held)> {
        while let Some((since, index)) = self.leaving.front().copied()
            && now.duration_since(since) >= self.grace
        {
            self.leaving.pop_front();
            let entry = &mut self.entries[index as usize];
            // Taken up again, perhaps left again later: then a later entry of the queue speaks for it.
            if entry.left_at == Some(since)
                && let Some(id) = entry.owner.take()
            {
                entry.left_at = None;
                self.by_id.remove(&id);
                self.freed.push_back(index);
                let generation = entry.generation;
                return Some((id, Held { index, generation }));
            }
        }
        None
    }
}

/// Gives a free index to a backend.
fn allocate(id: BackendId, entries: &mut Vec<Entry>, freed: &mut VecDeque<u32>, capacity: u32) -> Option<u32> {
    let fresh = entries.len() as u32;
    let index = if let Some(index) = freed.pop_front() {
        index
    } else if fresh < capacity {
        entries.push(Entry::default());
        fresh
    } else {
        return None;
    };
    let entry = &mut entries[index as usize];
    // Generation 0 means "never used".
    let generation = entry.generation.wrapping_add(1).max(1);
    *entry = Entry {
        owner: Some(id),
        generation,
        references: 0,
        left_at: None,
    };
    Some(index)
}

#[cfg(test)]
mod tests {
    use causeway_maps::Protocol;

    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn id(port: u16) -> BackendId {
        BackendId::new("10.244.0.9".parse().unwrap(), port, Protocol::TCP)
    }

    #[test]
    fn a_backend_keeps_its_index_while_it_comes_and_goes() {
        let now = Instant::now();
        let mut indexes = BackendIndexes::new(4, GRACE);
        let first = indexes.acquire(id(1)).unwrap();
        indexes.release(&id(1));
        assert_eq!(indexes.retire_unreferenced(now), [(id(1), first)]);
        assert_eq!(indexes.retire_unreferenced(now), [], "only once");
        assert_eq!(indexes.acquire(id(1)), Some(first), "back within the grace period");
        assert_eq!(indexes.settle(now + GRACE), None, "it is in use again");
        assert_eq!(indexes.held(&id(1)), Some(first));
    }

    #[test]
    fn an_index_is_reused_only_after_the_grace_period_and_under_a_new_generation() {
        let now = Instant::now();
        let mut indexes = BackendIndexes::new(1, GRACE);
        let first = indexes.acquire(id(1)).unwrap();
        assert_eq!(indexes.acquire(id(2)), None, "full");
        indexes.release(&id(1));
        indexes.retire_unreferenced(now);
        assert_eq!(indexes.acquire(id(2)), None, "still in its grace period");
        assert_eq!(indexes.settle(now + GRACE), Some((id(1), first)));
        let second = indexes.acquire(id(2)).unwrap();
        assert_eq!((second.index, second.generation), (first.index, first.generation + 1));
    }

    #[test]
    fn generations_are_recovered() {
        let mut indexes = BackendIndexes::new(4, GRACE);
        indexes.recover(Some(id(1)), 7);
        indexes.recover(None, 3);
        assert_eq!(
            indexes.acquire(id(1)),
            Some(Held {
                index: 0,
                generation: 7
            })
        );
        assert_eq!(
            indexes.acquire(id(2)),
            Some(Held {
                index: 1,
                generation: 4
            })
        );
        assert_eq!(
            indexes.acquire(id(3)),
            Some(Held {
                index: 2,
                generation: 1
            })
        );
    }

    #[test]
    fn who_was_recovered_is_retired_only_when_all_tables_were_seen() {
        let now = Instant::now();
        let mut indexes = BackendIndexes::new(4, GRACE);
        indexes.recover(Some(id(1)), 7);
        indexes.recover(Some(id(2)), 1);
        indexes.acquire(id(2)).unwrap();
        assert_eq!(indexes.retire_unreferenced(now), []);
        indexes.all_seen();
        let first = indexes.held(&id(1)).unwrap();
        assert_eq!(indexes.retire_unreferenced(now), [(id(1), first)]);
    }

    #[test]
    fn two_references_are_two() {
        let mut indexes = BackendIndexes::new(4, GRACE);
        indexes.acquire(id(1)).unwrap();
        indexes.acquire(id(1)).unwrap();
        indexes.release(&id(1));
        assert_eq!(indexes.retire_unreferenced(Instant::now()), []);
    }
}
