//! Time to live: what is left of a packet's hops, and how a router takes one away.

use crate::{
    csum,
    packet::Packet,
    parse::{Headers, L3, Version},
};

/// Routers that the packet may still pass, with the one that reads this.
#[inline(always)]
pub fn left<P: Packet>(packet: &P, headers: &Headers) -> u8 {
    let hops = match headers.version {
        Version::V4 => packet.read_at::<22, u8>(),
        Version::V6 => packet.read_at::<21, u8>(),
    };
    hops.unwrap_or(0)
}

/// Whether a packet forbids to divide it: every IPv6 packet does, of IPv4 those with the flag (RFC 791, 3.1).
#[inline(always)]
pub fn is_indivisible<P: Packet>(packet: &P, headers: &Headers) -> bool {
    const DO_NOT_FRAGMENT: u8 = 0x40;
    match headers.version {
        Version::V4 => packet
            .read::<u8>(L3 + 6)
            .is_some_and(|flags| flags & DO_NOT_FRAGMENT != 0),
        Version::V6 => true,
    }
}

/// Time to live, protocol and checksum of an IPv4 header after one more hop (RFC 1624); `None` when none is left.
#[inline(always)]
pub const fn lowered_v4(field: [u8; 4]) -> Option<[u8; 4]> {
    let [hops, protocol, a, b] = field;
    if hops <= 1 {
        return None;
    }
    let (from, to) = (
        u16::from_ne_bytes([hops, protocol]),
        u16::from_ne_bytes([hops - 1, protocol]),
    );
    let [a, b] = csum::replace16(u16::from_ne_bytes([a, b]), from, to).to_ne_bytes();
    Some([hops - 1, protocol, a, b])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hop_less_leaves_the_checksum_right(header in any::<[u8; 20]>(), hops in 2_u8..) {
            let mut header = header;
            header[8] = hops;
            (header[10], header[11]) = (0, 0);
            let sum = csum::finish(csum::add(0, &header)).to_ne_bytes();
            (header[10], header[11]) = (sum[0], sum[1]);
            let lowered = lowered_v4([header[8], header[9], header[10], header[11]]).unwrap();
            header[8..12].copy_from_slice(&lowered);
            prop_assert_eq!(header[8], hops - 1);
            prop_assert_eq!(csum::fold(csum::add(0, &header)), 0xffff);
        }
    }

    #[test]
    fn the_last_hop_is_the_last() {
        assert_eq!(lowered_v4([1, 6, 0, 0]), None);
        assert_eq!(lowered_v4([0, 6, 0, 0]), None);
    }
}
