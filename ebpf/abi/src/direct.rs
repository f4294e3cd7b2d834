//! `DIRECT_FLOWS`: flows that go to a backend on another node whose answers do not come back through this one.
//!
//! The service's table alone decides where they go, and nothing is written down of them, but where a slot is changing hands or
//! its backend takes no new connections, or did not a moment ago. The key is a [`crate::conntrack::FlowKey`] in the client's direction.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `DIRECT_FLOWS` (LRU hash).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DirectFlow {
    /// Monotonic time of the last packet (`bpf_ktime_get_coarse_ns`), nanoseconds.
    pub last_seen_ns: u64,
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// The backend's generation when the flow was written down.
    pub generation: u32,
    /// [`crate::conntrack::TCP_SYN_SENT`] and following, as far as the client's packets tell. It says how long the flow may be silent
    /// ([`crate::conntrack::timeout_seconds`]).
    pub tcp_state: u8,
    /// Zero.
    pub reserved: [u8; 7],
}
const _: () = assert!(size_of::<DirectFlow>() == 24);
