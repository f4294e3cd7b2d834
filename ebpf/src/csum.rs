//! Internet checksums: from scratch (RFC 1071) and incremental (RFC 1624).
//!
//! Sums are kept as the sum of 16-bit words in the order they have in the packet, so no byte is swapped anywhere
//! (RFC 1071, 2 (B)).

/// Folds a sum of 16-bit words to 16 bits with end-around carry.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Adds bytes to a sum; an odd last byte is padded with zero. At most 64 KiB may go into one sum.
#[inline(always)]
pub const fn add<const N: usize>(mut sum: u32, bytes: &[u8; N]) -> u32 {
    let mut i = 0;
    while i + 1 < N {
        sum += u16::from_ne_bytes([bytes[i], bytes[i + 1]]) as u32;
        i += 2;
    }
    if N % 2 == 1 {
        sum += u16::from_ne_bytes([bytes[N - 1], 0]) as u32;
    }
    sum
}

/// The checksum field for a sum.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// The checksum field after a 16-bit word of the covered data changed (RFC 1624, equation 3).
#[inline(always)]
pub const fn replace16(checksum: u16, from: u16, to: u16) -> u16 {
    finish(!checksum as u32 + !from as u32 + to as u32)
}

/// The checksum field after bytes of the covered data, at an even offset, changed.
#[inline(always)]
pub const fn replace<const N: usize>(checksum: u16, from: &[u8; N], to: &[u8; N]) -> u16 {
    let mut sum = !checksum as u32;
    let mut i = 0;
    while i + 1 < N {
        sum += !u16::from_ne_bytes([from[i], from[i + 1]]) as u32;
        sum += u16::from_ne_bytes([to[i], to[i + 1]]) as u32;
        i += 2;
    }
    finish(sum)
}

/// What to write into a UDP header over IPv4 (RFC 768): zero means "no checksum", so a sum of zero is sent as ones, and
/// a packet without a checksum stays without one.
#[inline(always)]
pub const fn udp(previous: u16, updated: u16) -> u16 {
    match (previous, updated) {
        (0, _) => 0,
        (_, 0) => 0xffff,
        (_, updated) => updated,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn matches_the_example_of_rfc_1071() {
        let sum = fold(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]));
        assert_eq!(sum.to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn corner_case_of_rfc_1624_does_not_produce_negative_zero() {
        // RFC 1624, section 4: checksum 0xdd2f, field 0x5555 becomes 0x3285; the answer is 0x0000, not 0xffff.
        let checksum = replace16(0xdd2f_u16.to_be(), 0x5555_u16.to_be(), 0x3285_u16.to_be());
        assert_eq!(checksum, 0);
    }

    #[test]
    fn a_udp_packet_without_checksum_stays_without() {
        assert_eq!(udp(0, 0x1234), 0);
        assert_eq!(udp(0x1234, 0), 0xffff);
        assert_eq!(udp(0x1234, 0x4321), 0x4321);
    }

    proptest! {
        #[test]
        fn from_scratch_equals_the_reference(bytes in any::<[u8; 57]>()) {
            prop_assert_eq!(finish(add(0, &bytes)), reference(&bytes));
        }

        #[test]
        fn incremental_equals_from_scratch(before in any::<[u8; 32]>(), new in any::<[u8; 16]>(), at in 0usize..=8) {
            let at = at * 2;
            let mut after = before;
            after[at..at + 16].copy_from_slice(&new);
            let old: [u8; 16] = before[at..at + 16].try_into().unwrap();
            let incremental = replace(finish(add(0, &before)), &old, &new);
            let scratch = finish(add(0, &after));
            // 0x0000 and 0xffff are the same sum unless all data is zero.
            prop_assert!(incremental == scratch || (incremental ^ scratch) == 0xffff && (scratch == 0 || scratch == 0xffff));
        }

        #[test]
        fn one_word_equals_bytes(checksum in any::<u16>(), from in any::<u16>(), to in any::<u16>()) {
            prop_assert_eq!(
                replace16(checksum, from, to),
                replace(checksum, &from.to_ne_bytes(), &to.to_ne_bytes())
            );
        }
    }
}
