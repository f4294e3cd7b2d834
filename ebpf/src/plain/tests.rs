use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::{
    flow::Translation,
    parse::{Parsed, parse},
};

fn address(last: u8) -> Address {
    Address::from_v4([192, 0, 2, last])
}

/// A frame with right checksums.
fn frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let l4 = if protocol == protocol::TCP { 20 } else { 8 };
    let mut frame = Vec::new();
    frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    frame.extend([0x45, 0]);
    frame.extend((20 + l4 + payload.len() as u16).to_be_bytes());
    frame.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    let header = header_sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&header);
    frame.extend(4000_u16.to_be_bytes());
    frame.extend(80_u16.to_be_bytes());
    if protocol == protocol::TCP {
        frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        frame.extend((l4 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.extend(payload);
    let at = checksum_at(protocol);
    let sum = transport_sum(&frame);
    frame[at..at + 2].copy_from_slice(&sum);
    frame
}

fn checksum_at(protocol: u8) -> usize {
    if protocol == protocol::TCP { 50 } else { 40 }
}

fn header_sum(header: &[u8]) -> [u8; 2] {
    fold(words(header))
}

/// RFC 9293, 3.1, and RFC 768: over pseudo header and segment.
fn transport_sum(frame: &[u8]) -> [u8; 2] {
    let segment = &frame[34..];
    fold(words(&frame[26..34]) + u64::from(frame[23]) + segment.len() as u64 + words(segment))
}

fn words(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

fn fold(mut sum: u64) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn head(frame: &[u8]) -> Head {
    Head::read_from_prefix(frame).unwrap().0
}

#[test]
fn it_reads_what_the_parser_reads() {
    for protocol in [protocol::TCP, protocol::UDP] {
        let frame = frame(protocol, b"hello");
        let head = head(&frame);
        assert!(head.is_plain(frame.len()));
        let flags = if protocol == protocol::TCP { 2 } else { 0 };
        assert_eq!(parse(&frame[..]), Parsed::Ip(head.headers(flags)));
    }
}

#[test]
fn anything_unusual_is_not_plain() {
    let good = frame(protocol::TCP, b"hello");
    for (at, value) in [
        (12, 0x86),
        (14, 0x46),
        (14, 0x65),
        (17, 39),
        (17, 255),
        (20, 0x20),
        (21, 1),
        (22, 1),
        (22, 0),
        (23, 1),
        (23, 132),
    ] {
        let mut frame = good.clone();
        frame[at] = value;
        assert!(!head(&frame).is_plain(frame.len()), "byte {at} is {value}");
    }
    assert!(!head(&good).is_plain(good.len() - 1));
    // Ethernet pads short frames.
    assert!(head(&good).is_plain(good.len() + 6));
}

#[test]
fn the_tunnel_of_another_network_is_told_apart() {
    let node = u32::from_ne_bytes([172, 30, 0, 11]);
    let ends = Ends {
        from: u32::from_ne_bytes([172, 30, 0, 12]),
        to: node,
        port_be: 8472_u16.to_be(),
        tunnel_id: 7,
    };
    let outer = Outer::new(&ends, [0; 6], 1, 100);
    assert!(outer.is_of(node, ends.port_be, 7));
    assert!(!outer.is_of(node, ends.port_be, 8));
    assert!(!outer.is_of(ends.from, ends.port_be, 7));
    assert!(!outer.is_of(node, 4789_u16.to_be(), 7));
}

proptest! {
    #[test]
    fn words_are_put_together_as_they_were_taken_apart(value in any::<u32>()) {
        prop_assert_eq!(word(halves(value)), value);
    }

    #[test]
    fn translation_keeps_both_checksums(
        tcp in any::<bool>(), payload in proptest::collection::vec(any::<u8>(), 0..64),
        source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(), ports in any::<[u16; 2]>(),
    ) {
        let protocol = if tcp { protocol::TCP } else { protocol::UDP };
        let mut frame = frame(protocol, &payload);
        let before = head(&frame);
        let mut after = before;
        after.translate(&Translation {
            source: Address::from_v4(source),
            destination: Address::from_v4(destination),
            source_port_be: ports[0],
            destination_port_be: ports[1],
            ..Translation::NONE
        });
        let at = checksum_at(protocol);
        let old = u16::from_ne_bytes([frame[at], frame[at + 1]]);
        let new = after.transport_checksum(&before, old);
        frame[..38].copy_from_slice(after.as_bytes());
        frame[at..at + 2].copy_from_slice(&new.to_ne_bytes());
        // A sum over what includes the right checksum is all ones.
        prop_assert_eq!(header_sum(&frame[14..34]), [0, 0]);
        prop_assert_eq!(transport_sum(&frame), [0, 0]);
        prop_assert_eq!(frame[22], 63);
    }

    #[test]
    fn a_udp_packet_without_checksum_stays_without(source in any::<[u8; 4]>()) {
        let before = head(&frame(protocol::UDP, b"x"));
        let mut after = before;
        after.translate(&Translation { source: Address::from_v4(source), destination: address(9), ..Translation::NONE });
        prop_assert_eq!(after.transport_checksum(&before, 0), 0);
    }

    #[test]
    fn outer_headers_are_those_of_vxlan(from in any::<[u8; 4]>(), to in any::<[u8; 4]>(), hash in any::<u32>(), id in 0u32..1 << 24, length in 60u16..1500) {
        let ends = Ends { from: u32::from_ne_bytes(from), to: u32::from_ne_bytes(to), port_be: 8472_u16.to_be(), tunnel_id: id };
        let outer = Outer::new(&ends, [0x0102; 6], hash, length);
        let mut frame = outer.as_bytes().to_vec();
        frame.resize(50 + usize::from(length), 0);
        prop_assert!(outer.head.is_plain(frame.len()));
        prop_assert_eq!(header_sum(&frame[14..34]), [0, 0]);
        prop_assert_eq!(&frame[26..30], &from);
        prop_assert_eq!(&frame[30..34], &to);
        prop_assert!(u16::from_be_bytes([frame[34], frame[35]]) >= 0xc000);
        prop_assert_eq!(u16::from_be_bytes([frame[36], frame[37]]), 8472);
        prop_assert_eq!(u16::from_be_bytes([frame[38], frame[39]]), 16 + length);
        prop_assert_eq!(&frame[40..46], &[0, 0, 8, 0, 0, 0]);
        prop_assert_eq!(&frame[46..50], &(id << 8).to_be_bytes());
    }
}
