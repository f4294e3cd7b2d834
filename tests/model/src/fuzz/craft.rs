//! From the description of a packet to its bytes.

use std::net::{IpAddr, SocketAddr};

use super::case::{AnswerSpec, Carries, ErrorSpec, Oddity, PacketSpec};
use crate::model::frame::{self, ETHERNET, Frame, Packet, flag, protocol};
use crate::model::sum;
use crate::model::{Hook, direct};

const MACS: [u8; 12] = [0x02, 0, 0, 0, 0, 0xaa, 0x02, 0, 0, 0, 0, 0xbb];
const HOPS: u8 = 64;

/// The bytes of a packet.
pub fn packet(spec: &PacketSpec) -> Vec<u8> {
    let fragment = spec.odd.iter().find_map(|odd| match odd {
        Oddity::Fragment(offset, more, identification) => Some((*offset, *more, *identification)),
        _ => None,
    });
    let (protocol, transport) = match fragment {
        Some((offset, ..)) if offset != 0 => (number(&spec.carries, spec.from), payload(spec.payload)),
        _ => transport(spec),
    };
    let mut frame = finish(spec.from.ip(), spec.to.ip(), protocol, transport, &spec.odd);
    if let Some(macs) = spec.chosen.and_then(direct::macs) {
        frame[..12].copy_from_slice(&macs);
    }
    frame
}

/// The answer to what a packet became: its ends the other way round. `None` where nobody would answer.
pub fn answer(spec: &AnswerSpec, became: &[u8], at: Hook) -> Option<PacketSpec> {
    let Frame::Ip(packet) = frame::read(became) else {
        return None;
    };
    let (from, to) = packet.ends().or_else(|| packet.echo_ends())?;
    let carries = match packet.protocol {
        protocol::TCP => Carries::Tcp(spec.flags.clone()),
        protocol::UDP => Carries::Udp,
        _ if packet.is_echo_request() => Carries::EchoReply,
        _ => return None,
    };
    Some(PacketSpec {
        at,
        from: to,
        to: from,
        carries,
        payload: spec.payload,
        odd: spec.odd.clone(),
        chosen: None,
        mark: 0,
    })
}

/// The ICMP error about what a packet became.
pub fn error(spec: &ErrorSpec, became: &[u8]) -> Option<Vec<u8>> {
    let Frame::Ip(packet) = frame::read(became) else {
        return None;
    };
    let speaker = match spec.router {
        Some(router) if router.is_ipv4() == packet.source.is_ipv4() => router,
        Some(_) => return None,
        None => packet.destination,
    };
    let quote = &became[ETHERNET..packet.end];
    let quote = &quote[..quote.len().min(usize::from(spec.quotes))];
    let mut message = vec![spec.kind.0, spec.kind.1, 0, 0, 0, 0, 0x05, 0x78];
    message.extend(quote);
    let protocol = if packet.source.is_ipv4() {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    fill_sum(&mut message, 2, speaker, packet.source, protocol);
    Some(finish(speaker, packet.source, protocol, message, &spec.odd))
}

/// Flags by their letters.
pub fn flags(letters: &str) -> u8 {
    letters.chars().fold(0, |flags, letter| {
        flags
            | match letter {
                'F' => flag::FIN,
                'S' => flag::SYN,
                'R' => flag::RST,
                'P' => 8,
                'A' => flag::ACK,
                _ => 0,
            }
    })
}

/// A packet in words.
pub fn words(frame: &[u8]) -> String {
    match frame::read(frame) {
        Frame::NotIp => format!("not IP, {} bytes", frame.len()),
        Frame::Malformed => format!("malformed, {} bytes", frame.len()),
        Frame::Ip(packet) => words_of(&packet, frame),
    }
}

fn words_of(packet: &Packet, frame: &[u8]) -> String {
    let (from, to) = match packet.ends().or_else(|| packet.echo_ends()) {
        Some((from, to)) => (from.to_string(), to.to_string()),
        None => (packet.source.to_string(), packet.destination.to_string()),
    };
    let what = match packet.protocol {
        protocol::TCP => format!("TCP [{}]", letters(packet.tcp_flags())),
        protocol::UDP => "UDP".to_owned(),
        protocol::ICMP | protocol::ICMPV6 if packet.is_error() => match frame::quoted(frame, packet) {
            Some(quoted) => format!("ICMP error about {} > {}", quoted.source, quoted.destination),
            None => "ICMP error".to_owned(),
        },
        protocol::ICMP | protocol::ICMPV6 => "ICMP".to_owned(),
        other => format!("protocol {other}"),
    };
    format!("{from} > {to} {what} {:?}, {} bytes", packet.part, frame.len())
}

fn letters(flags: u8) -> String {
    [(1, 'F'), (2, 'S'), (4, 'R'), (8, 'P'), (16, 'A')]
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, letter)| letter)
        .collect()
}

fn number(carries: &Carries, end: SocketAddr) -> u8 {
    match carries {
        Carries::Tcp(_) => protocol::TCP,
        Carries::Udp => protocol::UDP,
        Carries::Echo | Carries::EchoReply if end.is_ipv4() => protocol::ICMP,
        Carries::Echo | Carries::EchoReply => protocol::ICMPV6,
        Carries::Other(number) => *number,
    }
}

fn payload(length: u16) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn transport(spec: &PacketSpec) -> (u8, Vec<u8>) {
    let number = number(&spec.carries, spec.from);
    let mut bytes = Vec::with_capacity(20 + usize::from(spec.payload));
    let sum_at = match &spec.carries {
        Carries::Tcp(letters) => {
            bytes.extend(spec.from.port().to_be_bytes());
            bytes.extend(spec.to.port().to_be_bytes());
            bytes.extend(1_000_u32.to_be_bytes());
            bytes.extend(2_000_u32.to_be_bytes());
            let words = spec.odd.iter().find_map(|odd| match odd {
                Oddity::TcpOptions(words) => Some((*words).min(10)),
                _ => None,
            });
            let words = words.unwrap_or(0);
            bytes.extend([(5 + words) << 4, flags(letters), 0xff, 0xff, 0, 0, 0, 0]);
            bytes.extend(vec![1; usize::from(words) * 4]);
            Some(16)
        }
        Carries::Udp => {
            bytes.extend(spec.from.port().to_be_bytes());
            bytes.extend(spec.to.port().to_be_bytes());
            bytes.extend((8 + spec.payload).to_be_bytes());
            bytes.extend([0, 0]);
            Some(6)
        }
        Carries::Echo | Carries::EchoReply => {
            let (kind, identifier) = match (&spec.carries, spec.from.is_ipv4()) {
                (Carries::Echo, true) => (8, spec.from.port()),
                (Carries::Echo, false) => (128, spec.from.port()),
                (_, true) => (0, spec.to.port()),
                (_, false) => (129, spec.to.port()),
            };
            bytes.extend([kind, 0, 0, 0]);
            bytes.extend(identifier.to_be_bytes());
            bytes.extend([0, 1]);
            Some(2)
        }
        Carries::Other(_) => None,
    };
    bytes.extend(payload(spec.payload));
    if let Some(at) = sum_at {
        fill_sum(&mut bytes, at, spec.from.ip(), spec.to.ip(), number);
        if spec.odd.contains(&Oddity::NoChecksum) && number == protocol::UDP {
            bytes[at..at + 2].fill(0);
        }
        if spec.odd.contains(&Oddity::WrongChecksum) {
            bytes[at] ^= 0x5a;
        }
    }
    (number, bytes)
}

fn fill_sum(bytes: &mut [u8], at: usize, from: IpAddr, to: IpAddr, protocol: u8) {
    let sum = if protocol == protocol::ICMP {
        sum::field(&[bytes])
    } else {
        sum::transport_field(from, to, protocol, bytes)
    };
    bytes[at..at + 2].copy_from_slice(&sum);
}

fn finish(from: IpAddr, to: IpAddr, protocol: u8, transport: Vec<u8>, odd: &[Oddity]) -> Vec<u8> {
    let mut frame = MACS.to_vec();
    let (mut hops, mut fragment, mut options, mut extensions) = (HOPS, None, 0, Vec::new());
    for oddity in odd {
        match oddity {
            Oddity::Vlan(tag) => {
                frame.extend([0x81, 0x00]);
                frame.extend(tag.to_be_bytes());
            }
            Oddity::Hops(number) => hops = *number,
            Oddity::Options(words) => options = (*words).min(10),
            Oddity::Extension(kind, length) => extensions.push((*kind, *length)),
            Oddity::Fragment(offset, more, identification) => {
                fragment = Some((*offset, *more, *identification));
                extensions.push((44, 0));
            }
            _ => {}
        }
    }
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (offset, more, identification) = fragment.unwrap_or((0, false, 0x1234));
            let mut header = vec![0x45 + options, 0];
            header.extend((20 + u16::from(options) * 4 + transport.len() as u16).to_be_bytes());
            header.extend(identification.to_be_bytes());
            header.extend((offset | u16::from(more) << 13).to_be_bytes());
            header.extend([hops, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            header.extend(vec![1; usize::from(options) * 4]);
            let sum = sum::field(&[&header]);
            header[10..12].copy_from_slice(&sum);
            if odd.contains(&Oddity::WrongHeaderChecksum) {
                header[10] ^= 0xa5;
            }
            frame.extend([0x08, 0x00]);
            frame.extend(header);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut chain = Vec::new();
            for (i, (kind, length)) in extensions.iter().enumerate() {
                let next = extensions.get(i + 1).map_or(protocol, |(kind, _)| *kind);
                match (*kind, fragment) {
                    (44, Some((offset, more, identification))) => {
                        chain.extend([next, 0]);
                        chain.extend((offset << 3 | u16::from(more)).to_be_bytes());
                        chain.extend([0, 0]);
                        chain.extend(identification.to_be_bytes());
                    }
                    // Authentication headers count words, less two; the others count eight bytes, less one.
                    (51, _) => chain.extend(extension(next, *length * 2, usize::from(*length * 2 + 2) * 4)),
                    _ => chain.extend(extension(next, *length, usize::from(*length + 1) * 8)),
                }
            }
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(((chain.len() + transport.len()) as u16).to_be_bytes());
            frame.extend([extensions.first().map_or(protocol, |(kind, _)| *kind), hops]);
            frame.extend(from.octets());
            frame.extend(to.octets());
            frame.extend(chain);
        }
        // A packet has addresses of one family; what asks for two gets none.
        _ => {}
    }
    frame.extend(transport);
    for oddity in odd {
        match oddity {
            Oddity::Padding(bytes) => frame.extend(vec![0xee; usize::from(*bytes)]),
            Oddity::Cut(bytes) => frame.truncate(frame.len().saturating_sub(usize::from(*bytes)).max(ETHERNET)),
            Oddity::Byte(at, value) => {
                if let Some(byte) = frame.get_mut(usize::from(*at)) {
                    *byte = *value;
                }
            }
            _ => {}
        }
    }
    frame
}

/// An extension header full of padding options.
fn extension(next: u8, length: u8, bytes: usize) -> Vec<u8> {
    let mut header = vec![0; bytes];
    header[0] = next;
    header[1] = length;
    header
}
