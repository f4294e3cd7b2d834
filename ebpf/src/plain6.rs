//! The packets of IPv6 that XDP forwards: whole ones of TCP or UDP without extension headers. As [`crate::plain`], in units of 16 bits.

use causeway_abi::Address;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    csum,
    parse::{L3, protocol},
    plain::word,
};

/// Ethernet, IPv6 and the ports; as it lies in the frame (RFC 8200, 3).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head6 {
    /// Destination and source MAC address.
    pub macs: [u16; 6],
    /// Type of what follows.
    pub ethertype: u16,
    /// Version, traffic class and flow label.
    pub version_and_flow: [u8; 4],
    /// Length of what follows the IPv6 header, network byte order.
    pub payload_length_be: u16,
    /// Protocol.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u16; 8],
    /// Destination address.
    pub destination: [u16; 8],
    /// Source port, network byte order.
    pub source_port_be: u16,
    /// Destination port, network byte order.
    pub destination_port_be: u16,
}
const _: () = assert!(size_of::<Head6>() == 58 && align_of::<Head6>() == 2);

/// Ethernet's type of IPv6, as it lies in a frame.
pub const IPV6: u16 = 0x86dd_u16.to_be();

#[inline(always)]
const fn address(at: [u16; 8]) -> Address {
    Address::from_words([
        word([at[0], at[1]]),
        word([at[2], at[3]]),
        word([at[4], at[5]]),
        word([at[6], at[7]]),
    ])
}

impl Head6 {
    /// Bytes of an IPv6 header.
    pub const IPV6_HEADER: u32 = 40;

    /// Whether this is a packet that XDP may forward: `length` bytes of frame are there.
    #[inline(always)]
    pub fn is_plain(&self, length: usize) -> bool {
        let least = match self.next_header {
            protocol::TCP => 20,
            protocol::UDP => 8,
            _ => return false,
        };
        let payload = self.payload_length();
        self.ethertype == IPV6
            && self.version_and_flow[0] >> 4 == 6
            && self.hop_limit > 1
            && payload >= least
            && u32::from(payload) + Self::IPV6_HEADER + L3 <= length as u32
    }

    /// Bytes of what follows the IPv6 header.
    #[inline(always)]
    pub const fn payload_length(&self) -> u16 {
        u16::from_be(self.payload_length_be)
    }

    /// The destination address.
    #[inline(always)]
    pub const fn destination_address(&self) -> Address {
        address(self.destination)
    }

    /// The source address.
    #[inline(always)]
    pub const fn source_address(&self) -> Address {
        address(self.source)
    }

    /// Gives the packet another source or destination; what the sum that the transport checksum is of grows by.
    #[inline(always)]
    pub fn replace(&mut self, by: &Address, is_destination: bool) -> u32 {
        if is_destination {
            replace8(&mut self.destination, by)
        } else {
            replace8(&mut self.source, by)
        }
    }

    /// Gives the packet other ports and lowers its hop limit, as a router does (RFC 8200, 3). Answers its transport checksum, which was
    /// `checksum` before its addresses changed, and its sum by `sum`.
    #[inline(always)]
    pub fn finish(&mut self, mut sum: u32, ports_be: [u16; 2], checksum: u16) -> u16 {
        sum += u32::from(!checksum);
        sum += u32::from(!self.source_port_be) + u32::from(ports_be[0]);
        sum += u32::from(!self.destination_port_be) + u32::from(ports_be[1]);
        [self.source_port_be, self.destination_port_be] = ports_be;
        self.hop_limit -= 1;
        let updated = csum::finish(sum);
        if self.next_header == protocol::UDP {
            csum::udp(checksum, updated)
        } else {
            updated
        }
    }
}

/// Replaces an address; what it adds to a sum.
#[inline(always)]
fn replace8(address: &mut [u16; 8], by: &Address) -> u32 {
    let words = by.words();
    let mut sum = 0;
    for i in 0..4 {
        let [first, second] = crate::plain::halves(words[i]);
        sum += u32::from(!address[2 * i]) + u32::from(first);
        sum += u32::from(!address[2 * i + 1]) + u32::from(second);
        [address[2 * i], address[2 * i + 1]] = [first, second];
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::parse::{Parsed, parse};

    fn sum(frame: &[u8]) -> u16 {
        // The pseudo header (RFC 8200, 8.1): addresses, length, protocol.
        let mut words = u32::from(u16::from_be_bytes([frame[18], frame[19]])) + u32::from(frame[20]);
        for pair in frame[22..].chunks(2) {
            words += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        while words > 0xffff {
            words = (words & 0xffff) + (words >> 16);
        }
        words as u16
    }

    /// A frame with right checksums.
    fn frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let transport = if protocol == protocol::TCP { 20 } else { 8 };
        let length = (transport + payload.len()) as u16;
        let mut frame = Vec::from([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 1, 2, 3]);
        frame.extend(length.to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend(Address::new([0x20; 16]).words().map(u32::to_ne_bytes).concat());
        frame.extend(Address::new([0x35; 16]).words().map(u32::to_ne_bytes).concat());
        frame.extend([0x9c, 0x40, 0, 80]);
        if protocol == protocol::TCP {
            frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            frame.extend(length.to_be_bytes());
            frame.extend([0, 0]);
        }
        frame.extend(payload);
        let at = checksum_at(protocol);
        let field = (!sum(&frame)).to_be_bytes();
        frame[at..at + 2].copy_from_slice(&field);
        frame
    }

    fn checksum_at(protocol: u8) -> usize {
        if protocol == protocol::TCP { 70 } else { 60 }
    }

    fn head(frame: &[u8]) -> Head6 {
        Head6::read_from_prefix(frame).unwrap().0
    }

    #[test]
    fn a_head_reads_as_every_other_program_reads_it() {
        for protocol in [protocol::TCP, protocol::UDP] {
            let frame = frame(protocol, b"odd");
            let head = head(&frame);
            assert!(head.is_plain(frame.len()));
            assert!(!head.is_plain(frame.len() - 1), "cut short");
            let Parsed::Ip(parsed) = parse(&frame[..]) else {
                panic!("no IP packet");
            };
            assert_eq!(
                (head.source_address(), head.source_port_be),
                (parsed.source, parsed.source_port_be)
            );
            assert_eq!(head.destination_address(), parsed.destination);
            assert_eq!(
                (head.destination_port_be, head.next_header),
                (parsed.destination_port_be, parsed.protocol)
            );
            assert_eq!(
                u32::from(head.payload_length()) + Head6::IPV6_HEADER,
                parsed.packet_length()
            );
        }
    }

    #[test]
    fn what_is_unusual_is_not_plain() {
        let good = frame(protocol::TCP, b"");
        for (at, value) in [(12, 8), (14, 0x40), (19, 19), (20, 58), (20, 0), (21, 1), (21, 0)] {
            let mut frame = good.clone();
            frame[at] = value;
            assert!(!head(&frame).is_plain(frame.len()), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn a_right_checksum_stays_right(
            tcp in any::<bool>(),
            payload in proptest::collection::vec(any::<u8>(), 0..40),
            addresses in any::<[[u8; 16]; 2]>(),
            ports in any::<[u16; 2]>(),
        ) {
            let protocol = if tcp { protocol::TCP } else { protocol::UDP };
            let mut frame = frame(protocol, &payload);
            let mut after = head(&frame);
            let at = checksum_at(protocol);
            let old = u16::from_ne_bytes([frame[at], frame[at + 1]]);
            let [source, destination] = addresses.map(Address::new);
            let grown = after.replace(&source, false) + after.replace(&destination, true);
            let new = after.finish(grown, ports, old);
            frame[..58].copy_from_slice(after.as_bytes());
            frame[at..at + 2].copy_from_slice(&new.to_ne_bytes());
            prop_assert_eq!(sum(&frame), 0xffff);
            prop_assert_eq!(after.hop_limit, 63);
            prop_assert_eq!(after.destination_address(), Address::new(addresses[1]));
        }
    }
}
