//! TCP (RFC 9293), UDP (RFC 768), and the start of ICMP messages (RFC 792, RFC 4443).

use super::{ETHERNET_LENGTH, Fragment, Headers, protocol};
use crate::packet::{Packet, be16};

/// Offset of the transport header of an IPv4 packet without options: the one that can be read without a helper.
const PLAIN: usize = ETHERNET_LENGTH + 20;

/// Adds ports and flags. Later fragments have no header; other protocols have none that matters.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P, mut headers: Headers) -> Option<Headers> {
    if matches!(headers.fragment, Fragment::Later) {
        return Some(headers);
    }
    let room = headers.end - headers.l4;
    match headers.protocol {
        protocol::TCP => {
            let header = read::<P, 14>(packet, headers.l4)?;
            let length = u32::from(header[12] >> 4) * 4;
            // Also for a first fragment: a header split over fragments is how filters are evaded (RFC 1858, 3).
            if length < 20 || length > room {
                return None;
            }
            headers.source_port_be = be16(&header, 0);
            headers.destination_port_be = be16(&header, 2);
            headers.flags = header[13];
        }
        protocol::UDP => {
            let header = read::<P, 6>(packet, headers.l4)?;
            let length = u32::from(u16::from_be_bytes([header[4], header[5]]));
            let whole = matches!(headers.fragment, Fragment::Whole);
            // Zero stands for a length beyond the field, in jumbograms.
            if room < 8 || (length < 8 && length != 0) || (whole && length > room) {
                return None;
            }
            headers.source_port_be = be16(&header, 0);
            headers.destination_port_be = be16(&header, 2);
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let header = read::<P, 6>(packet, headers.l4)?;
            // Every message has at least a type, a code, a checksum and 4 bytes that depend on the type.
            if room < 8 {
                return None;
            }
            headers.flags = header[0];
            if matches!((headers.protocol, header[0]), (protocol::ICMP, 0 | 8) | (protocol::ICMPV6, 128 | 129)) {
                headers.source_port_be = be16(&header, 4);
            }
        }
        _ => {}
    }
    Some(headers)
}

#[inline(always)]
fn read<P: Packet + ?Sized, const N: usize>(packet: &P, l4: u32) -> Option<[u8; N]> {
    if l4 == PLAIN as u32 { packet.read_at::<PLAIN, N>() } else { packet.read::<N>(l4) }
}
