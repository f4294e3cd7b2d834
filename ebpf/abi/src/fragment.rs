//! `FRAGMENTS` and `HELD`: where the later fragments of a datagram go, which have no ports to tell by, and those that came before
//! the first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Key of `FRAGMENTS` (LRU hash): what the fragments of one datagram have in common (RFC 791, 2.3; RFC 8200, 4.5).
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
    /// Place among the datagram's fragments in `HELD`; 0 in `FRAGMENTS`.
    pub place: u8,
    /// Zero.
    pub reserved: [u8; 2],
}
const _: () = assert!(size_of::<FragmentKey>() == 40);

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

/// Value of `HELD` (LRU hash; the key is a [`FragmentKey`] with a place): a fragment that came before the first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HeldFragment {
    /// Monotonic time it came, nanoseconds (`bpf_ktime_get_ns`).
    pub seen_ns: u64,
    /// Bytes of the frame.
    pub length: u32,
    /// The interface it came in by.
    pub ifindex: u32,
    /// The frame.
    pub frame: [u8; HELD_BYTES],
}
const _: () = assert!(size_of::<HeldFragment>() == 16 + HELD_BYTES);
