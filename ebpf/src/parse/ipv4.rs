//! The IPv4 header (RFC 791).

use causeway_abi::Address;

use super::{ETHERNET_LENGTH, Fragment, Headers, L3, Version, with_transport};
use crate::packet::Packet;

/// Bytes of a header without options.
pub const IPV4_LENGTH: u32 = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Reads the header and the transport header behind it.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Option<Headers> {
    let header = packet.read_at::<ETHERNET_LENGTH, 20>()?;
    let header_length = u32::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_length < IPV4_LENGTH {
        return None;
    }
    let end = end(packet.length(), u16::from_be_bytes([header[2], header[3]]))?;
    let l4 = L3 + header_length;
    if l4 > end {
        return None;
    }
    let headers = Headers {
        version: Version::V4,
        fragment: fragment(u16::from_be_bytes([header[6], header[7]])),
        protocol: header[9],
        flags: 0,
        source: Address::from_v4([header[12], header[13], header[14], header[15]]),
        destination: Address::from_v4([header[16], header[17], header[18], header[19]]),
        source_port_be: 0,
        destination_port_be: 0,
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
        return if packet_length > u32::from(u16::MAX) { Some(packet_length) } else { None };
    }
    let end = L3 + u32::from(total_length);
    if end <= packet_length { Some(end) } else { None }
}

#[inline(always)]
const fn fragment(field: u16) -> Fragment {
    if field & FRAGMENT_OFFSET != 0 {
        Fragment::Later
    } else if field & MORE_FRAGMENTS != 0 {
        Fragment::First
    } else {
        Fragment::Whole
    }
}
