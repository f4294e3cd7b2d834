//! `ROUTES`: where the pods of other nodes live.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Key of `ROUTES` (longest-prefix match). The kernel wants the prefix length first, in host order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RouteKey {
    /// Bits of `address` that count; an IPv4 prefix of n bits has 96 + n.
    pub prefix_len: u32,
    /// Prefix, v4-mapped for IPv4.
    pub address: Address,
}
const _: () = assert!(size_of::<RouteKey>() == 20);

/// Value of `ROUTES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Route {
    /// Underlay address of the node.
    pub node: Address,
    /// VXLAN network identifier.
    pub tunnel_id: u32,
    /// [`MODE_VXLAN`] or [`MODE_NATIVE`].
    pub mode: u32,
}
const _: () = assert!(size_of::<Route>() == 24);

/// Through the VXLAN device.
pub const MODE_VXLAN: u32 = 0;
/// Left to the kernel's routing table.
pub const MODE_NATIVE: u32 = 1;
