//! TCP (RFC 9293), UDP (RFC 768), and the start of ICMP messages (RFC 792, RFC 4443).

use zerocopy::FromBytes;

use super::{ETHERNET_LENGTH, Fragment, Headers, protocol};
use crate::packet::Packet;

/// Offset of the transport header of an IPv4 packet without options: the one that can be read without a helper.
const PLAIN: usize = ETHERNET_LENGTH + 20;

/// The TCP header without its options.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
struct Tcp {
    source_port_be: u16,
    destination_port_be: u16,
    sequence_be: u32,
    acknowledgement_be: u32,
    /// Header length in words, in the high half.
    offset: u8,
    flags: u8,
    window_be: u16,
    checksum: u16,
    urgent_be: u16,
}

/// The UDP header.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
struct Udp {
    source_port_be: u16,
    destination_port_be: u16,
    length_be: u16,
    checksum: u16,
}

/// The first 8 bytes of an ICMP message, with the fields of an echo.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    identifier_be: u16,
    sequence_be: u16,
}

/// Adds ports and flags. Later fragments have no header; other protocols have none that matters.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P, mut headers: Headers) -> Option<Headers> {
    if matches!(headers.fragment, Fragment::Later) {
        return Some(headers);
    }
    let room = headers.end - headers.l4;
    match headers.protocol {
        protocol::TCP => {
            let header = read::<P, Tcp>(packet, headers.l4)?;
            let length = u32::from(header.offset >> 4) * 4;
            // Also for a first fragment: a header split over fragments is how filters are evaded (RFC 1858, 3).
            if length < 20 || length > room {
                return None;
            }
            headers.source_port_be = header.source_port_be;
            headers.destination_port_be = header.destination_port_be;
            headers.flags = header.flags;
        }
        protocol::UDP => {
            let header = read::<P, Udp>(packet, headers.l4)?;
            let length = u32::from(u16::from_be(header.length_be));
            let whole = matches!(headers.fragment, Fragment::Whole);
            // Zero stands for a length beyond the field, in jumbograms (RFC 2675, 4).
            let is_beyond = length == 0 && room > u32::from(u16::MAX);
            if room < 8 || (length < 8 && !is_beyond) || (whole && length > room) {
                return None;
            }
            headers.source_port_be = header.source_port_be;
            headers.destination_port_be = header.destination_port_be;
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let header = read::<P, Icmp>(packet, headers.l4)?;
            // Every message has at least a type, a code, a checksum and 4 bytes that depend on the type.
            if room < 8 {
                return None;
            }
            headers.flags = header.kind;
            // The identifier is the port of whoever asks.
            match (headers.protocol, header.kind) {
                (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => headers.source_port_be = header.identifier_be,
                (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => headers.destination_port_be = header.identifier_be,
                _ => {}
            }
        }
        _ => {}
    }
    Some(headers)
}

#[inline(always)]
fn read<P: Packet + ?Sized, T: FromBytes>(packet: &P, l4: u32) -> Option<T> {
    if l4 == PLAIN as u32 {
        packet.read_at::<PLAIN, T>()
    } else {
        packet.read::<T>(l4)
    }
}
