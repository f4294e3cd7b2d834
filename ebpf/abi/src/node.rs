//! `NODE`: one element with what the programs need to know of their node.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// The element 0 of `NODE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NodeConfig {
    /// [`crate::ABI_VERSION`] of the agent that wrote the maps.
    pub abi_version: u32,
    /// Interface index of the VXLAN device; 0 for none.
    pub tunnel_ifindex: u32,
    /// Interface index of the uplink; 0 for none.
    pub uplink_ifindex: u32,
    /// [`MASQUERADE`].
    pub flags: u32,
    /// Underlay address of the node.
    pub node_address: Address,
    /// The node's own address in its pod range, by which host processes reach pods elsewhere.
    pub router_address: Address,
    /// UDP port of VXLAN, network byte order.
    pub tunnel_port_be: u16,
    /// Zero.
    pub reserved: u16,
}
const _: () = assert!(size_of::<NodeConfig>() == 52);

/// Packets that pods send out of the uplink get the node's address, except to prefixes that `ROUTES` has as
/// [`crate::route::MODE_NATIVE`].
pub const MASQUERADE: u32 = 1 << 0;
