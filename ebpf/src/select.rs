//! Which backend a new flow gets.
//!
//! A service owns a range of slots, its Maglev table. A hash picks a slot; when that slot's backend does not take
//! connections, a few further slots are tried, and then all of them, so that a service with one ready backend is always
//! reached. Terminating backends that still answer are the last resort.

use causeway_abi::{
    backend::{IN_USE, READY, TERMINATING},
    service::Service,
};

/// Slots tried after the first before all are searched. Neighbouring slots of a Maglev table belong to unrelated
/// backends, so with half of them unready 1 flow in 32 comes to the search.
pub const FURTHER_SLOTS: u32 = 4;

/// What a backend's flags say about new flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Eligibility {
    /// Takes them.
    Ready,
    /// Takes them when nobody else does.
    LastResort,
    /// Takes none.
    No,
}

/// Judges a backend by its flags.
#[inline(always)]
pub const fn eligibility(flags: u32) -> Eligibility {
    if flags & (IN_USE | READY) != IN_USE | READY {
        Eligibility::No
    } else if flags & TERMINATING != 0 {
        Eligibility::LastResort
    } else {
        Eligibility::Ready
    }
}

/// The slot a hash points to. Multiplying instead of dividing keeps the spread and costs one cycle.
#[inline(always)]
pub const fn slot(service: &Service, hash: u32) -> u32 {
    service.slot_base + offset(service, hash)
}

/// The slot `step` places after the one a hash points to, going round.
#[inline(always)]
pub const fn slot_after(service: &Service, hash: u32, step: u32) -> u32 {
    let place = offset(service, hash) + step;
    // `step` is smaller than the count wherever it matters, so one subtraction is a modulo.
    service.slot_base
        + if place >= service.slot_count {
            place - service.slot_count
        } else {
            place
        }
}

#[inline(always)]
const fn offset(service: &Service, hash: u32) -> u32 {
    ((hash as u64 * service.slot_count as u64) >> 32) as u32
}

/// Tries the slot of a hash and the few after it; the backend's index, and how many slots were tried in vain. `at` gives the
/// backend index and flags of a slot.
#[inline(always)]
pub fn quick(service: &Service, hash: u32, at: impl Fn(u32) -> Option<(u32, u32)>) -> Option<(u32, u32)> {
    for step in 0..=FURTHER_SLOTS {
        if step >= service.slot_count {
            break;
        }
        if let Some((backend, flags)) = at(slot_after(service, hash, step))
            && matches!(eligibility(flags), Eligibility::Ready)
        {
            return Some((backend, step));
        }
    }
    None
}

/// The search over all slots, one step at a time because BPF loops by call-back.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    service: Service,
    hash: u32,
    /// The best backend so far.
    pub found: Option<u32>,
    /// Slots that were looked at in vain.
    pub skipped: u32,
}

impl Search {
    /// A search that starts behind the slot of a hash.
    #[inline(always)]
    pub const fn new(service: Service, hash: u32) -> Self {
        Self {
            service,
            hash,
            found: None,
            skipped: 0,
        }
    }

    /// Looks at one slot; true when the search is over.
    #[inline(always)]
    pub fn step(&mut self, step: u32, at: impl Fn(u32) -> Option<(u32, u32)>) -> bool {
        let Some((backend, flags)) = at(slot_after(&self.service, self.hash, step)) else {
            return false;
        };
        self.skipped = step;
        match eligibility(flags) {
            Eligibility::Ready => {
                self.found = Some(backend);
                true
            }
            Eligibility::LastResort => {
                if self.found.is_none() {
                    self.found = Some(backend);
                }
                false
            }
            Eligibility::No => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    fn service(count: u32) -> Service {
        Service {
            slot_base: 100,
            slot_count: count,
            service_id: 1,
            flags: 0,
            affinity_seconds: 0,
        }
    }

    fn choose(service: &Service, hash: u32, flags: &[u32]) -> Option<u32> {
        let at = |slot: u32| {
            assert!((service.slot_base..service.slot_base + service.slot_count).contains(&slot));
            let backend = (slot - service.slot_base) % flags.len() as u32;
            Some((backend, flags[backend as usize]))
        };
        quick(service, hash, at).map(|(backend, _)| backend).or_else(|| {
            let mut search = Search::new(*service, hash);
            for step in 0..service.slot_count {
                if search.step(step, at) {
                    break;
                }
            }
            search.found
        })
    }

    const UP: u32 = IN_USE | READY;

    #[test]
    fn an_empty_service_has_no_backend() {
        assert_eq!(choose(&service(0), 7, &[UP]), None);
    }

    #[test]
    fn terminating_backends_are_taken_only_when_no_other_is_ready() {
        let leaving = UP | TERMINATING;
        for hash in [0, 1 << 30, u32::MAX] {
            assert_eq!(choose(&service(16), hash, &[leaving, UP]), Some(1));
            assert_eq!(choose(&service(16), hash, &[leaving, IN_USE]), Some(0));
            assert_eq!(choose(&service(16), hash, &[IN_USE | TERMINATING, IN_USE]), None);
        }
    }

    #[test]
    fn a_free_element_is_never_taken() {
        assert_eq!(choose(&service(4), 0, &[READY]), None);
    }

    proptest! {
        #[test]
        fn one_ready_backend_is_always_found(count in 1u32..600, backends in 1usize..64, ready in any::<u32>(), hash in any::<u32>()) {
            let backends = backends.min(count as usize);
            let ready = ready as usize % backends;
            let mut flags = vec![IN_USE; backends];
            flags[ready] = UP;
            prop_assert_eq!(choose(&service(count), hash, &flags), Some(ready as u32));
        }

        #[test]
        fn an_unready_backend_is_never_taken(flags in proptest::collection::vec(0u32..16, 1..20), hash in any::<u32>()) {
            let chosen = choose(&service(61), hash, &flags);
            let states: Vec<_> = flags.iter().map(|flags| eligibility(*flags)).collect();
            match chosen {
                Some(backend) => prop_assert!(
                    states[backend as usize] == Eligibility::Ready
                        || states[backend as usize] == Eligibility::LastResort && !states.contains(&Eligibility::Ready)
                ),
                None => prop_assert!(states.iter().all(|state| *state == Eligibility::No)),
            }
        }

        #[test]
        fn hashes_spread_over_all_slots(count in 1u32..100_000, hash in any::<u32>()) {
            let slot = slot(&service(count), hash);
            prop_assert!((100..100 + count).contains(&slot));
        }
    }
}
