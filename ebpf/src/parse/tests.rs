use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;

fn ipv4(protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header_length = 20 + options.len();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    frame.extend([0x40 | (header_length / 4) as u8, 0]);
    frame.extend(((header_length + payload.len()) as u16).to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0, 10, 244, 1, 5, 10, 96, 0, 1]);
    frame.extend(options);
    frame.extend(payload);
    frame
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0];
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next_header, 64]);
    frame.extend([0xfd; 16]);
    frame.extend([0xfc; 16]);
    frame.extend(payload);
    frame
}

const TCP: [u8; 20] = [
    0x9c,
    0x40,
    0,
    80,
    0,
    0,
    0,
    1,
    0,
    0,
    0,
    0,
    0x50,
    tcp_flags::SYN,
    1,
    1,
    0,
    0,
    0,
    0,
];
const UDP: [u8; 8] = [0x9c, 0x40, 0, 53, 0, 8, 0, 0];

fn headers(frame: &[u8]) -> Headers {
    match parse(frame) {
        Parsed::Ip(headers) => headers,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_ports_and_flags() {
    let tcp = headers(&ipv4(6, &[], 0, &TCP));
    assert_eq!(
        (tcp.source.to_v4(), tcp.destination.to_v4()),
        (Some([10, 244, 1, 5]), Some([10, 96, 0, 1]))
    );
    assert_eq!(
        (tcp.source_port_be, tcp.destination_port_be),
        (40_000_u16.to_be(), 80_u16.to_be())
    );
    assert!(tcp.opens_connection());
    let udp = headers(&ipv6(17, &UDP));
    assert_eq!((udp.version, udp.destination_port_be), (Version::V6, 53_u16.to_be()));
}

#[test]
fn options_move_the_transport_header() {
    let tcp = headers(&ipv4(6, &[1; 40], 0, &TCP));
    assert_eq!(tcp.l4, 14 + 60);
    assert_eq!(tcp.destination_port_be, 80_u16.to_be());
}

#[test]
fn only_the_first_fragment_has_ports() {
    let first = headers(&ipv4(17, &[], 0x2000, &[0x9c, 0x40, 0, 53, 16, 0, 0, 0]));
    assert_eq!(first.fragment, Fragment::First);
    assert!(first.has_ports());
    let later = headers(&ipv4(17, &[], 0x2001, &UDP));
    assert_eq!(later.fragment, Fragment::Later);
    assert!(!later.has_ports());
    assert_eq!(later.destination_port_be, 0);
}

#[test]
fn a_tcp_header_split_over_fragments_is_malformed() {
    assert_eq!(parse(&ipv4(6, &[], 0x2000, &TCP[..16])[..]), Parsed::Malformed);
}

#[test]
fn every_truncation_is_malformed() {
    for frame in [
        ipv4(6, &[], 0, &TCP),
        ipv4(17, &[1; 8], 0, &UDP),
        ipv6(6, &TCP),
        ipv4(1, &[], 0, &[8, 0, 0, 0, 0, 1, 0, 1]),
    ] {
        for length in 0..frame.len() {
            assert_eq!(
                parse(&frame[..length]),
                Parsed::Malformed,
                "{length} of {} bytes",
                frame.len()
            );
        }
    }
}

#[test]
fn lengths_that_contradict_are_malformed() {
    let mut short_header = ipv4(6, &[], 0, &TCP);
    short_header[14] = 0x44;
    let mut wrong_version = ipv4(6, &[], 0, &TCP);
    wrong_version[14] = 0x65;
    let mut offset_beyond = ipv4(6, &[], 0, &TCP);
    offset_beyond[34 + 12] = 0xf0;
    let mut offset_short = ipv4(6, &[], 0, &TCP);
    offset_short[34 + 12] = 0x40;
    let mut udp_beyond = ipv4(17, &[], 0, &UDP);
    udp_beyond[34 + 5] = 200;
    let mut udp_short = ipv4(17, &[], 0, &UDP);
    udp_short[34 + 5] = 7;
    for frame in [
        short_header,
        wrong_version,
        offset_beyond,
        offset_short,
        udp_beyond,
        udp_short,
    ] {
        assert_eq!(parse(&frame[..]), Parsed::Malformed);
    }
}

#[test]
fn padding_behind_a_short_packet_is_not_part_of_it() {
    let mut frame = ipv4(17, &[], 0, &UDP);
    let end = frame.len() as u32;
    frame.resize(60, 0);
    assert_eq!(headers(&frame).end, end);
}

#[test]
fn what_is_not_ip_is_left_alone() {
    for ethertype in [[0x08, 0x06], [0x81, 0x00], [0x88, 0xa8], [0x88, 0xcc]] {
        let mut frame = ipv4(6, &[], 0, &TCP);
        frame[12..14].copy_from_slice(&ethertype);
        assert_eq!(parse(&frame[..]), Parsed::Other);
    }
}

#[test]
fn extension_headers_are_walked_and_bounded() {
    let chain = |count: usize| {
        let mut payload = Vec::new();
        for i in 0..count {
            payload.extend([if i + 1 == count { 6 } else { 60 }, 0, 0, 0, 0, 0, 0, 0]);
        }
        payload.extend(TCP);
        ipv6(if count == 0 { 6 } else { 60 }, &payload)
    };
    for count in 0..=ipv6::EXTENSIONS_MAX as usize {
        assert_eq!(
            headers(&chain(count)).destination_port_be,
            80_u16.to_be(),
            "{count} headers"
        );
    }
    assert_eq!(parse(&chain(ipv6::EXTENSIONS_MAX as usize + 1)[..]), Parsed::Malformed);
}

#[test]
fn an_extension_header_beyond_the_end_is_malformed() {
    assert_eq!(parse(&ipv6(0, &[6, 200, 0, 0, 0, 0, 0, 0])[..]), Parsed::Malformed);
}

#[test]
fn ipv6_fragments_are_told_apart() {
    let fragment = |offset: u16, payload: &[u8]| {
        let mut all = vec![17, 0];
        all.extend(offset.to_be_bytes());
        all.extend([0, 0, 0, 9]);
        all.extend(payload);
        ipv6(44, &all)
    };
    let first = headers(&fragment(1, &UDP));
    assert_eq!(
        (first.fragment, first.destination_port_be),
        (Fragment::First, 53_u16.to_be())
    );
    let later = headers(&fragment(8 << 3, &UDP));
    assert_eq!(
        (later.fragment, later.protocol, later.has_ports()),
        (Fragment::Later, 17, false)
    );
    // RFC 6946: an "atomic" fragment is a whole datagram.
    assert_eq!(headers(&fragment(0, &UDP)).fragment, Fragment::Whole);
}

#[test]
fn errors_quote_a_packet() {
    let quoted = ipv4(6, &[], 0, &TCP);
    let mut payload = vec![3, 1, 0, 0, 0, 0, 0, 0];
    payload.extend(&quoted[14..14 + 28]);
    let frame = ipv4(1, &[], 0, &payload);
    let embedded = parse_embedded(&frame[..], &headers(&frame)).unwrap();
    assert_eq!(embedded.destination.to_v4(), Some([10, 96, 0, 1]));
    assert_eq!((embedded.protocol, embedded.destination_port_be), (6, 80_u16.to_be()));
    let echo = ipv4(1, &[], 0, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]);
    assert_eq!(headers(&echo).source_port_be, 0x1234_u16.to_be());
    assert_eq!(parse_embedded(&echo[..], &headers(&echo)), None);
}

#[test]
fn link_control_traffic_is_recognised() {
    let mut frame = ipv6(58, &[133, 0, 0, 0, 0, 0, 0, 0]);
    frame[22..38].copy_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    frame[38..54].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    assert!(headers(&frame).is_link_control());
    frame[22..38].copy_from_slice(&[0; 16]);
    assert!(headers(&frame).is_link_control());
    frame[38..54].copy_from_slice(&[0xfd; 16]);
    assert!(!headers(&frame).is_link_control());
}

proptest! {
    #[test]
    fn nothing_panics_and_offsets_stay_inside(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ethertype in prop_oneof![Just([0x08u8, 0x00u8]), Just([0x86, 0xdd])],
        first in prop_oneof![Just(0x45u8), Just(0x60), Just(0x4f), any::<u8>()],
    ) {
        let mut bytes = bytes;
        if bytes.len() > 15 {
            bytes[12..14].copy_from_slice(&ethertype);
            bytes[14] = first;
        }
        if let Parsed::Ip(headers) = parse(&bytes[..]) {
            prop_assert!(headers.l4 >= L3 && headers.l4 <= headers.end && headers.end as usize <= bytes.len());
            if headers.has_ports() {
                prop_assert!(headers.l4 + 8 <= headers.end);
            }
            if let Some(embedded) = parse_embedded(&bytes[..], &headers) {
                prop_assert!(embedded.l4 + 8 <= headers.end);
            }
        }
    }

    #[test]
    fn any_payload_behind_any_options_keeps_its_ports(
        words in 0usize..=10,
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        source in any::<u16>(),
        destination in any::<u16>(),
    ) {
        let mut datagram = Vec::new();
        datagram.extend(source.to_be_bytes());
        datagram.extend(destination.to_be_bytes());
        datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(&payload);
        let headers = headers(&ipv4(17, &vec![1; words * 4], 0, &datagram));
        prop_assert_eq!(headers.source_port_be, source.to_be());
        prop_assert_eq!(headers.destination_port_be, destination.to_be());
    }
}
