//! Internet checksums (RFC 1071), looked at from outside: does a packet's checksum still say what it said before?
//!
//! A router that translates addresses must keep a right checksum right, and a wrong one exactly as wrong (RFC 3022, 4.2; RFC
//! 5382, REQ-9): it may not hide damage done before. Both follow from one rule: the sum over all that a checksum covers, the
//! checksum included, stays the same. Sums that differ by a multiple of 65535 are the same.

use std::net::IpAddr;

/// The sum of 16-bit words, from 0 to 65534; an odd last byte is padded with zero.
pub fn total(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for piece in pieces {
        for pair in piece.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    u16::try_from(sum % 0xffff).unwrap_or(0)
}

/// What the addresses add to the checksum of TCP, UDP and `ICMPv6` (RFC 9293, 3.1; RFC 8200, 8.1).
pub fn of_addresses(source: IpAddr, destination: IpAddr) -> u16 {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => total(&[&source.octets(), &destination.octets()]),
        (IpAddr::V6(source), IpAddr::V6(destination)) => total(&[&source.octets(), &destination.octets()]),
        _ => 0,
    }
}

/// The checksum field for data with a zero in its place, and what else it covers.
pub fn field(pieces: &[&[u8]]) -> [u8; 2] {
    (!total(pieces)).to_be_bytes()
}

/// The checksum field of a transport packet that has a zero there.
pub fn transport_field(source: IpAddr, destination: IpAddr, protocol: u8, packet: &[u8]) -> [u8; 2] {
    let length = u32::try_from(packet.len()).unwrap_or(u32::MAX).to_be_bytes();
    let addresses = of_addresses(source, destination).to_be_bytes();
    field(&[&addresses, &length, &[0, protocol], packet])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_example_of_rfc_1071() {
        assert_eq!(total(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), 0xddf2);
    }

    #[test]
    fn a_filled_in_checksum_makes_the_sum_zero() {
        let mut data = [0x45, 0, 0, 9, 0xab, 0xcd, 0, 0, 7];
        let sum = field(&[&data]);
        data[6..8].copy_from_slice(&sum);
        assert_eq!(total(&[&data]), 0);
    }
}
