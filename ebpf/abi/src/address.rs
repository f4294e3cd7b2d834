//! IP addresses as map keys.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv6 address, or an IPv4 address in its v4-mapped form `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2); network byte order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
pub struct Address(pub [u8; 16]);

const _: () = assert!(size_of::<Address>() == 16);

impl Address {
    /// The v4-mapped form of an IPv4 address, given as its four bytes.
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]])
    }

    /// The IPv4 address inside a v4-mapped one.
    #[inline(always)]
    pub const fn to_v4(self) -> Option<[u8; 4]> {
        match self.0 {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }
}
