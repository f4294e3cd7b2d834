//! Direct server return: the node that a client's packet reaches chooses the backend, and the backend's node answers.
//!
//! The packet travels between them in the tunnel, its addresses unchanged. What was chosen is said by the MAC addresses of the
//! inner Ethernet header, which mean nothing else there (RFC 7348, 5: they are of the overlay's own making): the destination
//! holds the backend's port, the source its IPv4 address. Both are locally administered unicast addresses (IEEE 802).

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
