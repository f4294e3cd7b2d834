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
    /// [`MASQUERADE`], [`DIRECT_RETURN`], [`NATIVE_ROUTING`].
    pub flags: u32,
    /// Underlay address of the node, of IPv4; zero for none.
    pub node_address: Address,
    /// The node's own address in its IPv4 pod range, by which host processes reach pods elsewhere; zero for none.
    pub router_address: Address,
    /// Underlay address of the node, of IPv6; zero for none.
    pub node_address6: Address,
    /// The node's own address in its IPv6 pod range; zero for none.
    pub router_address6: Address,
    /// UDP port of VXLAN, network byte order.
    pub tunnel_port_be: u16,
    /// Fragments that `HELD` has places for.
    pub held_fragments: u16,
    /// VXLAN network identifier of the pods' tunnel.
    pub tunnel_id: u32,
}
const _: () = assert!(size_of::<NodeConfig>() == 88);

impl NodeConfig {
    /// The underlay address of the family of `like`; `None` when the node has none.
    #[inline(always)]
    pub const fn node_address_like(&self, like: &Address) -> Option<Address> {
        if like.to_v4().is_some() {
            some(self.node_address)
        } else {
            some(self.node_address6)
        }
    }

    /// The router address of the family of `like`; `None` when the node has none.
    #[inline(always)]
    pub const fn router_address_like(&self, like: &Address) -> Option<Address> {
        if like.to_v4().is_some() {
            some(self.router_address)
        } else {
            some(self.router_address6)
        }
    }

    /// Whether an address is one of the node's underlay addresses.
    #[inline(always)]
    pub fn is_node_address(&self, address: &Address) -> bool {
        *address == self.node_address || *address == self.node_address6
    }

    /// Whether an address is the node's own.
    #[inline(always)]
    pub fn is_own(&self, address: &Address) -> bool {
        *address == self.router_address || *address == self.router_address6 || self.is_node_address(address)
    }
}

#[inline(always)]
const fn some(address: Address) -> Option<Address> {
    match address.words() {
        [0, 0, 0, 0] => None,
        _ => Some(address),
    }
}

/// Packets that pods send out of the uplink get the node's address, except to prefixes that `ROUTES` has as
/// [`crate::route::MODE_NATIVE`].
pub const MASQUERADE: u32 = 1 << 0;
/// Packets from the network for a backend on another node go there with their addresses as they are, and that node answers the
/// client directly ([`crate::direct`]); without it, they get this node as their source, and answers come back through it.
pub const DIRECT_RETURN: u32 = 1 << 1;
/// Pods of other nodes are reached by the kernel's routes and not through the tunnel, and their answers come so.
pub const NATIVE_ROUTING: u32 = 1 << 2;
