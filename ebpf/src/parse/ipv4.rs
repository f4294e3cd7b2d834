//! The IPv4 header (RFC 791).

use causeway_abi::Address;
use zerocopy::FromBytes;

use super::{ETHERNET_LENGTH, Fragment, Headers, L3, Version, with_transport};
use crate::packet::Packet;

/// Bytes of a header without options.
pub const IPV4_LENGTH: u32 = 20;
const MORE_FRAGMENTS: u16 = 0x2000_u16.to_be();
const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

/// The header without its options.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version in the high half, header length in words in the low half.
    pub version_and_length: u8,
    /// Type of service.
    pub type_of_service: u8,
    /// Length of header and payload, network byte order.
    pub total_length_be: u16,
    /// Identification, shared by the fragments of a datagram; network byte order.
    pub identification_be: u16,
    /// Flags and fragment offset, network byte order.
    pub fragment_be: u16,
    /// Time to live.
    pub time_to_live: u8,
    /// Transport protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Source address, bytes as they are.
    pub source: u32,
    /// Destination address, bytes as they are.
    pub destination: u32,
}

impl Ipv4Header {
    /// Bytes of the header with its options; `None` when the header cannot be one.
    #[inline(always)]
    pub const fn length(&self) -> Option<u32> {
        let length = (self.version_and_length & 0x0f) as u32 * 4;
        if self.version_and_length >> 4 == 4 && length >= IPV4_LENGTH {
            Some(length)
        } else {
            None
        }
    }

    /// Which part of a datagram the packet is.
    #[inline(always)]
    pub const fn fragment(&self) -> Fragment {
        if self.fragment_be & FRAGMENT_OFFSET != 0 {
            Fragment::Later
        } else if self.fragment_be & MORE_FRAGMENTS != 0 {
            Fragment::First
        } else {
            Fragment::Whole
        }
    }

    /// Source address.
    #[inline(always)]
    pub const fn source(&self) -> Address {
        Address::from_v4(self.source.to_ne_bytes())
    }

    /// Destination address.
    #[inline(always)]
    pub const fn destination(&self) -> Address {
        Address::from_v4(self.destination.to_ne_bytes())
    }
}

/// Reads the header and the transport header behind it.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Option<Headers> {
    let header = packet.read_at::<ETHERNET_LENGTH, Ipv4Header>()?;
    let l4 = L3 + header.length()?;
    let end = end(packet.length(), u16::from_be(header.total_length_be))?;
    if l4 > end {
        return None;
    }
    let fragment = header.fragment();
    let headers = Headers {
        version: Version::V4,
        fragment,
        protocol: header.protocol,
        flags: 0,
        source: header.source(),
        destination: header.destination(),
        source_port_be: 0,
        destination_port_be: 0,
        identification_be: if matches!(fragment, Fragment::Whole) {
            0
        } else {
            u32::from(header.identification_be)
        },
        l4,
        end,
    };
    with_transport(packet, headers)
}

/// Offset of the packet's end. A length of zero stands for "larger than the field can say" in segmentation-offloaded
/// packets (BIG TCP, include/net/ip.h `iph_totlen`).
#[inline(always)]
fn end(packet_length: u32, total_length: u16) -> Option<u32> {
    if total_length == 0 {
        return if packet_length > u32::from(u16::MAX) {
            Some(packet_length)
        } else {
            None
        };
    }
    let end = L3 + u32::from(total_length);
    if end <= packet_length { Some(end) } else { None }
}
