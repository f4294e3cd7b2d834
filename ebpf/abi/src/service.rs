//! `SERVICES` and `SLOTS`: from a virtual address to its Maglev table.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Key of `SERVICES`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServiceKey {
    /// Virtual address.
    pub address: Address,
    /// Port, network byte order.
    pub port_be: u16,
    /// IP protocol number (6 TCP, 17 UDP).
    pub protocol: u8,
    /// [`SCOPE_CLUSTER`] or [`SCOPE_NODE`].
    pub scope: u8,
}
const _: () = assert!(size_of::<ServiceKey>() == 20);

/// As pods and the node's own processes see it.
pub const SCOPE_CLUSTER: u8 = 0;
/// As the network sees it: node ports, external and load-balancer addresses, for packets that come in by the uplink.
pub const SCOPE_NODE: u8 = 1;

/// Value of `SERVICES`. Swapped whole by one map update, so a reader sees one table or the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Service {
    /// First slot of this service's range in `SLOTS`.
    pub slot_base: u32,
    /// Length of the range; 0 when the service has no backend at all.
    pub slot_count: u32,
    /// Index into `SERVICE_COUNTERS`, and key of `SERVICE_NAMES`. Not 0.
    pub service_id: u32,
    /// `SERVICE_*` bits.
    pub flags: u32,
    /// Session affinity time-out in seconds; 0 for none.
    pub affinity_seconds: u32,
}
const _: () = assert!(size_of::<Service>() == 20);

/// Only clients in `SOURCE_RANGES` are let in from the network.
pub const SERVICE_SOURCE_RANGES: u32 = 1 << 1;

/// Key of `SOURCE_RANGES` (longest-prefix match; the value is a `u32`, 1). The kernel wants the prefix length first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SourceRangeKey {
    /// Bits that count: the 32 of `service_id` and those of the prefix; an IPv4 prefix of n bits has 32 + 96 + n.
    pub prefix_len: u32,
    /// The service's id.
    pub service_id: u32,
    /// Prefix, v4-mapped for IPv4.
    pub address: Address,
}
const _: () = assert!(size_of::<SourceRangeKey>() == 24);

/// Element of `SLOTS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slot {
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// The backend that the hashes of this slot had before it last changed hands, or [`NO_BACKEND`]. Remembered for a time (120
    /// seconds, a parameter of the agent) and then cleared by one aligned store of eight bytes. Before that backend's index can go
    /// to another, the slot's own backend takes its place: then no backend is remembered, but flows that are written down still are. A table that grows doubles, so each of its slots has one predecessor; where slots were merged,
    /// the first of them speaks for all.
    pub previous: u32,
}
const _: () = assert!(size_of::<Slot>() == 8);

/// No backend.
pub const NO_BACKEND: u32 = u32::MAX;

/// Value of `SERVICE_NAMES` (key: service id, u32): "namespace/name:port" in UTF-8, zero-padded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServiceName(pub [u8; 144]);
const _: () = assert!(size_of::<ServiceName>() == 144);
