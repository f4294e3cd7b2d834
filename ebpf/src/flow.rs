//! Keys, hashes and states of flows.

use causeway_abi::{
    Address,
    conntrack::{
        DIRECTION_FORWARD, DIRECTION_REPLY, Flow, FlowKey, HAIRPIN_V4, HAIRPIN_V6, TCP_CLOSING, TCP_ESTABLISHED,
        TCP_RESET, TCP_SYN_SENT, timeout_seconds,
    },
    service::{NO_BACKEND, Service, ServiceKey},
};
use zerocopy::{Immutable, IntoBytes};

use crate::parse::{Headers, protocol, tcp_flags};

/// What a packet's source and destination become.
#[derive(Clone, Copy, PartialEq, Eq, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct Translation {
    /// New source address.
    pub source: Address,
    /// New destination address.
    pub destination: Address,
    /// New source port, network byte order.
    pub source_port_be: u16,
    /// New destination port, network byte order.
    pub destination_port_be: u16,
    /// The service's id.
    pub service_id: u32,
    /// Index into `BACKENDS`.
    pub backend: u32,
}

impl Translation {
    /// To nowhere.
    pub const NONE: Self = Self {
        source: Address::from_words([0; 4]),
        destination: Address::from_words([0; 4]),
        source_port_be: 0,
        destination_port_be: 0,
        service_id: 0,
        backend: NO_BACKEND,
    };

    /// To where the packet is going already.
    #[inline(always)]
    pub const fn none(headers: &Headers) -> Self {
        Self {
            source: headers.source,
            destination: headers.destination,
            source_port_be: headers.source_port_be,
            destination_port_be: headers.destination_port_be,
            ..Self::NONE
        }
    }

    /// The same, on behalf of a service.
    #[inline(always)]
    pub const fn none_of(headers: &Headers, service: &Service) -> Self {
        Self {
            service_id: service.service_id,
            ..Self::none(headers)
        }
    }
}

/// The service a packet may be for, as seen from a scope.
#[inline(always)]
pub const fn service_key(headers: &Headers, scope: u8) -> ServiceKey {
    ServiceKey {
        address: headers.destination,
        port_be: headers.destination_port_be,
        protocol: headers.protocol,
        scope,
    }
}

/// A packet's flow, as its client sends it.
#[inline(always)]
pub const fn forward_key(headers: &Headers) -> FlowKey {
    key(headers, DIRECTION_FORWARD)
}

/// A packet's flow, as its backend answers it.
#[inline(always)]
pub const fn reply_key(headers: &Headers) -> FlowKey {
    key(headers, DIRECTION_REPLY)
}

#[inline(always)]
const fn key(headers: &Headers, direction: u8) -> FlowKey {
    FlowKey {
        source: headers.source,
        destination: headers.destination,
        source_port_be: headers.source_port_be,
        destination_port_be: headers.destination_port_be,
        protocol: headers.protocol,
        direction,
        reserved: 0,
    }
}

/// The key of the client's half of a flow.
#[inline(always)]
pub const fn forward_key_of(flow: &Flow, protocol: u8) -> FlowKey {
    FlowKey {
        source: flow.client,
        destination: flow.vip,
        source_port_be: flow.client_port_be,
        destination_port_be: flow.vip_port_be,
        protocol,
        direction: DIRECTION_FORWARD,
        reserved: 0,
    }
}

/// The key of the backend's half of a flow.
#[inline(always)]
pub const fn reply_key_of(flow: &Flow, protocol: u8) -> FlowKey {
    FlowKey {
        source: flow.backend_address,
        destination: flow.translated_client,
        source_port_be: flow.backend_port_be,
        destination_port_be: flow.translated_client_port_be,
        protocol,
        direction: DIRECTION_REPLY,
        reserved: 0,
    }
}

/// What a client's packet becomes.
#[inline(always)]
pub const fn to_backend(flow: &Flow) -> Translation {
    Translation {
        source: flow.translated_client,
        destination: flow.backend_address,
        source_port_be: flow.translated_client_port_be,
        destination_port_be: flow.backend_port_be,
        service_id: flow.service_id,
        backend: flow.backend,
    }
}

/// What a backend's packet becomes.
#[inline(always)]
pub const fn to_client(flow: &Flow) -> Translation {
    Translation {
        source: flow.vip,
        destination: flow.client,
        source_port_be: flow.vip_port_be,
        destination_port_be: flow.client_port_be,
        service_id: flow.service_id,
        backend: flow.backend,
    }
}

/// The source address a pod is to see when it reaches itself through a VIP: from its own, it would answer itself directly.
#[inline(always)]
pub fn hairpin_source(client: &Address) -> Address {
    if client.to_v4().is_some() {
        Address::from_v4(HAIRPIN_V4)
    } else {
        Address::new(HAIRPIN_V6)
    }
}

/// Ports tried for the client of a new flow, as its backend sees it.
pub const PORT_ATTEMPTS: u32 = 16;
/// From this attempt on, a port may be taken from a flow that both sides have closed.
pub const PORT_ATTEMPTS_STRICT: u32 = 8;

/// The client port that the backend sees, for each attempt; network byte order.
///
/// It is one that Linux gives to no socket by itself (those are 32768 to 60999, `net.ipv4.ip_local_port_range`): the same
/// client may reach the same backend directly, from a socket whose `connect` was balanced, and no table knows of that
/// connection. Nor is it the backend's own port, which the client may have bound for the same protocol.
///
/// Each of Linux's ports has one of its own, the first that is tried. So a port comes back only when the client's comes back,
/// and what the client's kernel does to make an early return safe, with sequence numbers and timestamps that go up from one
/// connection to the next, holds for the backend too. The other attempts are for clients that bind other ports, and for
/// those who use one port with several VIPs.
#[inline(always)]
pub const fn translated_port_be(port_be: u16, backend_port_be: u16, hash: u32, attempt: u32) -> u16 {
    let client = u16::from_be(port_be) as u32;
    let place = if attempt == 0 && client >= EPHEMERAL && client < ABOVE {
        client - EPHEMERAL
    } else if attempt < PORT_ATTEMPTS_STRICT {
        OWN + ((hash >> 1) % (PLACES - OWN) + attempt * 1_009) % (PLACES - OWN)
    } else {
        ((hash >> 1) % PLACES + attempt * 7_919) % PLACES
    };
    let port_be = port_at(place);
    if port_be == backend_port_be {
        port_at((place + 1) % PLACES)
    } else {
        port_be
    }
}

/// The first port that Linux gives to sockets by itself.
const EPHEMERAL: u32 = 32_768;
/// The first one above those.
const ABOVE: u32 = 61_000;
/// The first one below those that translated clients get; ports under it belong to servers.
const BELOW: u32 = 1_024;
/// How many translated clients get.
const PLACES: u32 = EPHEMERAL - BELOW + 65_536 - ABOVE;
/// So many of them stand for one port each.
const OWN: u32 = ABOVE - EPHEMERAL;

#[inline(always)]
const fn port_at(place: u32) -> u16 {
    let port = if place < EPHEMERAL - BELOW {
        BELOW + place
    } else {
        ABOVE + place - (EPHEMERAL - BELOW)
    };
    (port as u16).to_be()
}

/// Ports tried for a flow that gets an address of the node as its source.
pub const NODE_PORT_ATTEMPTS: u32 = 16;

/// The port at the node's address for each attempt; network byte order.
///
/// 10000 to 29999: below the ports that Linux gives to the node's own sockets (32768 and up) and below those of `NodePort`
/// services (30000 to 32767 unless configured otherwise), above those of well-known listeners. With half of the ports to
/// one destination taken, one flow in 65,000 finds none.
#[inline(always)]
pub const fn node_port_be(hash: u32, attempt: u32) -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    // A step that has no divisor in common with the count reaches every port.
    let place = (hash >> 1) % COUNT + attempt * 7_919;
    ((FIRST + place % COUNT) as u16).to_be()
}

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

/// The state of one half of a flow after a packet of its own side.
///
/// `answered` tells whether the other side was seen.
#[inline(always)]
pub const fn next_state(state: u8, protocol: u8, flags: u8, answered: bool) -> u8 {
    if protocol == protocol::TCP && flags & tcp_flags::RST != 0 {
        TCP_RESET
    } else if protocol == protocol::TCP && flags & tcp_flags::FIN != 0 && state != TCP_RESET {
        TCP_CLOSING
    } else if state == TCP_SYN_SENT && answered {
        TCP_ESTABLISHED
    } else {
        state
    }
}

/// Whether a state is one that a connection does not come back from.
#[inline(always)]
pub const fn is_closing(tcp_state: u8) -> bool {
    matches!(tcp_state, TCP_CLOSING | TCP_RESET)
}

/// Whether half a flow has been silent for too long.
#[inline(always)]
pub const fn expired(flow: &Flow, protocol: u8, now_ns: u64) -> bool {
    now_ns > flow.last_seen_ns + timeout_seconds(protocol, flow.tcp_state) * 1_000_000_000
}

/// Whether a flow with these halves is over: it lives as long as either side speaks, and closes when either has closed it.
#[inline(always)]
pub const fn both_expired(half: &Flow, other: &Flow, protocol: u8, now_ns: u64) -> bool {
    let last_seen_ns = if half.last_seen_ns > other.last_seen_ns {
        half.last_seen_ns
    } else {
        other.last_seen_ns
    };
    let (one, two) = (
        timeout_seconds(protocol, half.tcp_state),
        timeout_seconds(protocol, other.tcp_state),
    );
    now_ns > last_seen_ns + if one < two { one } else { two } * 1_000_000_000
}

/// Whether a client's packet begins another connection from the port of one that is closed.
#[inline(always)]
pub const fn begins_again(flow: &Flow, headers: &Headers) -> bool {
    headers.opens_connection() && is_closing(flow.tcp_state)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn flow(state: u8, last_seen_ns: u64) -> Flow {
        let address = |last| Address::from_v4([10, 0, 0, last]);
        Flow {
            last_seen_ns,
            backend: 3,
            generation: 1,
            vip: address(1),
            vip_port_be: 80_u16.to_be(),
            tcp_state: state,
            reserved: 0,
            service_id: 9,
            client: address(2),
            translated_client: address(2),
            backend_address: address(3),
            client_port_be: 4000_u16.to_be(),
            translated_client_port_be: 4001_u16.to_be(),
            backend_port_be: 8080_u16.to_be(),
            reserved2: 0,
        }
    }

    #[test]
    fn both_translations_are_inverse() {
        let flow = flow(TCP_SYN_SENT, 0);
        let forward = forward_key_of(&flow, protocol::TCP);
        let reply = reply_key_of(&flow, protocol::TCP);
        let out = to_backend(&flow);
        assert_eq!(
            (out.source, out.source_port_be),
            (reply.destination, reply.destination_port_be)
        );
        assert_eq!(
            (out.destination, out.destination_port_be),
            (reply.source, reply.source_port_be)
        );
        let back = to_client(&flow);
        assert_eq!(
            (back.source, back.source_port_be),
            (forward.destination, forward.destination_port_be)
        );
        assert_eq!(
            (back.destination, back.destination_port_be),
            (forward.source, forward.source_port_be)
        );
    }

    #[test]
    fn a_pod_reaching_itself_is_given_another_source() {
        let pod = Address::from_v4([10, 244, 0, 5]);
        assert_eq!(hairpin_source(&pod), Address::from_v4(HAIRPIN_V4));
        assert_eq!(hairpin_source(&Address::new([0xfd; 16])), Address::new(HAIRPIN_V6));
    }

    #[test]
    fn states_follow_the_packets() {
        let next = |state, flags, answered| next_state(state, protocol::TCP, flags, answered);
        assert_eq!(next(TCP_SYN_SENT, tcp_flags::SYN, false), TCP_SYN_SENT);
        assert_eq!(
            next(TCP_SYN_SENT, tcp_flags::SYN | tcp_flags::ACK, true),
            TCP_ESTABLISHED
        );
        assert_eq!(next(TCP_ESTABLISHED, tcp_flags::ACK, true), TCP_ESTABLISHED);
        assert_eq!(
            next(TCP_ESTABLISHED, tcp_flags::FIN | tcp_flags::ACK, true),
            TCP_CLOSING
        );
        assert_eq!(next(TCP_SYN_SENT, tcp_flags::RST, false), TCP_RESET);
        assert_eq!(next(TCP_CLOSING, tcp_flags::ACK, true), TCP_CLOSING);
        assert_eq!(next(TCP_CLOSING, tcp_flags::RST, true), TCP_RESET);
        assert_eq!(next(TCP_RESET, tcp_flags::FIN | tcp_flags::ACK, true), TCP_RESET);
        // The byte where TCP has its flags means nothing in a UDP packet.
        assert_eq!(next_state(TCP_SYN_SENT, protocol::UDP, 0xff, true), TCP_ESTABLISHED);
    }

    #[test]
    fn silence_ends_a_flow() {
        let second = 1_000_000_000;
        assert!(!expired(&flow(TCP_ESTABLISHED, 0), protocol::TCP, 7_999 * second));
        assert!(expired(&flow(TCP_ESTABLISHED, 0), protocol::TCP, 8_001 * second));
        assert!(expired(&flow(TCP_SYN_SENT, 0), protocol::UDP, 61 * second));
    }

    #[test]
    fn a_flow_is_over_when_both_sides_are_silent_or_one_has_closed() {
        let over = |one: (u8, u64), two: (u8, u64), now: u64| {
            let half = |(state, seen): (u8, u64)| flow(state, seen * 1_000_000_000);
            both_expired(&half(one), &half(two), protocol::TCP, now * 1_000_000_000)
        };
        assert!(!over((TCP_ESTABLISHED, 0), (TCP_ESTABLISHED, 5_000), 9_000));
        assert!(!over((TCP_ESTABLISHED, 5_000), (TCP_ESTABLISHED, 0), 9_000));
        assert!(over((TCP_ESTABLISHED, 5_000), (TCP_ESTABLISHED, 0), 13_001));
        assert!(over((TCP_ESTABLISHED, 0), (TCP_CLOSING, 0), 61));
        assert!(!over((TCP_ESTABLISHED, 2), (TCP_CLOSING, 0), 61));
    }

    #[test]
    fn every_port_that_linux_gives_away_has_a_translation_of_its_own() {
        let backend_port_be = 443_u16.to_be();
        let ports: BTreeSet<u16> = (32_768..61_000_u16)
            .map(|port| u16::from_be(translated_port_be(port.to_be(), backend_port_be, 0, 0)))
            .collect();
        assert_eq!(ports.len(), 61_000 - 32_768);
        assert_eq!((ports.first(), ports.last()), (Some(&1_024), Some(&29_255)));
    }

    proptest! {
        #[test]
        fn node_ports_are_in_their_range_and_differ(hash in any::<u32>()) {
            let ports: BTreeSet<u16> = (0..NODE_PORT_ATTEMPTS).map(|attempt| u16::from_be(node_port_be(hash, attempt))).collect();
            prop_assert_eq!(ports.len(), NODE_PORT_ATTEMPTS as usize);
            prop_assert!(ports.iter().all(|port| (10_000..30_000).contains(port)));
        }

        #[test]
        fn translated_ports_are_none_of_a_sockets_and_differ(
            port_be in any::<u16>(), backend_port_be in any::<u16>(), hash in any::<u32>()
        ) {
            let ports: std::vec::Vec<u16> = (0..PORT_ATTEMPTS)
                .map(|attempt| u16::from_be(translated_port_be(port_be, backend_port_be, hash, attempt)))
                .collect();
            for port in &ports {
                prop_assert!((1_024..32_768).contains(port) || *port >= 61_000, "{port}");
                prop_assert_ne!(port.to_be(), backend_port_be);
            }
            // Steps over the backend's port and overlapping ranges may make two the same.
            prop_assert!(ports.iter().collect::<BTreeSet<_>>().len() >= PORT_ATTEMPTS as usize / 2);
        }
    }

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
