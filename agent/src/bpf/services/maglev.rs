//! Maglev consistent hashing: which backend each slot of a service's table holds.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4. Every backend has
//! a preference list of the slots, a permutation made from two hashes of its identity; backends take turns in claiming
//! their most preferred slot that is still free. So shares differ by at most one slot, and a backend that comes or goes
//! moves few slots but its own. The order of the backends and of map indexes does not matter: two nodes with the same
//! endpoints build the same table.

use super::super::desired::BackendId;

/// Table sizes: primes, roughly doubling, so that a service that grows changes size rarely.
const SIZES: [u32; 18] = [
    7, 13, 31, 61, 127, 251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071, 262_139, 524_287,
    1_048_573,
];

/// The largest table, unless there are more backends than slots in it. The paper's own large size is 65,537.
const LARGEST_BY_CHOICE: u32 = 131_071;

/// Slots for each backend where there is room: 100, as in the paper, keeps shares within one per cent of each other.
pub const SLOTS_PER_BACKEND: u32 = 100;

/// Table sizes for so many backends with at least `per_backend` slots for each, best first, then smaller and coarser ones
/// for when there is no room.
///
/// One backend needs one slot. More backends than the largest prime get no table.
pub fn sizes(backends: usize, per_backend: u32) -> Vec<u32> {
    let Ok(backends) = u32::try_from(backends) else {
        return Vec::new();
    };
    match backends {
        0 => vec![0],
        1 => vec![1],
        _ => {
            let wanted = backends
                .saturating_mul(per_backend)
                .min(LARGEST_BY_CHOICE)
                .max(backends);
            let best = SIZES.iter().position(|size| *size >= wanted);
            let fitting = best.map_or(&[][..], |best| &SIZES[..=best]);
            fitting.iter().rev().copied().filter(|size| *size >= backends).collect()
        }
    }
}

/// The table: for each slot the position in `backends` of its backend.
///
/// `size` is 1 or a prime, and at least the number of backends; empty when there are no backends.
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

/// A walk over all slots in one backend's order of preference: offset, offset + skip, … modulo a prime.
struct Preference {
    next: u32,
    skip: u32,
}

impl Preference {
    fn new(id: &BackendId, size: u32) -> Self {
        let offset = hash(id, 0x6f66_6673_6574);
        let skip = hash(id, 0x736b_6970);
        let size = u64::from(size);
        // Remainders of a u32 fit in a u32. A table of one slot has nothing to skip to.
        Self {
            next: (offset % size) as u32,
            skip: if size > 1 { (skip % (size - 1)) as u32 + 1 } else { 0 },
        }
    }

    fn advance(&mut self, size: u32) -> u32 {
        let slot = self.next;
        self.next = ((u64::from(self.next) + u64::from(self.skip)) % u64::from(size)) as u32;
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
        BackendId {
            address,
            port: 8080,
            protocol: Protocol::TCP,
            ready_always: false,
        }
    }

    fn holders(backends: &[BackendId], size: u32) -> Vec<BackendId> {
        table(backends, size)
            .into_iter()
            .map(|position| backends[position as usize])
            .collect()
    }

    fn is_prime(n: u32) -> bool {
        n >= 2 && (2..=n.isqrt()).all(|divisor| !n.is_multiple_of(divisor))
    }

    #[test]
    fn every_size_is_prime() {
        for size in SIZES {
            assert!(is_prime(size), "{size}");
        }
    }

    #[test]
    fn sizes_give_a_hundred_slots_each_and_fall_back_to_fewer() {
        assert_eq!(sizes(0, SLOTS_PER_BACKEND), [0]);
        assert_eq!(sizes(1, SLOTS_PER_BACKEND), [1]);
        assert_eq!(sizes(3, SLOTS_PER_BACKEND), [509, 251, 127, 61, 31, 13, 7]);
        assert_eq!(sizes(100, SLOTS_PER_BACKEND)[0], 16_381);
        assert_eq!(*sizes(100, SLOTS_PER_BACKEND).last().unwrap(), 127);
        assert_eq!(sizes(5_000, SLOTS_PER_BACKEND)[0], 131_071);
        assert_eq!(sizes(200_000, SLOTS_PER_BACKEND)[0], 262_139);
        assert_eq!(sizes(2_000_000, SLOTS_PER_BACKEND), [0; 0]);
    }

    proptest! {
        #[test]
        fn shares_differ_by_one_slot_at_most(ids in proptest::collection::hash_set(0_u32..60_000, 1..150)) {
            let backends: Vec<_> = ids.into_iter().map(id).collect();
            let size = sizes(backends.len(), SLOTS_PER_BACKEND)[0];
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
            let size = sizes(backends.len(), SLOTS_PER_BACKEND)[0];
            let forward = holders(&backends, size);
            backends.reverse();
            prop_assert_eq!(forward, holders(&backends, size));
        }

        /// The paper's figure: at this ratio of slots to backends, a removal moves only a few per cent beyond the share
        /// of the backend that went.
        #[test]
        fn a_backend_that_goes_moves_few_other_slots(
            ids in proptest::collection::hash_set(0_u32..60_000, 3..80),
            victim in any::<proptest::sample::Index>(),
        ) {
            let backends: Vec<_> = ids.into_iter().map(id).collect();
            let size = sizes(backends.len(), SLOTS_PER_BACKEND)[0];
            let before = holders(&backends, size);
            let mut rest = backends.clone();
            let gone = rest.remove(victim.index(rest.len()));
            let after = holders(&rest, size);
            let moved = before.iter().zip(&after).filter(|(b, a)| **b != gone && b != a).count();
            prop_assert!(moved <= before.len() / 10, "{moved} of {} slots moved", before.len());
        }
    }
}
