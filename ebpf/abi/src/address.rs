//! IP addresses as map keys.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv6 address, or an IPv4 address in its v4-mapped form `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2); network byte order.
#[derive(Clone, Copy, Eq, Hash, PartialOrd, Ord, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[expect(
    clippy::derived_hash_with_manual_eq,
    reason = "the same equality, by words instead of bytes"
)]
#[repr(C, align(4))]
pub struct Address {
    /// The bytes; a named field, so that tools that print maps name it.
    pub bytes: [u8; 16],
}

const _: () = assert!(size_of::<Address>() == 16);

/// The third word of a v4-mapped address.
const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl PartialEq for Address {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.words() == other.words()
    }
}

impl Address {
    /// The address of these sixteen bytes.
    #[inline(always)]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }

    /// The v4-mapped form of an IPv4 address, given as its four bytes.
    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self::from_words([0, 0, V4_MAPPED, u32::from_ne_bytes(v4)])
    }

    /// The IPv4 address inside a v4-mapped one.
    #[inline(always)]
    pub const fn to_v4(self) -> Option<[u8; 4]> {
        match self.words() {
            [0, 0, V4_MAPPED, v4] => Some(v4.to_ne_bytes()),
            _ => None,
        }
    }

    /// An address from its four words, bytes as they are in memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        zerocopy::transmute!(words)
    }

    /// The four words of the address. BPF holds an address in four registers, but bytes in sixteen.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        zerocopy::transmute!(self)
    }
}
