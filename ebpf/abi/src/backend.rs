//! `BACKENDS`: where packets end up, and the READY bit.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Element of `BACKENDS`. User space maps the array and flips [`READY`] with one aligned atomic store to `flags`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Backend {
    /// Pod (or external) address.
    pub address: Address,
    /// Port, network byte order.
    pub port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// [`READY`], [`TERMINATING`], [`LOCAL`], [`IN_USE`], [`READY_ALWAYS`], [`UNSETTLED`].
    pub flags: u32,
    /// Moves on each time the index is given to another backend; flows remember it.
    pub generation: u32,
    /// Share of a service's Maglev table; 0 counts as 1.
    pub weight: u32,
    /// Underlay IPv4 address of the other node it runs on, network order; 0 when it runs on this node, when it is no pod of the
    /// cluster, or when its node is not known.
    pub node_v4_be: u32,
}
const _: () = assert!(size_of::<Backend>() == 36);

/// Answers. Takes new connections unless it is also [`TERMINATING`].
pub const READY: u32 = 1 << 0;
/// Keeps its connections; takes new ones only while it is also [`READY`] and no other backend is READY.
pub const TERMINATING: u32 = 1 << 1;
/// Runs on this node.
pub const LOCAL: u32 = 1 << 2;
/// The index belongs to a backend; clear for free elements.
pub const IN_USE: u32 = 1 << 3;
/// READY whatever probes say, for services that publish not-ready addresses. Only user space looks at it.
pub const READY_ALWAYS: u32 = 1 << 4;
/// Takes new connections again, after a time when it did not: flows of its slots that began meanwhile are with others and written
/// down ([`crate::direct`]), so its slots do not decide alone. Set in one step with [`READY`], cleared when none of those is left.
pub const UNSETTLED: u32 = 1 << 5;
