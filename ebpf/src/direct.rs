//! Direct server return: the node that a client's packet reaches chooses the backend, and the backend's node answers.
//!
//! The packet travels between them in the tunnel, its addresses unchanged. What was chosen is said by the MAC addresses of the
//! inner Ethernet header, which mean nothing else there (RFC 7348, 5: they are of the overlay's own making): the destination
//! holds the backend's port, the source its IPv4 address. Both are locally administered unicast addresses (IEEE 802).

use causeway_abi::{
    conntrack::{TCP_CLOSING, TCP_ESTABLISHED, TCP_RESET, TCP_SYN_SENT, timeout_seconds},
    direct::DirectFlow,
};

use crate::parse::{protocol, tcp_flags};

/// What the first bytes of both addresses are.
const PREFIX: [u8; 2] = [0x02, 0xcd];

/// The backend that another node chose for a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// IPv4 address.
    pub address: [u8; 4],
    /// Port, network byte order.
    pub port_be: u16,
}

impl Chosen {
    /// Destination and source of the inner frame.
    #[inline(always)]
    pub const fn to_macs(self) -> [u8; 12] {
        let [a, b, c, d] = self.address;
        let [high, low] = self.port_be.to_ne_bytes();
        [
            PREFIX[0], PREFIX[1], 0, 0, high, low, //
            PREFIX[0], PREFIX[1], a, b, c, d,
        ]
    }

    /// What the addresses of an inner frame say; `None` for a frame of another kind.
    #[inline(always)]
    pub const fn from_macs(macs: [u8; 12]) -> Option<Self> {
        match macs {
            [0x02, 0xcd, 0, 0, high, low, 0x02, 0xcd, a, b, c, d] => Some(Self {
                address: [a, b, c, d],
                port_be: u16::from_ne_bytes([high, low]),
            }),
            _ => None,
        }
    }
}

/// The state of a flow after a packet of its client's, whose answers are not seen here.
#[inline(always)]
pub const fn next_state(state: u8, protocol: u8, flags: u8) -> u8 {
    if protocol != protocol::TCP {
        TCP_ESTABLISHED
    } else if flags & tcp_flags::RST != 0 {
        TCP_RESET
    } else if flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN {
        TCP_SYN_SENT
    } else if state == TCP_CLOSING || state == TCP_RESET {
        state
    } else if flags & tcp_flags::FIN != 0 {
        TCP_CLOSING
    } else {
        TCP_ESTABLISHED
    }
}

/// Whether a flow that was written down has been silent for too long.
#[inline(always)]
pub const fn expired(flow: &DirectFlow, protocol: u8, now_ns: u64) -> bool {
    now_ns > flow.last_seen_ns + timeout_seconds(protocol, flow.tcp_state) * 1_000_000_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_frames_say_nothing() {
        assert_eq!(
            Chosen::from_macs([2, b'c', b'w', 0, 0, 2, 2, b'c', b'w', 0, 0, 1]),
            None
        );
        assert_eq!(Chosen::from_macs([0xff; 12]), None);
    }

    #[test]
    fn states_follow_what_the_client_sends() {
        let next = |state, flags| next_state(state, protocol::TCP, flags);
        assert_eq!(next(TCP_SYN_SENT, tcp_flags::SYN), TCP_SYN_SENT);
        assert_eq!(next(TCP_SYN_SENT, tcp_flags::ACK), TCP_ESTABLISHED);
        assert_eq!(next(TCP_ESTABLISHED, tcp_flags::FIN | tcp_flags::ACK), TCP_CLOSING);
        assert_eq!(next(TCP_CLOSING, tcp_flags::ACK), TCP_CLOSING);
        assert_eq!(next(TCP_CLOSING, tcp_flags::RST), TCP_RESET);
        assert_eq!(next(TCP_RESET, tcp_flags::ACK), TCP_RESET);
        assert_eq!(next(TCP_RESET, tcp_flags::SYN), TCP_SYN_SENT, "another connection");
        assert_eq!(next_state(TCP_SYN_SENT, protocol::UDP, 0xff), TCP_ESTABLISHED);
    }

    #[test]
    fn silence_ends_a_flow_sooner_when_it_is_opening_or_closed() {
        let at = |tcp_state| DirectFlow {
            last_seen_ns: 1_000_000_000,
            backend: 1,
            generation: 1,
            tcp_state,
            reserved: [0; 7],
        };
        for (state, protocol, seconds) in [
            (TCP_SYN_SENT, protocol::TCP, 60),
            (TCP_ESTABLISHED, protocol::TCP, 8_000),
            (TCP_CLOSING, protocol::TCP, 60),
            (TCP_RESET, protocol::TCP, 60),
            (TCP_ESTABLISHED, protocol::UDP, 300),
        ] {
            let last = (1 + seconds) * 1_000_000_000;
            assert!(!expired(&at(state), protocol, last));
            assert!(expired(&at(state), protocol, last + 1));
        }
    }

    proptest! {
        #[test]
        fn what_is_said_is_understood(address in any::<[u8; 4]>(), port_be in any::<u16>()) {
            let chosen = Chosen { address, port_be };
            prop_assert_eq!(Chosen::from_macs(chosen.to_macs()), Some(chosen));
            // Unicast and locally administered.
            prop_assert!(chosen.to_macs()[0] & 3 == 2 && chosen.to_macs()[6] & 3 == 2);
        }
    }
}
