//! How far a flow has come, and when it is over.

use causeway_abi::conntrack::{Flow, TCP_CLOSING, TCP_ESTABLISHED, TCP_RESET, TCP_SYN_SENT, timeout_seconds};

use crate::parse::{Headers, protocol, tcp_flags};

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
    use super::{super::tests::flow, *};

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
}
