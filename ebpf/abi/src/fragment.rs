//! `FRAGMENTS`: where the later fragments of a datagram go, which have no ports to tell by.

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
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<FragmentKey>() == 40);

/// Value of `FRAGMENTS`: what became of the first fragment.
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
