//! Answers to packets that no backend takes: TCP resets and ICMP "port unreachable", so that clients fail at once.
//!
//! They are built whole, Ethernet header included, from what the refused packet says.

use crate::csum;
use crate::parse::tcp_flags;

/// The addresses a frame came with; the answer goes the other way.
#[derive(Clone, Copy, Debug)]
pub struct Macs {
    /// Destination then source, as at the start of the frame.
    pub bytes: [u8; 12],
}

/// Length of [`tcp_reset_v4`].
pub const TCP_RESET_V4_LENGTH: usize = 14 + 20 + 20;
/// Length of [`tcp_reset_v6`].
pub const TCP_RESET_V6_LENGTH: usize = 14 + 40 + 20;
/// Length of [`port_unreachable_v4`].
pub const PORT_UNREACHABLE_V4_LENGTH: usize = 14 + 20 + 8 + QUOTED_V4;
/// Length of [`port_unreachable_v6`].
pub const PORT_UNREACHABLE_V6_LENGTH: usize = 14 + 40 + 8 + QUOTED_V6;
/// Bytes of the refused IPv4 packet that the answer quotes: header and 8 bytes (RFC 792).
pub const QUOTED_V4: usize = 20 + 8;
/// The same for IPv6, where more is wanted but the ports are what counts (RFC 4443, 2.4 (c)).
pub const QUOTED_V6: usize = 40 + 8;

const HOPS: u8 = 64;
const TCP: u8 = 6;

/// The transport header of a reset (RFC 9293, 3.10.7.1), without checksum. `header` is that of the refused segment,
/// `segment_length` its payload in bytes. `None` for a reset, which is never answered.
#[inline(always)]
fn reset_header(header: &[u8; 20], segment_length: u32) -> Option<[u8; 20]> {
    let flags = header[13];
    if flags & tcp_flags::RST != 0 {
        return None;
    }
    let (sequence, acknowledgement, reset_flags) = if flags & tcp_flags::ACK != 0 {
        ([header[8], header[9], header[10], header[11]], [0; 4], tcp_flags::RST)
    } else {
        let length = segment_length
            .wrapping_add((flags & tcp_flags::SYN != 0) as u32)
            .wrapping_add((flags & tcp_flags::FIN != 0) as u32);
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        ([0; 4], sequence.wrapping_add(length).to_be_bytes(), tcp_flags::RST | tcp_flags::ACK)
    };
    let mut reset = [0; 20];
    reset[0] = header[2];
    reset[1] = header[3];
    reset[2] = header[0];
    reset[3] = header[1];
    put(&mut reset, 4, &sequence);
    put(&mut reset, 8, &acknowledgement);
    reset[12] = 5 << 4;
    reset[13] = reset_flags;
    Some(reset)
}

/// A reset for a TCP segment over IPv4. `ip` is the refused packet's IP header.
#[inline(always)]
pub fn tcp_reset_v4(
    macs: &Macs,
    ip: &[u8; 20],
    tcp: &[u8; 20],
    segment_length: u32,
) -> Option<[u8; TCP_RESET_V4_LENGTH]> {
    let mut reset = reset_header(tcp, segment_length)?;
    let header = ipv4_header(ip, 20, TCP);
    let pseudo = csum::add(csum::add(0, &part::<20, 8>(&header, 12)), &[0, TCP, 0, 20]);
    let checksum = csum::finish(csum::add(pseudo, &reset));
    put(&mut reset, 16, &checksum.to_ne_bytes());
    let mut frame = [0; TCP_RESET_V4_LENGTH];
    ethernet(&mut frame, macs, [0x08, 0x00]);
    put(&mut frame, 14, &header);
    put(&mut frame, 34, &reset);
    Some(frame)
}

/// A reset for a TCP segment over IPv6. `ip` is the refused packet's fixed header.
#[inline(always)]
pub fn tcp_reset_v6(
    macs: &Macs,
    ip: &[u8; 40],
    tcp: &[u8; 20],
    segment_length: u32,
) -> Option<[u8; TCP_RESET_V6_LENGTH]> {
    let mut reset = reset_header(tcp, segment_length)?;
    let header = ipv6_header(ip, 20, TCP);
    let pseudo = csum::add(csum::add(0, &part::<40, 32>(&header, 8)), &[0, TCP, 0, 20]);
    let checksum = csum::finish(csum::add(pseudo, &reset));
    put(&mut reset, 16, &checksum.to_ne_bytes());
    let mut frame = [0; TCP_RESET_V6_LENGTH];
    ethernet(&mut frame, macs, [0x86, 0xdd]);
    put(&mut frame, 14, &header);
    put(&mut frame, 54, &reset);
    Some(frame)
}

/// ICMP destination unreachable, port unreachable (RFC 792). `quoted` is the start of the refused packet, whose header
/// has no options.
#[inline(always)]
pub fn port_unreachable_v4(macs: &Macs, quoted: &[u8; QUOTED_V4]) -> [u8; PORT_UNREACHABLE_V4_LENGTH] {
    const ICMP: u8 = 1;
    let header = ipv4_header(&part::<QUOTED_V4, 20>(quoted, 0), 8 + QUOTED_V4 as u16, ICMP);
    let mut icmp = [3, 3, 0, 0, 0, 0, 0, 0];
    put(&mut icmp, 2, &csum::finish(csum::add(csum::add(0, &[3, 3]), quoted)).to_ne_bytes());
    let mut frame = [0; PORT_UNREACHABLE_V4_LENGTH];
    ethernet(&mut frame, macs, [0x08, 0x00]);
    put(&mut frame, 14, &header);
    put(&mut frame, 34, &icmp);
    put(&mut frame, 42, quoted);
    frame
}

/// ICMPv6 destination unreachable, port unreachable (RFC 4443, 3.1). `quoted` is the start of the refused packet, which
/// has no extension headers.
#[inline(always)]
pub fn port_unreachable_v6(macs: &Macs, quoted: &[u8; QUOTED_V6]) -> [u8; PORT_UNREACHABLE_V6_LENGTH] {
    const ICMPV6: u8 = 58;
    const LENGTH: u16 = 8 + QUOTED_V6 as u16;
    let header = ipv6_header(&part::<QUOTED_V6, 40>(quoted, 0), LENGTH, ICMPV6);
    let pseudo = csum::add(csum::add(0, &part::<40, 32>(&header, 8)), &[0, ICMPV6, 0, LENGTH as u8]);
    let mut icmp = [1, 4, 0, 0, 0, 0, 0, 0];
    put(&mut icmp, 2, &csum::finish(csum::add(csum::add(pseudo, &[1, 4]), quoted)).to_ne_bytes());
    let mut frame = [0; PORT_UNREACHABLE_V6_LENGTH];
    ethernet(&mut frame, macs, [0x86, 0xdd]);
    put(&mut frame, 14, &header);
    put(&mut frame, 54, &icmp);
    put(&mut frame, 62, quoted);
    frame
}

#[inline(always)]
fn ethernet<const N: usize>(frame: &mut [u8; N], macs: &Macs, ethertype: [u8; 2]) {
    put(frame, 0, &part::<12, 6>(&macs.bytes, 6));
    put(frame, 6, &part::<12, 6>(&macs.bytes, 0));
    put(frame, 12, &ethertype);
}

/// The header of an answer to the packet with header `ip`.
#[inline(always)]
fn ipv4_header(ip: &[u8; 20], payload: u16, protocol: u8) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 0x45;
    put(&mut header, 2, &(20 + payload).to_be_bytes());
    // Do not fragment: the identification may then be zero (RFC 6864, 4.1).
    header[6] = 0x40;
    header[8] = HOPS;
    header[9] = protocol;
    put(&mut header, 12, &part::<20, 4>(ip, 16));
    put(&mut header, 16, &part::<20, 4>(ip, 12));
    let checksum = csum::finish(csum::add(0, &header));
    put(&mut header, 10, &checksum.to_ne_bytes());
    header
}

#[inline(always)]
fn ipv6_header(ip: &[u8; 40], payload: u16, next_header: u8) -> [u8; 40] {
    let mut header = [0; 40];
    header[0] = 0x60;
    put(&mut header, 4, &payload.to_be_bytes());
    header[6] = next_header;
    header[7] = HOPS;
    put(&mut header, 8, &part::<40, 16>(ip, 24));
    put(&mut header, 24, &part::<40, 16>(ip, 8));
    header
}

#[inline(always)]
fn put<const N: usize, const M: usize>(bytes: &mut [u8; N], at: usize, what: &[u8; M]) {
    let mut i = 0;
    while i < M {
        bytes[at + i] = what[i];
        i += 1;
    }
}

#[inline(always)]
fn part<const N: usize, const M: usize>(bytes: &[u8; N], at: usize) -> [u8; M] {
    let mut out = [0; M];
    let mut i = 0;
    while i < M {
        out[i] = bytes[at + i];
        i += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Parsed, parse, parse_embedded, protocol};

    const MACS: Macs = Macs { bytes: [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2] };

    fn ip(protocol: u8) -> [u8; 20] {
        [0x45, 0, 0, 48, 7, 7, 0x40, 0, 64, protocol, 0, 0, 10, 244, 1, 5, 10, 96, 0, 1]
    }

    fn syn(flags: u8) -> [u8; 20] {
        [0x9c, 0x40, 0, 80, 0, 0, 0, 100, 0, 0, 0, 200, 0x50, flags, 1, 1, 0, 0, 0, 0]
    }

    fn headers(frame: &[u8]) -> crate::parse::Headers {
        match parse(frame) {
            Parsed::Ip(headers) => headers,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_opening_is_answered_with_its_acknowledgement() {
        let frame = tcp_reset_v4(&MACS, &ip(TCP), &syn(tcp_flags::SYN), 0).unwrap();
        let headers = headers(&frame);
        assert_eq!(headers.source.to_v4(), Some([10, 96, 0, 1]));
        assert_eq!(headers.destination.to_v4(), Some([10, 244, 1, 5]));
        assert_eq!((headers.source_port_be, headers.destination_port_be), (80_u16.to_be(), 0x9c40_u16.to_be()));
        assert_eq!(headers.flags, tcp_flags::RST | tcp_flags::ACK);
        assert_eq!(frame[34 + 4..34 + 12], [0, 0, 0, 0, 0, 0, 0, 101]);
        assert_eq!(frame[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_segment_with_acknowledgement_is_answered_at_that_number() {
        let frame = tcp_reset_v4(&MACS, &ip(TCP), &syn(tcp_flags::ACK), 10).unwrap();
        assert_eq!(headers(&frame).flags, tcp_flags::RST);
        assert_eq!(frame[34 + 4..34 + 12], [0, 0, 0, 200, 0, 0, 0, 0]);
    }

    #[test]
    fn a_reset_is_not_answered() {
        assert!(tcp_reset_v4(&MACS, &ip(TCP), &syn(tcp_flags::RST | tcp_flags::ACK), 0).is_none());
    }

    #[test]
    fn unreachable_quotes_the_refused_packet() {
        let mut quoted = [0; QUOTED_V4];
        quoted[..20].copy_from_slice(&ip(protocol::UDP));
        quoted[20..].copy_from_slice(&[0x9c, 0x40, 0, 53, 0, 28, 0, 0]);
        let frame = port_unreachable_v4(&MACS, &quoted);
        let headers = headers(&frame);
        assert_eq!(headers.protocol, protocol::ICMP);
        let embedded = parse_embedded(&frame[..], &headers).unwrap();
        assert_eq!(embedded.source, headers.destination);
        assert_eq!(embedded.destination, headers.source);
        assert_eq!(embedded.destination_port_be, 53_u16.to_be());
        assert_eq!(csum::fold(csum::add(0, &part::<PORT_UNREACHABLE_V4_LENGTH, 36>(&frame, 34))), 0xffff);
        assert_eq!(csum::fold(csum::add(0, &part::<PORT_UNREACHABLE_V4_LENGTH, 20>(&frame, 14))), 0xffff);
    }

    #[test]
    fn the_checksums_of_ipv6_answers_cover_the_addresses() {
        let mut ip = [0; 40];
        ip[0] = 0x60;
        ip[6] = TCP;
        ip[8..24].copy_from_slice(&[0xfd; 16]);
        ip[24..40].copy_from_slice(&[0xfe; 16]);
        let frame = tcp_reset_v6(&MACS, &ip, &syn(tcp_flags::SYN), 0).unwrap();
        let pseudo = csum::add(csum::add(0, &part::<TCP_RESET_V6_LENGTH, 32>(&frame, 22)), &[0, TCP, 0, 20]);
        assert_eq!(csum::fold(csum::add(pseudo, &part::<TCP_RESET_V6_LENGTH, 20>(&frame, 54))), 0xffff);

        let mut quoted = [0; QUOTED_V6];
        quoted[..40].copy_from_slice(&ip);
        quoted[6] = protocol::UDP;
        let frame = port_unreachable_v6(&MACS, &quoted);
        let pseudo = csum::add(csum::add(0, &part::<PORT_UNREACHABLE_V6_LENGTH, 32>(&frame, 22)), &[0, 58, 0, 56]);
        assert_eq!(csum::fold(csum::add(pseudo, &part::<PORT_UNREACHABLE_V6_LENGTH, 56>(&frame, 54))), 0xffff);
        let headers = headers(&frame);
        assert_eq!(headers.destination.0, [0xfd; 16]);
        assert!(headers.is_icmp_error());
    }
}
