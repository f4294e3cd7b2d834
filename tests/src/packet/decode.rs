//! Frames read back, with every checksum verified.

use std::net::{IpAddr, SocketAddr};

use super::craft::{internet_checksum, transport_checksum};

/// A frame in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// Destination MAC address.
    pub to_mac: [u8; 6],
    /// Source MAC address.
    pub from_mac: [u8; 6],
    /// Source address; the port is 0 where the protocol has none.
    pub source: SocketAddr,
    /// Destination address.
    pub destination: SocketAddr,
    /// Transport protocol.
    pub protocol: u8,
    /// TCP flags.
    pub flags: u8,
    /// TCP sequence number.
    pub sequence: u32,
    /// TCP acknowledgement number.
    pub acknowledgement: u32,
    /// Whether a UDP datagram has a checksum at all.
    pub has_checksum: bool,
    /// What follows the transport header; for other protocols than TCP and UDP all that follows the IP header.
    pub payload: Vec<u8>,
}

impl Decoded {
    /// `source > destination`, the way most tests compare.
    pub fn path(&self) -> String {
        format!("{} > {}", self.source, self.destination)
    }
}

/// Reads a frame; panics when it is no whole, sound IP packet or a checksum is wrong.
pub fn decode(frame: &[u8]) -> Decoded {
    let ip = &frame[14..];
    let (source, destination, protocol, transport, whole) = match &frame[12..14] {
        [0x08, 0x00] => {
            let header = usize::from(ip[0] & 0x0f) * 4;
            let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            assert_eq!(
                internet_checksum(&[&ip[..header]]),
                0,
                "IPv4 header checksum of {frame:02x?}"
            );
            let octets = |at: usize| <[u8; 4]>::try_from(&ip[at..at + 4]).expect("four bytes");
            let whole = u16::from_be_bytes([ip[6], ip[7]]) << 2 == 0;
            (
                IpAddr::from(octets(12)),
                IpAddr::from(octets(16)),
                ip[9],
                &ip[header..length],
                whole,
            )
        }
        [0x86, 0xdd] => {
            let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            let (mut next, mut at, mut whole) = (ip[6], 40, true);
            while matches!(next, 0 | 43 | 44 | 60) {
                whole &= next != 44;
                let size = if next == 44 {
                    8
                } else {
                    (usize::from(ip[at + 1]) + 1) * 8
                };
                next = ip[at];
                at += size;
            }
            let octets = |at: usize| <[u8; 16]>::try_from(&ip[at..at + 16]).expect("sixteen bytes");
            (
                IpAddr::from(octets(8)),
                IpAddr::from(octets(24)),
                next,
                &ip[at..40 + length],
                whole,
            )
        }
        other => panic!("ethertype {other:02x?}"),
    };
    let mut decoded = Decoded {
        to_mac: frame[..6].try_into().expect("six bytes"),
        from_mac: frame[6..12].try_into().expect("six bytes"),
        source: SocketAddr::new(source, 0),
        destination: SocketAddr::new(destination, 0),
        protocol,
        flags: 0,
        sequence: 0,
        acknowledgement: 0,
        has_checksum: true,
        payload: transport.to_vec(),
    };
    let word = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
    let long = |at: usize| u32::from_be_bytes(transport[at..at + 4].try_into().expect("four bytes"));
    match protocol {
        6 => {
            decoded.flags = transport[13];
            (decoded.sequence, decoded.acknowledgement) = (long(4), long(8));
            decoded.payload = transport[usize::from(transport[12] >> 4) * 4..].to_vec();
        }
        17 => {
            decoded.has_checksum = word(6) != 0;
            decoded.payload = transport[8..].to_vec();
        }
        1 => assert_eq!(internet_checksum(&[transport]), 0, "ICMP checksum of {frame:02x?}"),
        _ => {}
    }
    if matches!(protocol, 6 | 17) {
        decoded.source.set_port(word(0));
        decoded.destination.set_port(word(2));
    }
    if whole && decoded.has_checksum && matches!(protocol, 6 | 17 | 58) {
        let sum = transport_checksum(source, destination, protocol, transport);
        assert_eq!(sum, 0, "transport checksum of {frame:02x?}");
    }
    decoded
}
