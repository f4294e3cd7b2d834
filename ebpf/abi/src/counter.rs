//! Per-CPU counters.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Element of `SERVICE_COUNTERS` (index: service id).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServiceCounters {
    /// Connections balanced (a backend was chosen).
    pub connections: u64,
    /// Packets translated per packet, both directions; socket-level flows do not pass here.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Connections and packets refused or dropped.
    pub drops: u64,
}
const _: () = assert!(size_of::<ServiceCounters>() == 32);

/// Element of `DROPS` (index: [`crate::DropReason`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DropCounters {
    /// Packets (or connects).
    pub packets: u64,
    /// Their bytes; 0 for connects.
    pub bytes: u64,
}
const _: () = assert!(size_of::<DropCounters>() == 16);
