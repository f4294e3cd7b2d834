//! The packets that XDP forwards: whole IPv4 packets of TCP or UDP without options, in one piece of memory.
//!
//! Everything is read and written in units of 16 bits, which is what their place in a frame guarantees: LLVM would take wider
//! ones that may be misaligned apart into bytes.

use causeway_abi::Address;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    csum,
    flow::Translation,
    parse::{Fragment, Headers, L3, Version, protocol},
};

/// Ethernet, IPv4 and the ports; as it lies in the frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    /// Destination and source MAC address.
    pub macs: [u16; 6],
    /// Type of what follows.
    pub ethertype: u16,
    /// Version and header length, then the type of service.
    pub version_and_tos: [u8; 2],
    /// Length of the packet, network byte order.
    pub total_length_be: u16,
    /// Identification.
    pub identification: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Source address.
    pub source: [u16; 2],
    /// Destination address.
    pub destination: [u16; 2],
    /// Source port, network byte order.
    pub source_port_be: u16,
    /// Destination port, network byte order.
    pub destination_port_be: u16,
}
const _: () = assert!(size_of::<Head>() == 38 && align_of::<Head>() == 2);

/// Bytes of Ethernet, IPv4 and UDP, which is the shortest a packet of these can be.
pub const SHORTEST: usize = 42;
/// Bytes of the headers that the tunnel puts before a frame: Ethernet, IPv4, UDP, VXLAN.
pub const TUNNEL_OVERHEAD: usize = 50;

const IPV4: u16 = 0x0800_u16.to_be();
/// Of `fragment`: all but the flag that forbids fragmentation and the reserved one.
const IS_FRAGMENT: u16 = 0x3fff_u16.to_be();
const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
/// Version 4, a header of five words.
const NO_OPTIONS: u8 = 0x45;
const IPV4_HEADER: u16 = 20;
const TTL: u8 = 64;

/// A 32-bit quantity of a frame as the two halves it lies there as.
#[inline(always)]
pub const fn halves(word: u32) -> [u16; 2] {
    zerocopy::transmute!(word)
}

/// The 32-bit quantity that lies in a frame as two halves.
#[inline(always)]
pub const fn word(halves: [u16; 2]) -> u32 {
    let [a, b] = halves;
    if cfg!(target_endian = "little") {
        b as u32 * 0x1_0000 + a as u32
    } else {
        a as u32 * 0x1_0000 + b as u32
    }
}

impl Head {
    /// Whether this is a packet that XDP may forward: `length` bytes of frame are there.
    #[inline(always)]
    pub fn is_plain(&self, length: usize) -> bool {
        let least = match self.protocol {
            protocol::TCP => IPV4_HEADER + 20,
            protocol::UDP => IPV4_HEADER + 8,
            _ => return false,
        };
        let total = self.total_length();
        self.ethertype == IPV4
            && self.version_and_tos[0] == NO_OPTIONS
            && self.fragment & IS_FRAGMENT == 0
            && self.ttl > 1
            && total >= least
            && total as usize + L3 as usize <= length
    }

    /// Bytes of the IP packet.
    #[inline(always)]
    pub const fn total_length(&self) -> u16 {
        u16::from_be(self.total_length_be)
    }

    /// The destination address.
    #[inline(always)]
    pub fn destination_address(&self) -> Address {
        Address::from_words([0, 0, V4_MAPPED, word(self.destination)])
    }

    /// The same, as every other program sees it. TCP flags are not in the head.
    #[inline(always)]
    pub fn headers(&self, tcp_flags: u8) -> Headers {
        Headers {
            version: Version::V4,
            fragment: Fragment::Whole,
            protocol: self.protocol,
            flags: tcp_flags,
            source: Address::from_words([0, 0, V4_MAPPED, word(self.source)]),
            destination: self.destination_address(),
            source_port_be: self.source_port_be,
            destination_port_be: self.destination_port_be,
            identification_be: 0,
            l4: L3 + u32::from(IPV4_HEADER),
            end: L3 + u32::from(self.total_length()),
        }
    }

    /// Gives the packet new addresses and ports and lowers its time to live, as a router does (RFC 1812, 5.3.1); what it was is
    /// needed to update the transport checksum.
    #[inline(always)]
    pub fn translate(&mut self, to: &Translation) {
        let before = *self;
        self.source = halves(to.source.words()[3]);
        self.destination = halves(to.destination.words()[3]);
        self.source_port_be = to.source_port_be;
        self.destination_port_be = to.destination_port_be;
        self.ttl -= 1;
        let mut sum = u32::from(!before.checksum);
        sum = replaced(sum, before.source, self.source);
        sum = replaced(sum, before.destination, self.destination);
        sum += u32::from(!ttl_and_protocol(&before)) + u32::from(ttl_and_protocol(self));
        self.checksum = csum::finish(sum);
    }

    /// Lowers the time to live alone.
    #[inline(always)]
    pub const fn lower_hops(&mut self) {
        let before = ttl_and_protocol(self);
        self.ttl -= 1;
        self.checksum = csum::replace16(self.checksum, before, ttl_and_protocol(self));
    }

    /// The transport checksum of a packet that had one before it was translated from `before`.
    #[inline(always)]
    pub fn transport_checksum(&self, before: &Self, checksum: u16) -> u16 {
        let mut sum = u32::from(!checksum);
        sum = replaced(sum, before.source, self.source);
        sum = replaced(sum, before.destination, self.destination);
        let ports = [before.source_port_be, before.destination_port_be];
        sum = replaced(sum, ports, [self.source_port_be, self.destination_port_be]);
        let updated = csum::finish(sum);
        if self.protocol == protocol::UDP {
            csum::udp(checksum, updated)
        } else {
            updated
        }
    }
}

/// The third word of a v4-mapped address.
const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

#[inline(always)]
const fn replaced(sum: u32, from: [u16; 2], to: [u16; 2]) -> u32 {
    sum + !from[0] as u32 + !from[1] as u32 + to[0] as u32 + to[1] as u32
}

#[inline(always)]
const fn ttl_and_protocol(head: &Head) -> u16 {
    u16::from_ne_bytes([head.ttl, head.protocol])
}

/// What the tunnel puts before a frame; as it lies there (RFC 7348, 5).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Outer {
    /// Ethernet, IPv4 and ports.
    pub head: Head,
    /// Length of UDP, network byte order.
    pub udp_length_be: u16,
    /// UDP checksum.
    pub udp_checksum: u16,
    /// VXLAN flags: the identifier counts.
    pub flags: [u16; 2],
    /// The network identifier and a reserved byte.
    pub network: [u16; 2],
}
const _: () = assert!(size_of::<Outer>() == TUNNEL_OVERHEAD);

const VXLAN_FLAGS: [u16; 2] = [0x0800_u16.to_be(), 0];

/// What never changes of the sum over an outer IPv4 header.
const OUTER_SUM: u32 =
    u16::from_ne_bytes([NO_OPTIONS, 0]) as u32 + DONT_FRAGMENT as u32 + u16::from_ne_bytes([TTL, protocol::UDP]) as u32;

/// The two ends of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Address of the node that sends, bytes as in the packet.
    pub from: u32,
    /// Address of the node that receives, bytes as in the packet.
    pub to: u32,
    /// UDP port of VXLAN, network byte order.
    pub port_be: u16,
    /// VXLAN network identifier.
    pub tunnel_id: u32,
}

impl Outer {
    /// The outer headers of a frame of `length` bytes whose flow has this hash. The source port tells flows apart for whatever
    /// spreads packets by ports on the way (RFC 7348, 5); there is no UDP checksum, as the inner packet has one.
    #[inline(always)]
    pub fn new(ends: &Ends, macs: [u16; 6], hash: u32, length: u16) -> Self {
        let total = length + (TUNNEL_OVERHEAD as u16 - L3 as u16);
        let mut head = Head {
            macs,
            ethertype: IPV4,
            version_and_tos: [NO_OPTIONS, 0],
            total_length_be: total.to_be(),
            identification: 0,
            fragment: DONT_FRAGMENT,
            ttl: TTL,
            protocol: protocol::UDP,
            checksum: 0,
            source: halves(ends.from),
            destination: halves(ends.to),
            source_port_be: (0xc000 | (hash as u16 ^ (hash >> 16) as u16) >> 2).to_be(),
            destination_port_be: ends.port_be,
        };
        let variable = [
            head.total_length_be,
            head.source[0],
            head.source[1],
            head.destination[0],
            head.destination[1],
        ];
        let sum = variable.into_iter().fold(OUTER_SUM, |sum, word| sum + u32::from(word));
        head.checksum = csum::finish(sum);
        Self {
            head,
            udp_length_be: (total - IPV4_HEADER).to_be(),
            udp_checksum: 0,
            flags: VXLAN_FLAGS,
            network: network(ends.tunnel_id),
        }
    }

    /// Whether this comes out of the tunnel of a network at a node: UDP to the port at the address, and the identifier is that
    /// network's.
    #[inline(always)]
    pub fn is_of(&self, node: u32, port_be: u16, tunnel_id: u32) -> bool {
        self.head.protocol == protocol::UDP
            && self.head.destination_port_be == port_be
            && word(self.head.destination) == node
            && self.flags == VXLAN_FLAGS
            && self.network == network(tunnel_id)
    }
}

#[inline(always)]
const fn network(tunnel_id: u32) -> [u16; 2] {
    halves((tunnel_id << 8).to_be())
}

#[cfg(test)]
mod tests;
