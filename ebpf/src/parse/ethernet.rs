//! The Ethernet header (IEEE 802.3).

use super::{Parsed, ipv4, ipv6};
use crate::packet::Packet;

/// Bytes of the header.
pub const ETHERNET_LENGTH: usize = 14;

const TYPE_IPV4: u16 = 0x0800_u16.to_be();
const TYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// Reads a frame.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Parsed {
    let Some(ethertype) = packet.read_at::<12, u16>() else {
        return Parsed::Malformed;
    };
    let headers = match ethertype {
        TYPE_IPV4 => ipv4::parse(packet),
        TYPE_IPV6 => ipv6::parse(packet),
        _ => return Parsed::Other,
    };
    match headers {
        Some(headers) => Parsed::Ip(headers),
        None => Parsed::Malformed,
    }
}
