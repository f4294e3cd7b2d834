//! `CONNTRACK` and the reverse look-ups of socket-level balancing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Key of `CONNTRACK`: a flow as seen in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port (or ICMP identifier), network byte order.
    pub source_port_be: u16,
    /// Destination port, network byte order.
    pub destination_port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`DIRECTION_FORWARD`] (client → VIP) or [`DIRECTION_REPLY`] (backend → client).
    pub direction: u8,
    /// Zero.
    pub reserved: u16,
}
const _: () = assert!(size_of::<FlowKey>() == 40);

/// Client to VIP.
pub const DIRECTION_FORWARD: u8 = 0;
/// Backend to client.
pub const DIRECTION_REPLY: u8 = 1;

/// Value of `CONNTRACK`; both directions of a flow hold the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flow {
    /// Monotonic time of the last packet (`bpf_ktime_get_ns`), nanoseconds.
    pub last_seen_ns: u64,
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// The backend's generation when the flow began.
    pub generation: u32,
    /// What the client addressed.
    pub vip: Address,
    /// Port the client addressed, network byte order.
    pub vip_port_be: u16,
    /// [`TCP_SYN_SENT`] and following.
    pub tcp_state: u8,
    /// Zero.
    pub reserved: u8,
    /// The service's id.
    pub service_id: u32,
}
const _: () = assert!(size_of::<Flow>() == 40);

/// Only packets of the opening side were seen.
pub const TCP_SYN_SENT: u8 = 0;
/// Both sides were seen.
pub const TCP_ESTABLISHED: u8 = 1;
/// A FIN or RST was seen.
pub const TCP_CLOSING: u8 = 2;

/// What a socket asked for before `connect` was balanced; socket storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketOrigin {
    /// Virtual address.
    pub vip: Address,
    /// Port, network byte order.
    pub port_be: u16,
    /// Zero.
    pub reserved: u16,
}
const _: () = assert!(size_of::<SocketOrigin>() == 20);

/// Key of `SOCKET_REPLIES` (LRU hash): an unconnected UDP socket and the backend it was sent to; the value is the
/// [`SocketOrigin`] that replies must show. A socket can use several VIPs at once, so socket storage would not do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketReplyKey {
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// Backend address.
    pub address: Address,
    /// Backend port, network byte order.
    pub port_be: u16,
    /// Zero.
    pub reserved: [u16; 3],
}
const _: () = assert!(size_of::<SocketReplyKey>() == 32);
