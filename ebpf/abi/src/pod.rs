//! `PODS`: the pods of this node.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `PODS` (key: [`crate::Address`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Pod {
    /// Interface index of the host side of the pod's veth pair.
    pub ifindex: u32,
    /// Zero.
    pub flags: u32,
    /// MAC address of the pod's `eth0`.
    pub pod_mac: [u8; 6],
    /// MAC address of the host side: the pod's next hop.
    pub host_mac: [u8; 6],
}
const _: () = assert!(size_of::<Pod>() == 20);
