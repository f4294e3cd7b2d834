//! Answers to packets that go no further: TCP resets and ICMP errors, so that clients fail at once and find out why.
//!
//! A refused packet is turned into its answer in place. Buffers are changed rather than copied, because a BPF program has
//! 512 bytes of stack.

use crate::csum;
use crate::packet::Packet;
use crate::parse::{Fragment, Headers, L3, Version, protocol, tcp_flags};

/// A packet that can be changed.
pub trait Answer: Packet {
    /// Cuts or lengthens the packet; false when that fails.
    fn resize(&self, length: u32) -> bool;

    /// Writes bytes; false when that fails.
    fn put<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> bool;

    /// The sum of 16-bit words, as [`csum::add`] makes it from zero. BPF has a helper for buffers whose length is a multiple
    /// of four; LLVM would hold every byte in a stack slot of eight.
    fn sum<const N: usize>(&self, bytes: &[u8; N]) -> u16;
}

const HOPS: u8 = 64;
/// Bytes of the refused IPv4 packet that an ICMP error quotes: header and 8 bytes (RFC 792).
const QUOTED_V4: usize = 20 + 8;
/// The same for IPv6, where more is wanted but the ports are what counts (RFC 4443, 2.4 (c)).
const QUOTED_V6: usize = 40 + 8;

/// Which answer a packet gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// [`reset_v4`].
    ResetV4,
    /// [`reset_v6`].
    ResetV6,
    /// [`error_v4`].
    ErrorV4,
    /// [`error_v6`].
    ErrorV6,
    /// None: nothing says it, or the quoted header would not fit.
    Silence,
}

impl Kind {
    /// Bytes of the shortest frame that this can be the answer to: an ICMP error quotes some of it.
    #[inline(always)]
    pub const fn least_length(self) -> u32 {
        match self {
            Self::ErrorV4 => L3 + QUOTED_V4 as u32,
            Self::ErrorV6 => L3 + QUOTED_V6 as u32,
            Self::ResetV4 | Self::ResetV6 | Self::Silence => 0,
        }
    }
}

/// The answer for a packet that nobody takes. Datagrams with IPv4 options or IPv6 extension headers, and fragments of TCP segments, get
/// none.
#[inline(always)]
pub const fn kind(headers: &Headers) -> Kind {
    match (headers.version, headers.protocol) {
        (Version::V4, protocol::TCP) if matches!(headers.fragment, Fragment::Whole) => Kind::ResetV4,
        (Version::V6, protocol::TCP) if matches!(headers.fragment, Fragment::Whole) => Kind::ResetV6,
        (_, protocol::UDP) => error_kind(headers),
        _ => Kind::Silence,
    }
}

/// The ICMP error that a packet gets, if it gets one.
#[inline(always)]
pub const fn error_kind(headers: &Headers) -> Kind {
    match headers.version {
        _ if !has_error(headers) => Kind::Silence,
        Version::V4 => Kind::ErrorV4,
        Version::V6 => Kind::ErrorV6,
    }
}

/// Turns a TCP segment over IPv4 into a reset. False for a segment that gets none.
#[inline(always)]
pub fn reset_v4<P: Answer>(packet: &P, headers: &Headers) -> bool {
    let (mut ip, mut tcp) = ([0; 20], [0; 20]);
    if !packet.fill(L3, &mut ip) || !packet.fill(headers.l4, &mut tcp) {
        return false;
    }
    let Some(addresses) = chunk::<20, 8>(&ip, 12) else {
        return false;
    };
    reset(packet, &mut tcp, headers, packet.sum(addresses))
        && turn(packet, L3 + 40)
        && answer_v4(packet, &ip, 20, protocol::TCP)
        && packet.put(L3 + 20, &tcp)
}

/// Turns a TCP segment over IPv6 into a reset. False for a segment that gets none.
#[inline(always)]
pub fn reset_v6<P: Answer>(packet: &P, headers: &Headers) -> bool {
    let (mut ip, mut tcp) = ([0; 40], [0; 20]);
    if !packet.fill(L3, &mut ip) || !packet.fill(headers.l4, &mut tcp) {
        return false;
    }
    let Some(addresses) = chunk::<40, 32>(&ip, 8) else {
        return false;
    };
    reset(packet, &mut tcp, headers, packet.sum(addresses))
        && turn(packet, L3 + 60)
        && answer_v6(packet, &ip, 20, protocol::TCP)
        && packet.put(L3 + 40, &tcp)
}

/// An ICMP error: type, code and the four bytes that some of them use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpError {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The rest of the header, host byte order; an MTU, where there is one.
    pub rest: u32,
}

impl IcmpError {
    /// Destination unreachable, port unreachable (RFC 792; RFC 4443, 3.1).
    #[inline(always)]
    pub const fn port_unreachable(version: Version) -> Self {
        Self::of(version, (3, 3), (1, 4), 0)
    }

    /// Time exceeded, hop limit exceeded in transit (RFC 792; RFC 4443, 3.3).
    #[inline(always)]
    pub const fn hops_exceeded(version: Version) -> Self {
        Self::of(version, (11, 0), (3, 0), 0)
    }

    /// Fragmentation needed (RFC 1191, 4), or packet too big (RFC 4443, 3.2).
    #[inline(always)]
    pub const fn too_big(version: Version, mtu: u32) -> Self {
        Self::of(version, (3, 4), (2, 0), mtu)
    }

    #[inline(always)]
    const fn of(version: Version, v4: (u8, u8), v6: (u8, u8), rest: u32) -> Self {
        let (kind, code) = match version {
            Version::V4 => v4,
            Version::V6 => v6,
        };
        Self { kind, code, rest }
    }

    #[inline(always)]
    const fn header(self) -> [u8; 8] {
        let rest = self.rest.to_be_bytes();
        [self.kind, self.code, 0, 0, rest[0], rest[1], rest[2], rest[3]]
    }
}

/// Whether an ICMP error may be sent about a packet (RFC 1122, 3.2.2; RFC 4443, 2.4 (e)): none about errors, about other than the
/// first fragments, and to those who have no address. Nor is one about packets with options or extension headers.
#[inline(always)]
pub const fn has_error(headers: &Headers) -> bool {
    const MULTICAST_V4: u8 = 224;
    let sender = headers.source.bytes;
    let is_simple = match headers.version {
        Version::V4 => headers.l4 == L3 + 20 && sender[12] != 0 && sender[12] < MULTICAST_V4,
        Version::V6 => headers.l4 == L3 + 40 && sender[0] != 0 && sender[0] != 0xff,
    };
    is_simple && !headers.is_icmp_error() && !matches!(headers.fragment, Fragment::Later)
}

/// Turns a packet over IPv4 without options into an ICMP error about it.
#[inline(always)]
pub fn error_v4<P: Answer>(packet: &P, source: [u8; 4], error: IcmpError) -> bool {
    let mut quoted = [0; QUOTED_V4];
    if !packet.fill(L3, &mut quoted) {
        return false;
    }
    let mut header = error.header();
    let sum = csum::finish(csum::add(packet.sum(&quoted).into(), &header)).to_ne_bytes();
    (header[2], header[3]) = (sum[0], sum[1]);
    turn(packet, L3 + 28 + QUOTED_V4 as u32) && packet.put(L3 + 28, &quoted) && packet.put(L3 + 20, &header) && {
        // Whom the packet was for is what it is answered from.
        quoted[16..20].copy_from_slice(&source);
        answer_v4(packet, &quoted, 8 + QUOTED_V4 as u16, protocol::ICMP)
    }
}

/// Turns a packet over IPv6 without extension headers into an `ICMPv6` error about it.
#[inline(always)]
pub fn error_v6<P: Answer>(packet: &P, source: &[u8; 16], error: IcmpError) -> bool {
    const LENGTH: u16 = 8 + QUOTED_V6 as u16;
    let mut quoted = [0; QUOTED_V6];
    if !packet.fill(L3, &mut quoted) {
        return false;
    }
    let Some(sender) = chunk::<QUOTED_V6, 16>(&quoted, 8) else {
        return false;
    };
    // The ends count twice: in the pseudo header, where their order does not matter, and in the quoted packet.
    let ends = u32::from(packet.sum(sender)) + u32::from(packet.sum(source));
    let mut header = error.header();
    let sum = csum::add(csum::add(0, &[0, protocol::ICMPV6, 0, LENGTH as u8]), &header);
    let sum = csum::finish(sum + ends + u32::from(packet.sum(&quoted))).to_ne_bytes();
    (header[2], header[3]) = (sum[0], sum[1]);
    turn(packet, L3 + 48 + QUOTED_V6 as u32)
        && packet.put(L3, &[0x60, 0, 0, 0, 0, LENGTH as u8, protocol::ICMPV6, HOPS])
        && packet.put(L3 + 8, source)
        && packet.put(L3 + 24, sender)
        && packet.put(L3 + 40, &header)
        && packet.put(L3 + 48, &quoted)
}

/// Gives the packet its new length, and the frame its way back.
#[inline(always)]
fn turn<P: Answer>(packet: &P, length: u32) -> bool {
    let Some([destination, source]) = packet.read_at::<0, [[u8; 6]; 2]>() else {
        return false;
    };
    packet.resize(length) && packet.put(0, &source) && packet.put(6, &destination)
}

/// Turns the header of a segment into that of its reset (RFC 9293, 3.10.7.1); false for a reset, which is never answered.
/// `addresses` is their sum.
#[inline(always)]
fn reset<P: Answer>(packet: &P, tcp: &mut [u8; 20], headers: &Headers, addresses: u16) -> bool {
    let flags = tcp[13];
    if flags & tcp_flags::RST != 0 {
        return false;
    }
    let ports = [tcp[2], tcp[3], tcp[0], tcp[1]];
    let (sequence, acknowledgement, reset_flags) = if flags & tcp_flags::ACK != 0 {
        (
            u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]),
            0,
            tcp_flags::RST,
        )
    } else {
        let payload = headers
            .end
            .wrapping_sub(headers.l4)
            .wrapping_sub(u32::from(tcp[12] >> 4) * 4);
        let length = payload
            .wrapping_add(u32::from(flags & tcp_flags::SYN != 0))
            .wrapping_add(u32::from(flags & tcp_flags::FIN != 0));
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        (0, sequence.wrapping_add(length), tcp_flags::RST | tcp_flags::ACK)
    };
    let s = sequence.to_be_bytes();
    let a = acknowledgement.to_be_bytes();
    *tcp = [
        ports[0],
        ports[1],
        ports[2],
        ports[3],
        s[0],
        s[1],
        s[2],
        s[3],
        a[0],
        a[1],
        a[2],
        a[3],
        5 << 4,
        reset_flags,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let pseudo = csum::add(addresses.into(), &[0, protocol::TCP, 0, 20]);
    let checksum = csum::finish(pseudo + u32::from(packet.sum(tcp))).to_ne_bytes();
    tcp[16] = checksum[0];
    tcp[17] = checksum[1];
    true
}

/// Writes the IPv4 header of an answer to the packet that starts with `asked`.
#[inline(always)]
fn answer_v4<P: Answer, const N: usize>(packet: &P, asked: &[u8; N], payload: u16, protocol: u8) -> bool {
    let length = (20 + payload).to_be_bytes();
    // "Do not fragment": the identification may then be zero (RFC 6864, 4.1).
    let mut ip = [
        0x45, 0, length[0], length[1], 0, 0, 0x40, 0, HOPS, protocol, 0, 0, asked[16], asked[17], asked[18], asked[19],
        asked[12], asked[13], asked[14], asked[15],
    ];
    let checksum = csum::finish(packet.sum(&ip).into()).to_ne_bytes();
    ip[10] = checksum[0];
    ip[11] = checksum[1];
    packet.put(L3, &ip)
}

/// Writes the IPv6 header of an answer to the packet that starts with `asked`.
#[inline(always)]
fn answer_v6<P: Answer, const N: usize>(packet: &P, asked: &[u8; N], payload: u16, next_header: u8) -> bool {
    let length = payload.to_be_bytes();
    // Slices of a fixed buffer, written from where they are: no copy on the stack.
    let (Some(source), Some(destination)) = (chunk::<N, 16>(asked, 8), chunk::<N, 16>(asked, 24)) else {
        return false;
    };
    packet.put(L3, &[0x60, 0, 0, 0, length[0], length[1], next_header, HOPS])
        && packet.put(L3 + 8, destination)
        && packet.put(L3 + 24, source)
}

#[inline(always)]
fn chunk<const N: usize, const M: usize>(bytes: &[u8; N], at: usize) -> Option<&[u8; M]> {
    match bytes.get(at..) {
        Some(rest) => rest.first_chunk(),
        None => None,
    }
}

#[cfg(test)]
mod tests;
