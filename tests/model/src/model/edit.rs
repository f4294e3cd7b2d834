//! Frames that were changed: what they must look like, and which checksums must still say the same.

use std::net::{IpAddr, SocketAddr};

use super::frame::{ETHERNET, Packet, Part, Quoted, Transport, protocol, word};
use super::sum;

/// Time to live of what the node itself says.
const HOPS: u8 = 64;

/// A checksum and what it covers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sum {
    /// Offset of its field.
    pub at: usize,
    /// What it covers.
    from: usize,
    to: usize,
    /// Whether it covers the addresses too.
    pseudo: bool,
    /// Of UDP, where zero means "none".
    udp: bool,
    /// The sum of all that, which stays.
    total: u16,
}

impl Sum {
    fn of(frame: &[u8], at: usize, (from, to): (usize, usize), pseudo: bool, udp: bool) -> Self {
        let mut sum = Self {
            at,
            from,
            to,
            pseudo,
            udp,
            total: 0,
        };
        sum.total = sum.over(frame);
        sum
    }

    fn over(&self, frame: &[u8]) -> u16 {
        let covered = frame.get(self.from..self.to).unwrap_or_default();
        let addresses = match (self.pseudo, word(frame, 12)) {
            (true, Some(0x0800)) => frame.get(26..34),
            (true, Some(0x86dd)) => frame.get(22..54),
            _ => None,
        };
        sum::total(&[addresses.unwrap_or_default(), covered])
    }

    /// Whether a frame keeps the sum; zero is for UDP packets that have none.
    pub fn is_kept(&self, frame: &[u8]) -> bool {
        self.over(frame) == self.total && !(self.udp && word(frame, self.at) == Some(0))
    }
}

/// A frame and its checksums.
pub type Edited = (Vec<u8>, Vec<Sum>);

/// Gives a packet another source and destination; ports and identifiers only where it has some.
pub fn translate(frame: &[u8], packet: &Packet, source: SocketAddr, destination: SocketAddr) -> Edited {
    let mut sums = Vec::new();
    if packet.source.is_ipv4() {
        let header = usize::from(frame[ETHERNET] & 0x0f) * 4;
        sums.push(Sum::of(
            frame,
            ETHERNET + 10,
            (ETHERNET, ETHERNET + header),
            false,
            false,
        ));
    }
    let covered = (packet.l4, packet.end);
    match (packet.part, packet.protocol) {
        (Part::Later, _) => {}
        (_, protocol::TCP) => sums.push(Sum::of(frame, packet.l4 + 16, covered, true, false)),
        (_, protocol::UDP) if word(frame, packet.l4 + 6) != Some(0) => {
            sums.push(Sum::of(frame, packet.l4 + 6, covered, true, true));
        }
        (_, protocol::ICMP) => sums.push(Sum::of(frame, packet.l4 + 2, covered, false, false)),
        (_, protocol::ICMPV6) => sums.push(Sum::of(frame, packet.l4 + 2, covered, true, false)),
        _ => {}
    }
    let mut frame = frame.to_vec();
    put_addresses(&mut frame, ETHERNET, source.ip(), destination.ip());
    if packet.ends().is_some() {
        put(&mut frame, packet.l4, &source.port().to_be_bytes());
        put(&mut frame, packet.l4 + 2, &destination.port().to_be_bytes());
    } else if packet.is_echo_request() {
        put(&mut frame, packet.l4 + 4, &source.port().to_be_bytes());
    } else if packet.is_echo_reply() {
        put(&mut frame, packet.l4 + 4, &destination.port().to_be_bytes());
    }
    (frame, sums)
}

/// Translates an ICMP error: the message's own addresses, and the ends of the packet it quotes. The quoted packet's own
/// transport checksum stays as it was sent: most quotes are too short to verify it (RFC 5508, 4.2 wants it updated only where it can
/// be).
pub fn translate_error(
    frame: &[u8],
    packet: &Packet,
    (source, destination): (IpAddr, IpAddr),
    quoted: &Quoted,
    (quoted_source, quoted_destination): (SocketAddr, SocketAddr),
) -> Edited {
    let (mut edited, mut sums) = translate(
        frame,
        packet,
        SocketAddr::new(source, 0),
        SocketAddr::new(destination, 0),
    );
    if packet.source.is_ipv4() {
        sums.push(Sum::of(frame, quoted.l3 + 10, (quoted.l3, quoted.l4), false, false));
    }
    put_addresses(&mut edited, quoted.l3, quoted_source.ip(), quoted_destination.ip());
    put(&mut edited, quoted.l4, &quoted_source.port().to_be_bytes());
    put(&mut edited, quoted.l4 + 2, &quoted_destination.port().to_be_bytes());
    (edited, sums)
}

/// The reset that answers a segment (RFC 9293, 3.10.7.1); a reset is never answered.
pub fn reset(frame: &[u8], packet: &Packet) -> Option<Edited> {
    let Transport::Tcp {
        source,
        destination,
        flags,
        header,
    } = packet.transport
    else {
        return None;
    };
    if flags & super::frame::flag::RST != 0 {
        return None;
    }
    let number = |at: usize| frame.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let (sequence, acknowledgement, answer) = if flags & super::frame::flag::ACK != 0 {
        (number(packet.l4 + 8)?, 0, 0x04)
    } else {
        let data = u32::try_from(packet.end - packet.l4 - header).ok()?;
        let length = data + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
        (0, number(packet.l4 + 4)?.wrapping_add(length), 0x14)
    };
    let mut segment = Vec::with_capacity(20);
    segment.extend(destination.to_be_bytes());
    segment.extend(source.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([0x50, answer, 0, 0, 0, 0, 0, 0]);
    let sum = sum::transport_field(packet.destination, packet.source, protocol::TCP, &segment);
    segment[16..18].copy_from_slice(&sum);
    answer_with(frame, (packet.destination, packet.source), protocol::TCP, &segment, 16)
}

/// "Port unreachable", type and code for each family (RFC 792; RFC 4443, 3.1).
pub const PORT_UNREACHABLE: [(u8, u8); 2] = [(3, 3), (1, 4)];
/// "Time exceeded in transit" (RFC 792; RFC 4443, 3.3).
pub const HOPS_EXCEEDED: [(u8, u8); 2] = [(11, 0), (3, 0)];

/// The ICMP error about a packet, which quotes the IP header and 8 bytes (RFC 792). None is about errors, about later fragments,
/// or to who has no address (RFC 1122, 3.2.2; RFC 4443, 2.4 (e)), and none about packets with options or extension headers.
pub fn icmp_error(frame: &[u8], packet: &Packet, speaker: IpAddr, kinds: [(u8, u8); 2]) -> Option<Edited> {
    let (protocol, (kind, code), header) = match packet.source {
        IpAddr::V4(_) => (protocol::ICMP, kinds[0], 20),
        IpAddr::V6(_) => (protocol::ICMPV6, kinds[1], 40),
    };
    let has_address = match packet.source {
        // This network, multicast, reserved (RFC 6890).
        IpAddr::V4(source) => (1..224).contains(&source.octets()[0]),
        IpAddr::V6(source) => ![0, 0xff].contains(&source.octets()[0]),
    };
    if packet.l4 != ETHERNET + header || packet.is_error() || packet.part == Part::Later || !has_address {
        return None;
    }
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(frame.get(ETHERNET..ETHERNET + header + 8)?);
    let sum = match packet.source {
        IpAddr::V4(_) => sum::field(&[&message]),
        IpAddr::V6(_) => sum::transport_field(speaker, packet.source, protocol, &message),
    };
    message[2..4].copy_from_slice(&sum);
    answer_with(frame, (speaker, packet.source), protocol, &message, 2)
}

/// A packet back to where another came from.
fn answer_with(
    frame: &[u8],
    (from, to): (IpAddr, IpAddr),
    protocol: u8,
    payload: &[u8],
    sum_at: usize,
) -> Option<Edited> {
    let mut answer = Vec::with_capacity(ETHERNET + 40 + payload.len());
    answer.extend(frame.get(6..12)?);
    answer.extend(frame.get(0..6)?);
    answer.extend(frame.get(12..14)?);
    let length = u16::try_from(payload.len()).ok()?;
    let mut sums = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + length).to_be_bytes());
            // Never to be fragmented, so it needs no identification (RFC 6864, 4.1).
            header.extend([0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = sum::field(&[&header]);
            header[10..12].copy_from_slice(&sum);
            answer.extend(header);
            sums.push(Sum::of(&answer, ETHERNET + 10, (ETHERNET, ETHERNET + 20), false, false));
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            answer.extend([0x60, 0, 0, 0]);
            answer.extend(length.to_be_bytes());
            answer.extend([protocol, HOPS]);
            answer.extend(from.octets());
            answer.extend(to.octets());
        }
        _ => return None,
    }
    let l4 = answer.len();
    answer.extend(payload);
    let pseudo = protocol != protocol::ICMP;
    sums.push(Sum::of(&answer, l4 + sum_at, (l4, l4 + payload.len()), pseudo, false));
    Some((answer, sums))
}

/// Where a frame's time to live (hop limit) is.
fn hops_at(frame: &[u8]) -> usize {
    if word(frame, 12) == Some(0x0800) {
        ETHERNET + 8
    } else {
        ETHERNET + 7
    }
}

/// Routers that a packet may still pass, with this one.
pub fn hops(frame: &[u8]) -> u8 {
    frame.get(hops_at(frame)).copied().unwrap_or(0)
}

/// A packet that passed this router: one hop less; the IPv4 header's checksum follows.
pub fn pass_router((mut frame, mut sums): Edited) -> Edited {
    let header_sum = ETHERNET + 10;
    if word(&frame, 12) == Some(0x0800) && sums.iter().all(|sum| sum.at != header_sum) {
        let header = usize::from(frame[ETHERNET] & 0x0f) * 4;
        sums.push(Sum::of(&frame, header_sum, (ETHERNET, ETHERNET + header), false, false));
    }
    let at = hops_at(&frame);
    frame[at] -= 1;
    (frame, sums)
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put_addresses(frame: &mut [u8], l3: usize, source: IpAddr, destination: IpAddr) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            put(frame, l3 + 12, &source.octets());
            put(frame, l3 + 16, &destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            put(frame, l3 + 8, &source.octets());
            put(frame, l3 + 24, &destination.octets());
        }
        // A packet has addresses of one family.
        _ => {}
    }
}
