//! What a frame says, by the RFCs. Whatever contradicts itself is malformed, so that nobody further on can read it in
//! another way than the data path did.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// IP protocol numbers (IANA).
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

/// TCP flags (RFC 9293, 3.1).
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Opens a connection.
    pub const SYN: u8 = 2;
    /// Ends it at once.
    pub const RST: u8 = 4;
    /// The acknowledgement counts.
    pub const ACK: u8 = 16;
}

/// Bytes before the IP header.
pub const ETHERNET: usize = 14;
/// Extension headers that a packet may have: each kind once, destination options twice (RFC 8200, 4.1).
const EXTENSIONS: usize = 6;

/// A frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// ARP, VLAN-tagged, whatever: not for us.
    NotIp,
    /// Cut short or contradicting itself.
    Malformed,
    /// An IP packet.
    Ip(Packet),
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment, with the transport header.
    First,
    /// A later fragment.
    Later,
}

/// An IP packet's headers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What follows the IP header and its extensions.
    pub protocol: u8,
    /// Which part of a datagram.
    pub part: Part,
    /// What the fragments of a datagram have in common; 0 for whole ones.
    pub identification: u32,
    /// Where in its datagram a fragment begins, in bytes.
    pub offset: u16,
    /// Offset of the transport header in the frame.
    pub l4: usize,
    /// Offset of the packet's end: a frame may have padding.
    pub end: usize,
    /// The transport header.
    pub transport: Transport,
}

/// The transport header, as far as the data path cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Flags.
        flags: u8,
        /// Bytes of the header with its options.
        header: usize,
    },
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP of either version.
    Icmp {
        /// Type.
        kind: u8,
        /// Bytes 4 and 5: the identifier of an echo.
        identifier: u16,
    },
    /// Later fragments, and protocols without ports.
    Opaque,
}

impl Packet {
    /// Source and destination of TCP and UDP.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self.transport {
            Transport::Tcp {
                source, destination, ..
            }
            | Transport::Udp { source, destination } => Some((
                SocketAddr::new(self.source, source),
                SocketAddr::new(self.destination, destination),
            )),
            _ => None,
        }
    }

    /// The ends of an echo: whoever asks has the identifier for a port, whoever answers has none.
    pub fn echo_ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let Transport::Icmp { identifier, .. } = self.transport else {
            return None;
        };
        if self.is_echo_request() {
            return Some((
                SocketAddr::new(self.source, identifier),
                SocketAddr::new(self.destination, 0),
            ));
        }
        self.is_echo_reply().then(|| {
            (
                SocketAddr::new(self.source, 0),
                SocketAddr::new(self.destination, identifier),
            )
        })
    }

    /// ICMP echo request.
    pub fn is_echo_request(&self) -> bool {
        matches!(
            (self.protocol, self.transport),
            (protocol::ICMP, Transport::Icmp { kind: 8, .. }) | (protocol::ICMPV6, Transport::Icmp { kind: 128, .. })
        )
    }

    /// ICMP echo reply.
    pub fn is_echo_reply(&self) -> bool {
        matches!(
            (self.protocol, self.transport),
            (protocol::ICMP, Transport::Icmp { kind: 0, .. }) | (protocol::ICMPV6, Transport::Icmp { kind: 129, .. })
        )
    }

    /// An ICMP message about another packet: destination unreachable, source quench, time exceeded, parameter problem (RFC 792);
    /// all with the high bit clear (RFC 4443, 2.1).
    pub fn is_error(&self) -> bool {
        match (self.protocol, self.transport) {
            (protocol::ICMP, Transport::Icmp { kind, .. }) => [3, 4, 11, 12].contains(&kind),
            (protocol::ICMPV6, Transport::Icmp { kind, .. }) => kind < 128,
            _ => false,
        }
    }

    /// TCP flags; 0 for all else.
    pub fn tcp_flags(&self) -> u8 {
        match self.transport {
            Transport::Tcp { flags, .. } => flags,
            _ => 0,
        }
    }

    /// Asks for a new connection.
    pub fn opens(&self) -> bool {
        self.tcp_flags() & (flag::SYN | flag::ACK) == flag::SYN
    }

    /// What keeps a link working (neighbour discovery, listener reports): never forwarded, so nobody's business but the
    /// kernel's.
    pub fn is_link_control(&self) -> bool {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source, self.destination) else {
            return false;
        };
        (source.is_unspecified() || source.is_unicast_link_local())
            && (destination.is_unicast_link_local() || destination.is_multicast())
    }
}

/// Reads a frame.
pub fn read(frame: &[u8]) -> Frame {
    let Some(ethertype) = word(frame, 12) else {
        return Frame::Malformed;
    };
    let packet = match ethertype {
        0x0800 => ipv4(frame, ETHERNET),
        0x86dd => ipv6(frame, ETHERNET),
        _ => return Frame::NotIp,
    };
    packet.map_or(Frame::Malformed, Frame::Ip)
}

/// The packet that an ICMP error quotes: what its sender had sent, at least to the first 8 bytes of the transport header.
/// Offsets are those in the frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// TCP or UDP.
    pub protocol: u8,
    /// Source.
    pub source: SocketAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
}

/// Reads what an ICMP error quotes; `None` when it is no TCP or UDP packet with its ports.
pub fn quoted(frame: &[u8], packet: &Packet) -> Option<Quoted> {
    let l3 = packet.l4 + 8;
    let inside = frame.get(..packet.end)?;
    let (source, destination, protocol, l4): (IpAddr, IpAddr, _, _) = match packet.source {
        IpAddr::V4(_) => {
            let (source, destination) = addresses_v4(inside, l3)?;
            let header = header_length_v4(inside, l3)?;
            if word(inside, l3 + 6)? & 0x1fff != 0 {
                return None;
            }
            (source.into(), destination.into(), *inside.get(l3 + 9)?, l3 + header)
        }
        IpAddr::V6(_) => {
            let (source, destination) = addresses_v6(inside, l3)?;
            if inside[l3] >> 4 != 6 {
                return None;
            }
            (source.into(), destination.into(), inside[l3 + 6], l3 + 40)
        }
    };
    if ![protocol::TCP, protocol::UDP].contains(&protocol) || inside.len() < l4 + 8 {
        return None;
    }
    Some(Quoted {
        protocol,
        source: SocketAddr::new(source, word(inside, l4)?),
        destination: SocketAddr::new(destination, word(inside, l4 + 2)?),
        l3,
        l4,
    })
}

fn ipv4(frame: &[u8], at: usize) -> Option<Packet> {
    let (source, destination) = addresses_v4(frame, at)?;
    let header = header_length_v4(frame, at)?;
    let length = usize::from(word(frame, at + 2)?);
    let field = word(frame, at + 6)?;
    if length < header || at + length > frame.len() {
        return None;
    }
    let part = match (field & 0x1fff, field & 0x2000) {
        (0, 0) => Part::Whole,
        (0, _) => Part::First,
        _ => Part::Later,
    };
    transport(
        frame,
        Packet {
            source: source.into(),
            destination: destination.into(),
            protocol: frame[at + 9],
            part,
            // Bytes as they are: it is compared, never counted with.
            identification: if part == Part::Whole {
                0
            } else {
                u32::from(u16::from_ne_bytes([frame[at + 4], frame[at + 5]]))
            },
            offset: (field & 0x1fff) << 3,
            l4: at + header,
            end: at + length,
            transport: Transport::Opaque,
        },
    )
}

fn ipv6(frame: &[u8], at: usize) -> Option<Packet> {
    let (source, destination) = addresses_v6(frame, at)?;
    if frame[at] >> 4 != 6 {
        return None;
    }
    let end = at + 40 + usize::from(word(frame, at + 4)?);
    if end > frame.len() {
        return None;
    }
    let mut packet = Packet {
        source: source.into(),
        destination: destination.into(),
        protocol: frame[at + 6],
        part: Part::Whole,
        identification: 0,
        offset: 0,
        l4: at + 40,
        end,
        transport: Transport::Opaque,
    };
    let mut walked = 0;
    // Hop-by-hop, routing, fragment, authentication, destination options.
    while [0, 43, 44, 51, 60].contains(&packet.protocol) {
        let extension = frame.get(packet.l4..packet.l4 + 8)?;
        let length = match packet.protocol {
            44 => 8,
            51 => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        if walked == EXTENSIONS || packet.l4 + length > end {
            return None;
        }
        walked += 1;
        if packet.protocol == 44 {
            let field = u16::from_be_bytes([extension[2], extension[3]]);
            // A fragment header on a whole packet says nothing (RFC 6946).
            if field & 0xfff9 != 0 {
                packet.identification = u32::from_ne_bytes([extension[4], extension[5], extension[6], extension[7]]);
                packet.offset = field & 0xfff8;
                packet.part = if field & 0xfff8 == 0 { Part::First } else { Part::Later };
            }
        }
        packet.protocol = extension[0];
        packet.l4 += length;
        if packet.part == Part::Later {
            break;
        }
    }
    transport(frame, packet)
}

fn transport(frame: &[u8], mut packet: Packet) -> Option<Packet> {
    if packet.part == Part::Later {
        return Some(packet);
    }
    let bytes = frame.get(packet.l4..packet.end)?;
    packet.transport = match packet.protocol {
        protocol::TCP => {
            let header = usize::from(bytes.get(12)? >> 4) * 4;
            // Also in a first fragment: a header spread over fragments is made to get past filters (RFC 1858, 3).
            if header < 20 || header > bytes.len() {
                return None;
            }
            Transport::Tcp {
                source: word(bytes, 0)?,
                destination: word(bytes, 2)?,
                flags: bytes[13],
                header,
            }
        }
        protocol::UDP => {
            let length = usize::from(word(bytes, 4)?);
            if bytes.len() < 8 || length < 8 || (packet.part == Part::Whole && length > bytes.len()) {
                return None;
            }
            Transport::Udp {
                source: word(bytes, 0)?,
                destination: word(bytes, 2)?,
            }
        }
        protocol::ICMP | protocol::ICMPV6 => {
            if bytes.len() < 8 {
                return None;
            }
            Transport::Icmp {
                kind: bytes[0],
                identifier: word(bytes, 4)?,
            }
        }
        _ => Transport::Opaque,
    };
    Some(packet)
}

fn header_length_v4(bytes: &[u8], at: usize) -> Option<usize> {
    let first = *bytes.get(at)?;
    let length = usize::from(first & 0x0f) * 4;
    (first >> 4 == 4 && length >= 20).then_some(length)
}

fn addresses_v4(bytes: &[u8], at: usize) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let header = bytes.get(at..at + 20)?;
    let address = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).ok().map(Ipv4Addr::from);
    Some((address(12)?, address(16)?))
}

fn addresses_v6(bytes: &[u8], at: usize) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let header = bytes.get(at..at + 40)?;
    let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).ok().map(Ipv6Addr::from);
    Some((address(8)?, address(24)?))
}

/// A number of two bytes, in network byte order.
pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}
