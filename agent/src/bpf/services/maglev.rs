//! Maglev consistent hashing: which backend each slot of a service's table holds.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4. Every backend has
//! a preference list of the slots, a permutation made from two hashes of its identity; backends take turns in claiming
//! their most preferred slot that is still free. So shares differ by at most one slot, and a backend that comes or goes
//! moves few slots but its own. The order of the backends and of map indexes does not matter: two nodes with the same
//! endpoints and the same size build the same table.
//!
//! The paper takes prime sizes; here they are powers of two with odd skips, which walk over all slots as well, because
//! gcd(odd, 2^k) = 1. A hash finds its slot by `hash × size >> 32`, its highest bits, so slot i of a table lies in slot i / 2
//! of the table half as large: where a table grows, every new slot has exactly one old one.

use super::super::desired::BackendId;

/// The smallest and the largest table of more than one backend.
const SMALLEST: u32 = 8;
const LARGEST: u32 = 1 << 20;

/// The largest table, unless there are more backends than slots in it. The paper's own large size is 65,537.
const LARGEST_BY_CHOICE: u32 = 1 << 17;

/// A table that is this many times too large may shrink.
const SHRINKS_FROM: u32 = 4;

/// Slots for each backend where there is room: 100, as in the paper, keeps shares within one per cent of each other.
pub const SLOTS_PER_BACKEND: u32 = 100;

/// Table sizes for so many backends with at least `per_backend` slots for each, best first, then smaller and coarser ones
/// for when there is no room. A table of `current` slots does not shrink: a smaller one is another table, and what its slots
/// remember stands for only one of those that were merged ([`oversized`] tells when it is worth it).
///
/// One backend needs one slot. More backends than the largest table has slots get none.
pub fn sizes(backends: usize, per_backend: u32, current: u32) -> Vec<u32> {
    if backends == 0 {
        return vec![0];
    }
    let Some((fitting, smallest)) = fitting(backends, per_backend) else {
        return Vec::new();
    };
    std::iter::successors(Some(fitting.max(current)), |size| Some(size / 2))
        .take_while(|size| *size >= smallest)
        .collect()
}

/// Whether a table is so much too large that it may shrink.
pub fn oversized(backends: usize, per_backend: u32, current: u32) -> bool {
    fitting(backends, per_backend).is_some_and(|(fitting, _)| current / fitting >= SHRINKS_FROM)
}

/// The size that suits so many backends, and the smallest that could do.
fn fitting(backends: usize, per_backend: u32) -> Option<(u32, u32)> {
    let backends = u32::try_from(backends).ok().filter(|backends| *backends <= LARGEST)?;
    if backends <= 1 {
        return Some((1, 1));
    }
    let wanted = backends
        .saturating_mul(per_backend)
        .min(LARGEST_BY_CHOICE)
        .max(backends);
    let smallest = backends.next_power_of_two().max(SMALLEST);
    Some((wanted.next_power_of_two().max(smallest), smallest))
}

/// The table: for each slot the position in `backends` of its backend.
///
/// `size` is a power of two, and at least the number of backends; empty when there are no backends.
pub fn table(backends: &[BackendId], size: u32) -> Vec<u32> {
    if backends.is_empty() || size == 0 {
        return Vec::new();
    }
    let mut turns: Vec<u32> = (0..backends.len() as u32).collect();
    turns.sort_unstable_by_key(|position| backends[*position as usize]);
    let mut preferences: Vec<Preference> = turns
        .iter()
        .map(|p| Preference::new(&backends[*p as usize], size))
        .collect();

    let mut table = vec![FREE; size as usize];
    let mut filled = 0;
    loop {
        for (turn, preference) in turns.iter().zip(&mut preferences) {
            let slot = loop {
                let slot = preference.advance(size) as usize;
                if table[slot] == FREE {
                    break slot;
                }
            };
            table[slot] = *turn;
            filled += 1;
            if filled == size {
                return table;
            }
        }
    }
}

const FREE: u32 = u32::MAX;

/// A walk over all slots in one backend's order of preference: offset, offset + skip, … modulo a power of two.
struct Preference {
    next: u32,
    skip: u32,
}

impl Preference {
    fn new(id: &BackendId, size: u32) -> Self {
        let mask = u64::from(size - 1);
        // Masked values fit a u32.
        Self {
            next: (hash(id, 0x6f66_6673_6574) & mask) as u32,
            skip: (hash(id, 0x736b_6970) & mask) as u32 | 1,
        }
    }

    fn advance(&mut self, size: u32) -> u32 {
        let slot = self.next;
        self.next = self.next.wrapping_add(self.skip) & (size - 1);
        slot
    }
}

/// FNV-1a over address, port and protocol, finished as in `MurmurHash3` (fmix64) because FNV's low bits alone are weak.
/// Fixed for good: nodes must agree on it.
fn hash(id: &BackendId, seed: u64) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325 ^ seed;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    match id.address {
        std::net::IpAddr::V4(v4) => feed(&v4.octets()),
        std::net::IpAddr::V6(v6) => feed(&v6.octets()),
    }
    feed(&id.port.to_be_bytes());
    feed(&[id.protocol.0]);
    let mut h = state;
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::IpAddr};

    use causeway_maps::Protocol;
    use proptest::prelude::*;

    use super::*;

    fn id(n: u32) -> BackendId {
        let address = IpAddr::from((0x0af4_0000 + n).to_be_bytes());
        BackendId::new(address, 8080, Protocol::TCP)
    }

    fn holders(backends: &[BackendId], size: u32) -> Vec<BackendId> {
        table(backends, size)
            .into_iter()
            .map(|position| backends[position as usize])
            .collect()
    }

    #[test]
    fn sizes_give_a_hundred_slots_each_and_fall_back_to_fewer() {
        let fresh = |backends| sizes(backends, SLOTS_PER_BACKEND, 0);
        assert_eq!(fresh(0), [0]);
        assert_eq!(fresh(1), [1]);
        assert_eq!(fresh(3), [512, 256, 128, 64, 32, 16, 8]);
        assert_eq!(fresh(100)[0], 16_384);
        assert_eq!(*fresh(100).last().unwrap(), 128);
        assert_eq!(fresh(5_000)[0], 131_072);
        assert_eq!(fresh(200_000)[0], 262_144);
        assert_eq!(fresh(1 << 20), [1 << 20]);
        assert_eq!(fresh(2_000_000), [0; 0]);
    }

    #[test]
    fn a_table_grows_by_itself_and_shrinks_when_it_is_four_times_too_large() {
        let size = |backends, current| sizes(backends, SLOTS_PER_BACKEND, current)[0];
        assert_eq!(size(3, 512), 512);
        assert_eq!(size(9, 512), 1024, "too small");
        assert_eq!(size(2, 1024), 1024, "too large, and yet each slot knows whose it was");
        assert_eq!(sizes(1, SLOTS_PER_BACKEND, 8), [8, 4, 2, 1]);
        assert_eq!(sizes(2, 10, 64), [64, 32, 16, 8], "less room to be had");
        let oversized = |backends, current| oversized(backends, SLOTS_PER_BACKEND, current);
        assert!(!oversized(2, 512) && oversized(2, 1024));
        assert!(!oversized(1, 1) && oversized(1, 8));
    }

    #[test]
    fn every_walk_comes_past_every_slot() {
        for size in [1, 2, 8, 64, 1024] {
            for n in 0..50 {
                let mut preference = Preference::new(&id(n), size);
                let mut seen: Vec<u32> = (0..size).map(|_| preference.advance(size)).collect();
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(0..size), "backend {n}, {size} slots: {seen:?}");
            }
        }
    }

    /// Over many sets of backends: how many slots a removal moves beyond those of the backend that went.
    #[test]
    fn powers_of_two_are_as_stable_as_primes() {
        let mut moved = 0;
        let mut stayed = 0;
        for round in 0..200 {
            let backends: Vec<_> = (0..10).map(|n| id(round * 10 + n)).collect();
            let before = holders(&backends, 1024);
            let after = holders(&backends[1..], 1024);
            for (before, after) in before.iter().zip(&after).filter(|(before, _)| **before != backends[0]) {
                *(if before == after { &mut stayed } else { &mut moved }) += 1;
            }
        }
        let percent = f64::from(moved) * 100.0 / f64::from(moved + stayed);
        // 2.7; with the prime 1,021 it would be 2.8.
        assert!(percent < 4.0, "{percent} per cent of the others' slots moved");
    }

    proptest! {
        #[test]
        fn shares_differ_by_one_slot_at_most(ids in proptest::collection::hash_set(0_u32..60_000, 1..150)) {
            let backends: Vec<_> = ids.into_iter().map(id).collect();
            let size = sizes(backends.len(), SLOTS_PER_BACKEND, 0)[0];
            let mut shares = HashMap::<u32, usize>::new();
            for position in table(&backends, size) {
                *shares.entry(position).or_default() += 1;
            }
            prop_assert_eq!(shares.len(), backends.len());
            let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
            prop_assert!(most - least <= 1, "{least}..{most}");
        }

        #[test]
        fn order_does_not_matter(ids in proptest::collection::vec(0_u32..60_000, 2..30)) {
            let mut backends: Vec<_> = ids.into_iter().map(id).collect();
            backends.sort();
            backends.dedup();
            let size = sizes(backends.len(), SLOTS_PER_BACKEND, 0)[0];
            let forward = holders(&backends, size);
            backends.reverse();
            prop_assert_eq!(forward, holders(&backends, size));
        }
    }

    /// The paper's figure: at this ratio of slots to backends, a removal moves only a few per cent beyond the share of the backend
    /// that went. Seldom more, so that it is a mean that can be held to.
    #[test]
    fn a_backend_that_goes_moves_few_other_slots() {
        let mut per_mille = Vec::new();
        for count in [3, 5, 10, 20, 40, 80] {
            let backends: Vec<_> = (0..count).map(|number| id(number * 7)).collect();
            let size = sizes(backends.len(), SLOTS_PER_BACKEND, 0)[0];
            let before = holders(&backends, size);
            for victim in 0..backends.len().min(10) {
                let mut rest = backends.clone();
                let gone = rest.remove(victim);
                let after = holders(&rest, size);
                let moved = before.iter().zip(&after).filter(|(b, a)| **b != gone && b != a).count();
                per_mille.push(moved * 1_000 / before.len());
            }
        }
        let mean = per_mille.iter().sum::<usize>() / per_mille.len();
        assert!(mean < 50, "{mean} of 1000 slots moved");
    }
}
