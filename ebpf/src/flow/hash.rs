//! Hashes of flows and clients: which of a service's slots a packet belongs to.

use causeway_abi::{Address, conntrack::FlowKey};

/// A hash of a flow; every node computes the same, and goes on doing so: with direct return, another hash in a later version would
/// take flows away from their backends.
///
/// Each word has a multiplier of its own, so that no product waits for another, and the sum is mixed once (multilinear hashing:
/// Lemire and Kaser, "Strongly universal string hashing is fast", 2014).
#[inline(always)]
pub const fn hash(key: &FlowKey) -> u32 {
    let ports = (key.source_port_be as u64) << 32 | (key.destination_port_be as u64) << 16 | key.protocol as u64;
    let sum = half(&key.source, 0)
        .wrapping_mul(MULTIPLIERS[0])
        .wrapping_add(half(&key.source, 2).wrapping_mul(MULTIPLIERS[1]))
        .wrapping_add(half(&key.destination, 0).wrapping_mul(MULTIPLIERS[2]))
        .wrapping_add(half(&key.destination, 2).wrapping_mul(MULTIPLIERS[3]))
        .wrapping_add(ports.wrapping_mul(MULTIPLIERS[4]));
    (mix(SEED, sum) >> 32) as u32
}

/// Where mixing begins: 2⁶⁴ divided by the golden ratio.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Odd numbers with about as many ones as zeros: the primes of XXH64 (Collet, 2014).
const MULTIPLIERS: [u64; 5] = [
    0x9e37_79b1_85eb_ca87,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0x85eb_ca77_c2b2_ae63,
    0x27d4_eb2f_1656_67c5,
];

/// A hash of a client alone, for services with session affinity.
#[inline(always)]
pub const fn client_hash(client: &Address) -> u32 {
    let state = mix(SEED, half(client, 0));
    (mix(state, half(client, 2)) >> 32) as u32
}

/// A hash of a number that identifies a client, such as a socket cookie.
#[inline(always)]
pub const fn cookie_hash(cookie: u64, vip: &Address, port_be: u16) -> u32 {
    let state = mix(SEED, cookie);
    (mix(mix(state, half(vip, 2)), port_be as u64) >> 32) as u32
}

/// One round of multiply and fold (the finaliser of splitmix64, Steele et al., 2014).
#[inline(always)]
const fn mix(state: u64, word: u64) -> u64 {
    let state = (state ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (state ^ (state >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

#[inline(always)]
const fn half(address: &Address, at: usize) -> u64 {
    let words = address.words();
    (words[at] as u64) << 32 | words[at + 1] as u64
}

#[cfg(test)]
mod tests {
    use causeway_abi::conntrack::TCP_SYN_SENT;

    use super::{
        super::{forward_key_of, tests::flow},
        *,
    };
    use crate::parse::protocol;

    /// χ² of how flows fall into 16 slots.
    fn unevenness(keys: impl Iterator<Item = FlowKey>) -> f64 {
        const SLOTS: u32 = 16;
        let mut counts = [0u32; SLOTS as usize];
        for key in keys {
            counts[((u64::from(hash(&key)) * u64::from(SLOTS)) >> 32) as usize] += 1;
        }
        let mean = f64::from(counts.iter().sum::<u32>()) / f64::from(SLOTS);
        counts
            .iter()
            .map(|count| (f64::from(*count) - mean).powi(2) / mean)
            .sum()
    }

    #[test]
    fn flows_spread_evenly_over_few_slots() {
        let key = forward_key_of(&flow(TCP_SYN_SENT, 0), protocol::TCP);
        let with_port = |key: FlowKey, port: u16| FlowKey {
            source_port_be: port.to_be(),
            ..key
        };
        let v4 = |third, fourth| FlowKey {
            source: Address::from_v4([10, 244, third, fourth]),
            ..key
        };
        let v6 = |at: usize, byte| {
            let mut bytes = [0xfd; 16];
            bytes[at] = byte;
            FlowKey {
                source: Address::new(bytes),
                ..key
            }
        };
        let ports = 32_768..33_768;
        let shapes = [
            (
                "one client, all ports",
                unevenness((1..=u16::MAX).map(|port| with_port(key, port))),
            ),
            (
                "every other port",
                unevenness((0..16_000).map(|i| with_port(key, 32_768 + 2 * i))),
            ),
            (
                "clients of a subnet, some ports",
                unevenness((0..32).flat_map(|i| ports.clone().map(move |port| with_port(v4(i, 7), port)))),
            ),
            (
                "clients of a network, one port",
                unevenness(
                    (0..=255).flat_map(|third| (0..=255).map(move |fourth| with_port(v4(third, fourth), 4_000))),
                ),
            ),
            (
                "clients that differ high in an IPv6 address",
                unevenness((0..32).flat_map(|i| ports.clone().map(move |port| with_port(v6(5, i), port)))),
            ),
            (
                "clients that differ low in an IPv6 address",
                unevenness((0..32).flat_map(|i| ports.clone().map(move |port| with_port(v6(15, i), port)))),
            ),
        ];
        for (shape, chi_squared) in shapes {
            // 15 degrees of freedom: 37.7 is exceeded by chance once in a thousand.
            assert!(chi_squared < 37.7, "{shape}: χ² {chi_squared}");
        }
    }
}
