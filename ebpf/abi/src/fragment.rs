//! `FRAGMENTS` and `HELD`: where the later fragments of a datagram go, which have no ports to tell by, and those that came before
//! the first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Key of `FRAGMENTS` (LRU hash), and part of the values of `HELD`: what the fragments of one datagram have in common (RFC 791, 2.3; RFC 8200, 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification, bytes as in the packet.
    pub identification_be: u32,
    /// IP protocol number; 0 for IPv6, whose fragments may differ in it.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<FragmentKey>() == 40);

impl FragmentKey {
    /// A number that decides where in `HELD` the datagram's fragments wait: at the [`HELD_MAX`] places from there on.
    #[inline(always)]
    pub const fn home(&self) -> u32 {
        let (source, destination) = (self.source.words(), self.destination.words());
        let hash = mix(mix(0x9e37_79b9, source[0]), source[1]);
        let hash = mix(mix(hash, source[2]), source[3]);
        let hash = mix(mix(hash, destination[0]), destination[1]);
        let hash = mix(mix(hash, destination[2]), destination[3]);
        mix(mix(hash, self.identification_be), self.protocol as u32)
    }
}

/// A round of `MurmurHash3`'s finaliser (Appleby, 2011).
#[inline(always)]
const fn mix(state: u32, word: u32) -> u32 {
    let state = (state ^ word).wrapping_mul(0x85eb_ca6b);
    (state ^ (state >> 13)).wrapping_mul(0xc2b2_ae35)
}

/// The key of `HELD` for one of the [`HELD_MAX`] places that the fragments of a datagram have from `home` on, when there are so many
/// places in all; `None` when there are none.
#[inline(always)]
pub const fn held_place(home: u32, number: u32, places: u32) -> Option<u32> {
    if places == 0 {
        return None;
    }
    Some(home.wrapping_add(number % HELD_MAX as u32) % places)
}

/// Value of `FRAGMENTS`: what became of the first fragment. A source of zero says that it has not come yet, but others have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FragmentRoute {
    /// Monotonic time of the first fragment, nanoseconds (`bpf_ktime_get_coarse_ns`).
    pub seen_ns: u64,
    /// New source address.
    pub source: Address,
    /// New destination address.
    pub destination: Address,
    /// The service's id.
    pub service_id: u32,
    /// Index into `BACKENDS`.
    pub backend: u32,
}
const _: () = assert!(size_of::<FragmentRoute>() == 48);

/// How long the fragments of a datagram may take, in nanoseconds: as long as Linux waits for them
/// (`net.ipv4.ipfrag_time`).
pub const FRAGMENT_TIMEOUT_NS: u64 = 30_000_000_000;

/// Fragments of one datagram that are kept until its first one comes.
pub const HELD_MAX: u8 = 64;
/// Bytes of a frame that is kept, at most.
pub const HELD_BYTES: usize = 2048;

/// Value of `HELD` (hash; the key is a place, see [`held_place`]): a fragment that came before the first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HeldFragment {
    /// Monotonic time it came, nanoseconds (`bpf_ktime_get_ns`).
    pub seen_ns: u64,
    /// Bytes of the frame.
    pub length: u32,
    /// The interface it came in by.
    pub ifindex: u32,
    /// Its datagram.
    pub datagram: FragmentKey,
    /// The frame.
    pub frame: [u8; HELD_BYTES],
}
const _: () = assert!(size_of::<HeldFragment>() == 56 + HELD_BYTES);
