//! The packet inside an ICMP error (RFC 792; RFC 4443, 2.4 (c)).

use causeway_abi::Address;

use super::{Headers, Version, protocol};
use crate::packet::{Packet, be16};

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
            let header = packet.read::<20>(l3)?;
            let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
            if header[0] >> 4 != 4 || header[0] & 0x0f < 5 || later {
                return None;
            }
            (
                Address::from_v4([header[12], header[13], header[14], header[15]]),
                Address::from_v4([header[16], header[17], header[18], header[19]]),
                header[9],
                l3 + u32::from(header[0] & 0x0f) * 4,
            )
        }
        Version::V6 => {
            let header = packet.read::<8>(l3)?;
            if header[0] >> 4 != 6 {
                return None;
            }
            (Address(packet.read::<16>(l3 + 8)?), Address(packet.read::<16>(l3 + 24)?), header[6], l3 + 40)
        }
    };
    if !matches!(protocol, protocol::TCP | protocol::UDP) || l4 + 8 > headers.end {
        return None;
    }
    let ports = packet.read::<4>(l4)?;
    Some(Embedded {
        source,
        destination,
        protocol,
        source_port_be: be16(&ports, 0),
        destination_port_be: be16(&ports, 2),
        l3,
        l4,
    })
}
