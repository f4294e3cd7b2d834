//! From bytes to [`Headers`].
//!
//! One file per protocol layer. The walk is bounded everywhere, and what contradicts itself is [`Parsed::Malformed`]
//! rather than guessed at, so that no two readers of one packet can disagree about its ports.

mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod transport;

use causeway_abi::Address;
use zerocopy::{Immutable, IntoBytes};

use crate::packet::Packet;

pub use ethernet::{ETHERNET_LENGTH, parse};
pub use icmp::{Embedded, parse_embedded};

/// IP protocol numbers.
pub mod protocol {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// Bits of the TCP flags byte.
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Ends a connection at once.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// What a frame turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// An IP packet.
    Ip(Headers),
    /// ARP, another protocol that is not IP, or a frame with a VLAN tag: none of the data path's business.
    Other,
    /// Cut short, or contradicting itself.
    Malformed,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, IntoBytes, Immutable)]
#[repr(u8)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first fragment, which has the ports.
    First,
    /// A later fragment, which has none.
    Later,
}

/// The IP version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, IntoBytes, Immutable)]
#[repr(u8)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the data path needs to know of an IP packet.
///
/// `IntoBytes` proves that there is no padding: the verifier refuses to pass memory between functions that was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct Headers {
    /// IP version.
    pub version: Version,
    /// Fragmentation.
    pub fragment: Fragment,
    /// Transport protocol: the last of the IPv6 header chain.
    pub protocol: u8,
    /// Flags of a TCP packet, [`tcp_flags`]; the type of an ICMP message; else 0.
    pub flags: u8,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port of TCP and UDP, identifier of an ICMP echo request; else 0. Network byte order.
    pub source_port_be: u16,
    /// Destination port of TCP and UDP, identifier of an ICMP echo reply; else 0. Network byte order.
    pub destination_port_be: u16,
    /// What the fragments of one datagram have in common, bytes as in the packet; 0 for whole packets.
    pub identification_be: u32,
    /// Offset of the transport header.
    pub l4: u32,
    /// Offset of the IP packet's end, by its own length field.
    pub end: u32,
}

impl Headers {
    /// Headers of nothing.
    pub const NONE: Self = Self {
        version: Version::V4,
        fragment: Fragment::Whole,
        protocol: 0,
        flags: 0,
        source: Address::from_words([0; 4]),
        destination: Address::from_words([0; 4]),
        source_port_be: 0,
        destination_port_be: 0,
        identification_be: 0,
        l4: 0,
        end: 0,
    };
}

/// Offset of the IP header: there is no VLAN tag before it, see [`Parsed::Other`].
pub const L3: u32 = ETHERNET_LENGTH as u32;

impl Headers {
    /// Bytes of the IP packet.
    #[inline(always)]
    pub const fn packet_length(&self) -> u32 {
        self.end - L3
    }

    /// TCP or UDP, with its ports known.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        matches!(self.protocol, protocol::TCP | protocol::UDP) && !matches!(self.fragment, Fragment::Later)
    }

    /// An ICMP echo request or reply, with its identifier known.
    #[inline(always)]
    pub const fn is_echo(&self) -> bool {
        !matches!(self.fragment, Fragment::Later)
            && matches!(
                (self.protocol, self.flags),
                (protocol::ICMP, 0 | 8) | (protocol::ICMPV6, 128 | 129)
            )
    }

    /// An ICMP echo request.
    #[inline(always)]
    pub const fn is_echo_request(&self) -> bool {
        matches!(
            (self.protocol, self.flags),
            (protocol::ICMP, 8) | (protocol::ICMPV6, 128)
        )
    }

    /// Asks for a new TCP connection.
    #[inline(always)]
    pub const fn opens_connection(&self) -> bool {
        self.protocol == protocol::TCP && self.flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
    }

    /// An ICMP message about another packet; a later fragment does not tell what it is of.
    #[inline(always)]
    pub const fn is_icmp_error(&self) -> bool {
        if matches!(self.fragment, Fragment::Later) {
            return false;
        }
        match self.protocol {
            // RFC 792: destination unreachable, source quench, time exceeded, parameter problem.
            protocol::ICMP => matches!(self.flags, 3 | 4 | 11 | 12),
            // RFC 4443, 2.1: error messages have the high bit clear.
            protocol::ICMPV6 => self.flags < 128,
            _ => false,
        }
    }

    /// Link-local traffic that keeps a link working (neighbour discovery, multicast listener reports): from an
    /// unspecified or link-local source to a link-local or multicast destination. It is never forwarded.
    #[inline(always)]
    pub const fn is_link_control(&self) -> bool {
        let source = self.source.words();
        let destination = self.destination.words();
        matches!(self.version, Version::V6)
            && (is_link_local(source[0]) || matches!(source, [0, 0, 0, 0]))
            && (is_link_local(destination[0]) || destination[0] & MULTICAST == MULTICAST)
    }
}

/// The first byte of multicast addresses (RFC 4291, 2.7).
const MULTICAST: u32 = u32::from_ne_bytes([0xff, 0, 0, 0]);

/// Whether an address that begins with this word is in `fe80::/10` (RFC 4291, 2.5.6).
#[inline(always)]
const fn is_link_local(word: u32) -> bool {
    word & u32::from_ne_bytes([0xff, 0xc0, 0, 0]) == u32::from_ne_bytes([0xfe, 0x80, 0, 0])
}

/// Where in its datagram a later fragment begins, in bytes; `None` when it cannot be read.
#[inline(always)]
pub fn fragment_offset<P: Packet + ?Sized>(packet: &P, headers: &Headers) -> Option<u32> {
    let (at, shift) = match headers.version {
        // RFC 791: the low 13 bits, in units of 8 bytes.
        Version::V4 => (L3 + 6, 3),
        // RFC 8200, 4.5: the high 13 bits of the second half of the fragment header's first word.
        Version::V6 => (headers.l4.checked_sub(6)?, 0),
    };
    let field = u32::from(u16::from_be(packet.read::<u16>(at)?));
    Some(if shift == 3 {
        (field & 0x1fff) << 3
    } else {
        field & 0xfff8
    })
}

/// Reads the transport header at `l4` into `headers`; `None` when it is cut short or contradicts itself.
#[inline(always)]
fn with_transport<P: Packet + ?Sized>(packet: &P, headers: Headers) -> Option<Headers> {
    transport::parse(packet, headers)
}

#[cfg(test)]
mod tests;
