//! The packet inside an ICMP error (RFC 792; RFC 4443, 2.4 (c)).

use causeway_abi::Address;

use super::{Fragment, Headers, Version, ipv4::Ipv4Header, ipv6::Ipv6Header, protocol};
use crate::packet::Packet;

/// Bytes of an ICMP error before the packet it quotes.
const ICMP_LENGTH: u32 = 8;

/// The start of the packet an ICMP error is about, as its sender saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Embedded {
    /// Source address: whom the error is for.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// TCP or UDP.
    pub protocol: u8,
    /// Source port, network byte order.
    pub source_port_be: u16,
    /// Destination port, network byte order.
    pub destination_port_be: u16,
    /// Offset of the quoted IP header.
    pub l3: u32,
    /// Offset of the quoted transport header.
    pub l4: u32,
}

/// Reads what an ICMP error quotes; `None` when it is no TCP or UDP packet with ports. IPv6 extension headers in the
/// quoted packet are not walked.
#[inline(always)]
pub fn parse_embedded<P: Packet + ?Sized>(packet: &P, headers: &Headers) -> Option<Embedded> {
    if !headers.is_icmp_error() {
        return None;
    }
    let l3 = headers.l4 + ICMP_LENGTH;
    let (source, destination, protocol, l4) = match headers.version {
        Version::V4 => {
            let header = packet.read::<Ipv4Header>(l3)?;
            if matches!(header.fragment(), Fragment::Later) {
                return None;
            }
            (
                header.source(),
                header.destination(),
                header.protocol,
                l3 + header.length()?,
            )
        }
        Version::V6 => {
            let header = packet.read::<Ipv6Header>(l3)?;
            if header.version >> 4 != 6 {
                return None;
            }
            (header.source, header.destination, header.next_header, l3 + 40)
        }
    };
    if !matches!(protocol, protocol::TCP | protocol::UDP) || l4 + 8 > headers.end {
        return None;
    }
    let [source_port_be, destination_port_be] = packet.read::<[u16; 2]>(l4)?;
    Some(Embedded {
        source,
        destination,
        protocol,
        source_port_be,
        destination_port_be,
        l3,
        l4,
    })
}
