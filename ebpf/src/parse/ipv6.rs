//! The IPv6 header and its extension headers (RFC 8200).

use causeway_abi::Address;
use zerocopy::FromBytes;

use super::{ETHERNET_LENGTH, Fragment, Headers, L3, Version, with_transport};
use crate::packet::Packet;

/// Bytes of the fixed header.
pub const IPV6_LENGTH: u32 = 40;
/// Extension headers that are walked. Each kind appears at most once, destination options twice (RFC 8200, 4.1), so a
/// longer chain is made to hide something.
pub const EXTENSIONS_MAX: u32 = 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// The fixed header.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version in the high half; traffic class.
    pub version: u8,
    /// Rest of the traffic class, and the flow label.
    pub flow_label: [u8; 3],
    /// Bytes after this header, network byte order.
    pub payload_length_be: u16,
    /// What follows.
    pub next_header: u8,
    /// Time to live.
    pub hop_limit: u8,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
}

/// The start of an extension header.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
struct Extension {
    next_header: u8,
    length: u8,
    /// Of a fragment header: the offset and the more-fragments bit.
    fragment_be: u16,
    /// Of a fragment header: what the fragments of one packet have in common.
    identification_be: u32,
}

/// Reads the header, its extensions and the transport header behind them.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Option<Headers> {
    let header = packet.read_at::<ETHERNET_LENGTH, Ipv6Header>()?;
    if header.version >> 4 != 6 {
        return None;
    }
    let headers = Headers {
        version: Version::V6,
        fragment: Fragment::Whole,
        protocol: header.next_header,
        flags: 0,
        source: header.source,
        destination: header.destination,
        source_port_be: 0,
        destination_port_be: 0,
        identification_be: 0,
        l4: L3 + IPV6_LENGTH,
        end: end(packet.length(), u16::from_be(header.payload_length_be))?,
    };
    let headers = if is_extension(headers.protocol) {
        walk(packet, headers)?
    } else {
        headers
    };
    with_transport(packet, headers)
}

/// A jumbogram (RFC 2675) has length zero; segmentation-offloaded packets use it internally.
#[inline(always)]
fn end(packet_length: u32, payload_length: u16) -> Option<u32> {
    if payload_length == 0 && packet_length > u32::from(u16::MAX) {
        return Some(packet_length);
    }
    let end = L3 + IPV6_LENGTH + u32::from(payload_length);
    if end <= packet_length { Some(end) } else { None }
}

#[inline(always)]
fn walk<P: Packet + ?Sized>(packet: &P, mut headers: Headers) -> Option<Headers> {
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(headers.protocol) {
            break;
        }
        let extension = packet.read::<Extension>(headers.l4)?;
        let length = match headers.protocol {
            FRAGMENT => {
                let field = u16::from_be(extension.fragment_be);
                if field & 0xfff9 != 0 {
                    headers.identification_be = extension.identification_be;
                }
                if field & 0xfff8 != 0 {
                    headers.fragment = Fragment::Later;
                } else if field & 1 != 0 && matches!(headers.fragment, Fragment::Whole) {
                    headers.fragment = Fragment::First;
                }
                8
            }
            // RFC 4302, 2.2: in units of 4 bytes, minus 2.
            AUTHENTICATION => (u32::from(extension.length) + 2) * 4,
            _ => (u32::from(extension.length) + 1) * 8,
        };
        headers.protocol = extension.next_header;
        headers.l4 += length;
        if headers.l4 > headers.end {
            return None;
        }
        if matches!(headers.fragment, Fragment::Later) {
            // What follows is payload; the next-header field names the first header of the fragmented part.
            return Some(headers);
        }
    }
    if is_extension(headers.protocol) {
        None
    } else {
        Some(headers)
    }
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}
