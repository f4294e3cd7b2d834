//! `AFFINITY`: which backend a client was given, for services with session affinity.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Key of `AFFINITY` (LRU hash).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AffinityKey {
    /// The client's address; for a socket, whose address is not known yet, its network namespace's cookie in the first eight
    /// bytes and zeroes ([`AffinityKey::NAMESPACE`] tells).
    pub client: Address,
    /// The service's id.
    pub service_id: u32,
    /// [`AffinityKey::ADDRESS`] or [`AffinityKey::NAMESPACE`].
    pub kind: u32,
}
const _: () = assert!(size_of::<AffinityKey>() == 24);

impl AffinityKey {
    /// `client` is an address.
    pub const ADDRESS: u32 = 0;
    /// `client` is a network namespace cookie (`bpf_get_netns_cookie`).
    pub const NAMESPACE: u32 = 1;
}

/// Value of `AFFINITY`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Affinity {
    /// Monotonic time of the client's last connection, nanoseconds (`bpf_ktime_get_coarse_ns`).
    pub last_seen_ns: u64,
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// The backend's generation then.
    pub generation: u32,
}
const _: () = assert!(size_of::<Affinity>() == 16);
