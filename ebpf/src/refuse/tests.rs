use std::cell::RefCell;
use std::vec::Vec;

use zerocopy::FromBytes;

use causeway_abi::Address;

use super::*;
use crate::parse::{Parsed, parse, parse_embedded};

struct Frame(RefCell<Vec<u8>>);

impl Packet for Frame {
    fn length(&self) -> u32 {
        self.0.borrow().length()
    }

    fn read<T: FromBytes>(&self, offset: u32) -> Option<T> {
        self.0.borrow().read(offset)
    }

    fn fill<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> bool {
        self.0.borrow().fill(offset, buffer)
    }

    fn read_at<const OFFSET: usize, T: FromBytes>(&self) -> Option<T> {
        self.read(OFFSET as u32)
    }
}

impl Answer for Frame {
    fn resize(&self, length: u32) -> bool {
        self.0.borrow_mut().resize(length as usize, 0);
        true
    }

    fn put<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> bool {
        self.0.borrow_mut()[offset as usize..offset as usize + N].copy_from_slice(bytes);
        true
    }

    fn sum<const N: usize>(&self, bytes: &[u8; N]) -> u16 {
        csum::fold(csum::add(0, bytes))
    }
}

const ETHERNET_V4: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
const ETHERNET_V6: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];

fn ipv4(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut frame = ETHERNET_V4.to_vec();
    frame.extend([
        0x45,
        0,
        0,
        20 + transport.len() as u8,
        7,
        7,
        0x40,
        0,
        64,
        protocol,
        0,
        0,
    ]);
    frame.extend([10, 244, 1, 5, 10, 96, 0, 1]);
    frame.extend(transport);
    frame
}

fn ipv6(next_header: u8, transport: &[u8]) -> Vec<u8> {
    let mut frame = ETHERNET_V6.to_vec();
    frame.extend([0x60, 0, 0, 0, 0, transport.len() as u8, next_header, 64]);
    frame.extend([0xfd; 16]);
    frame.extend([0xfc; 16]);
    frame.extend(transport);
    frame
}

fn segment(flags: u8, payload: usize) -> Vec<u8> {
    let mut segment = [
        0x9c, 0x40, 0, 80, 0, 0, 0, 100, 0, 0, 0, 200, 0x50, flags, 1, 1, 0, 0, 0, 0,
    ]
    .to_vec();
    segment.resize(20 + payload, 7);
    segment
}

const DATAGRAM: [u8; 12] = [0x9c, 0x40, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];

fn headers(frame: &[u8]) -> Headers {
    match parse(frame) {
        Parsed::Ip(headers) => headers,
        other => panic!("{other:?}"),
    }
}

/// The answer to a frame, its headers checked for going back to the sender.
fn answer(frame: Vec<u8>) -> Option<(Vec<u8>, Headers)> {
    let asked = headers(&frame);
    let frame = Frame(RefCell::new(frame));
    let answered = match kind(&asked) {
        Kind::ResetV4 => reset_v4(&frame, &asked),
        Kind::ResetV6 => reset_v6(&frame, &asked),
        Kind::ErrorV4 | Kind::ErrorV6 => error(
            &frame,
            &asked,
            asked.destination,
            IcmpError::port_unreachable(asked.version),
        ),
        Kind::Silence => false,
    };
    if !answered {
        return None;
    }
    let frame = frame.0.into_inner();
    let answer = headers(&frame);
    assert_eq!((answer.source, answer.destination), (asked.destination, asked.source));
    assert_eq!(answer.end as usize, frame.len());
    assert_eq!(frame[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    Some((frame, answer))
}

fn error(frame: &Frame, asked: &Headers, source: Address, error: IcmpError) -> bool {
    match source.to_v4() {
        Some(source) => {
            assert_eq!(asked.version, Version::V4);
            error_v4(frame, source, error)
        }
        None => error_v6(frame, &source.bytes, error),
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])))
        .sum()
}

/// Sum of the transport part with its pseudo header; all ones when the checksum is right.
fn transport_sum(frame: &[u8], headers: &Headers) -> u16 {
    let addresses = match headers.version {
        Version::V4 => &frame[26..34],
        Version::V6 => &frame[22..54],
    };
    let length = (headers.end - headers.l4) as u16;
    let pseudo = sum(addresses) + sum(&[0, headers.protocol]) + sum(&length.to_be_bytes());
    csum::fold(pseudo + sum(&frame[headers.l4 as usize..]))
}

#[test]
fn an_opening_is_answered_with_its_acknowledgement() {
    for frame in [
        ipv4(6, &segment(tcp_flags::SYN, 0)),
        ipv6(6, &segment(tcp_flags::SYN, 0)),
    ] {
        let (frame, headers) = answer(frame).unwrap();
        assert_eq!(
            (headers.source_port_be, headers.destination_port_be),
            (80_u16.to_be(), 40_000_u16.to_be())
        );
        assert_eq!(headers.flags, tcp_flags::RST | tcp_flags::ACK);
        assert_eq!(
            frame[headers.l4 as usize + 4..headers.l4 as usize + 12],
            [0, 0, 0, 0, 0, 0, 0, 101]
        );
        assert_eq!(transport_sum(&frame, &headers), 0xffff);
    }
}

#[test]
fn the_ip_header_of_an_answer_sums_up() {
    let (frame, _) = answer(ipv4(6, &segment(tcp_flags::SYN, 0))).unwrap();
    assert_eq!(csum::fold(sum(&frame[14..34])), 0xffff);
}

#[test]
fn payload_without_acknowledgement_is_acknowledged() {
    let (frame, _) = answer(ipv4(6, &segment(tcp_flags::SYN | tcp_flags::FIN, 10))).unwrap();
    assert_eq!(frame[34 + 8..34 + 12], 112_u32.to_be_bytes());
}

#[test]
fn a_segment_with_acknowledgement_is_answered_at_that_number() {
    let (frame, headers) = answer(ipv4(6, &segment(tcp_flags::ACK, 10))).unwrap();
    assert_eq!(headers.flags, tcp_flags::RST);
    assert_eq!(frame[34 + 4..34 + 12], [0, 0, 0, 200, 0, 0, 0, 0]);
}

#[test]
fn a_reset_is_not_answered() {
    assert_eq!(answer(ipv4(6, &segment(tcp_flags::RST, 0))), None);
    assert_eq!(answer(ipv6(6, &segment(tcp_flags::RST | tcp_flags::ACK, 0))), None);
}

#[test]
fn unreachable_quotes_the_refused_packet() {
    for (asked, code) in [(ipv4(17, &DATAGRAM), [3, 3]), (ipv6(17, &DATAGRAM), [1, 4])] {
        let (frame, headers) = answer(asked.clone()).unwrap();
        let l4 = headers.l4 as usize;
        assert_eq!(frame[l4..l4 + 2], code);
        assert_eq!(frame[l4 + 8..], asked[14..l4 + 8]);
        let embedded = parse_embedded(&frame[..], &headers).unwrap();
        assert_eq!(
            (embedded.source, embedded.destination),
            (headers.destination, headers.source)
        );
        assert_eq!(embedded.destination_port_be, 53_u16.to_be());
        match headers.version {
            Version::V4 => assert_eq!(csum::fold(sum(&frame[34..])), 0xffff),
            Version::V6 => assert_eq!(transport_sum(&frame, &headers), 0xffff),
        }
    }
}

#[test]
fn datagrams_with_options_are_not_answered() {
    let mut frame = ipv4(17, &DATAGRAM);
    frame[14] = 0x46;
    frame.splice(34..34, [1, 1, 1, 0]);
    frame[17] += 4;
    assert_eq!(answer(frame), None);
}

#[test]
fn a_router_speaks_in_its_own_name_and_tells_the_mtu() {
    let routers = [Address::from_v4([10, 244, 1, 1]), Address::new([0xfe; 16])];
    let errors = [
        (
            IcmpError::hops_exceeded as fn(Version) -> IcmpError,
            [[11, 0], [3, 0]],
            0_u32,
        ),
        (|version| IcmpError::too_big(version, 1_450), [[3, 4], [2, 0]], 1_450),
    ];
    for (make, codes, rest) in errors {
        for (number, asked) in [
            ipv4(6, &segment(tcp_flags::ACK, 9)),
            ipv6(6, &segment(tcp_flags::ACK, 9)),
        ]
        .into_iter()
        .enumerate()
        {
            let before = headers(&asked);
            let frame = Frame(RefCell::new(asked.clone()));
            assert!(error(&frame, &before, routers[number], make(before.version)));
            let frame = frame.0.into_inner();
            let after = headers(&frame);
            assert_eq!((after.source, after.destination), (routers[number], before.source));
            let l4 = after.l4 as usize;
            assert_eq!(
                (&frame[l4..l4 + 2], &frame[l4 + 4..l4 + 8]),
                (&codes[number][..], &rest.to_be_bytes()[..])
            );
            assert_eq!(frame[l4 + 8..], asked[14..l4 + 8]);
            match after.version {
                Version::V4 => assert_eq!(csum::fold(sum(&frame[34..])), 0xffff),
                Version::V6 => assert_eq!(transport_sum(&frame, &after), 0xffff),
            }
        }
    }
}

#[test]
fn no_error_is_sent_about_an_error_or_to_nobody() {
    let about = |frame: &[u8]| has_error(&headers(frame));
    assert!(about(&ipv4(17, &DATAGRAM)) && about(&ipv4(1, &[8, 0, 0, 0, 0, 1, 0, 1])));
    assert!(!about(&ipv4(1, &[11, 0, 0, 0, 0, 0, 0, 0])) && !about(&ipv6(58, &[3, 0, 0, 0, 0, 0, 0, 0])));
    let mut from_nobody = ipv4(17, &DATAGRAM);
    from_nobody[26..30].copy_from_slice(&[0; 4]);
    assert!(!about(&from_nobody));
}
