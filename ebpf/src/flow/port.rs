//! Ports that clients get in translations.

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

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
}
