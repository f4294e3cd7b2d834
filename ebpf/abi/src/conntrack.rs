//! `CONNTRACK` and the reverse look-ups of socket-level balancing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Key of `CONNTRACK` (hash: flows both sides were seen of) and of `CONNTRACK_NEW` (LRU hash: flows only the client was seen
/// of, so that a flood of openings pushes out other openings and nothing else): a flow as seen in one direction.
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

/// Client to VIP: source is [`Flow::client`], destination is [`Flow::vip`].
pub const DIRECTION_FORWARD: u8 = 0;
/// Backend to client: source is [`Flow::backend_address`], destination is [`Flow::translated_client`].
pub const DIRECTION_REPLY: u8 = 1;

/// Value of `CONNTRACK` and `CONNTRACK_NEW`; both directions of a flow hold the same description, so that either key can be
/// made from either value. Only `last_seen_ns` and `tcp_state` differ: each half keeps its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flow {
    /// Monotonic time of the last packet (`bpf_ktime_get_ns`), nanoseconds.
    pub last_seen_ns: u64,
    /// Index into `BACKENDS`; [`crate::service::NO_BACKEND`] for a pod's flow to the network, which the node's address stands
    /// in for.
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
    /// The client.
    pub client: Address,
    /// The client as the backend sees it; another address only where the client is the backend ([`HAIRPIN_V4`]), where the
    /// answer would not come back through this node, and where the client is a pod that leaves the cluster.
    pub translated_client: Address,
    /// The backend the packets go to.
    pub backend_address: Address,
    /// The client's port, network byte order.
    pub client_port_be: u16,
    /// The client's port as the backend sees it: one that no socket is given by itself, so that a connection from the same
    /// pod straight to the backend never looks the same. Network byte order.
    pub translated_client_port_be: u16,
    /// The backend's port, network byte order.
    pub backend_port_be: u16,
    /// Zero.
    pub reserved2: u16,
}
const _: () = assert!(size_of::<Flow>() == 96);

/// Source a pod sees when it reaches itself through a VIP: its own next hop, which it always has a route and a neighbour
/// entry for.
pub const HAIRPIN_V4: [u8; 4] = [169, 254, 1, 1];
/// The same for IPv6.
pub const HAIRPIN_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Only packets of the opening side were seen. Protocols without connections use this state and the next.
pub const TCP_SYN_SENT: u8 = 0;
/// Both sides were seen.
pub const TCP_ESTABLISHED: u8 = 1;
/// A FIN of this side was seen.
pub const TCP_CLOSING: u8 = 2;
/// A RST of either side was seen: nobody waits for late packets, so the ports may be used again at once.
pub const TCP_RESET: u8 = 3;

/// How long a flow may be silent, in seconds, before it counts as gone. A pair is gone when both halves are.
///
/// TCP: RFC 5382, REQ-5 (established 2 h 4 min at least, transitory 4 min at least for NATs of the Internet; inside a
/// cluster an opening that is not answered within a minute is given up). UDP: RFC 4787, REQ-5, for answered flows.
pub const fn timeout_seconds(protocol: u8, tcp_state: u8) -> u64 {
    const TCP: u8 = 6;
    match (protocol, tcp_state) {
        (TCP, TCP_ESTABLISHED) => 8_000,
        (_, TCP_ESTABLISHED) => 300,
        _ => 60,
    }
}

/// What a socket asked for, and the backend it was given. Value of `SOCKET_ORIGINS` (hash, allocated as it fills) by the
/// `bpf_get_socket_cookie` of sockets that were balanced when they connected, and of `SOCKET_REPLIES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketOrigin {
    /// Virtual address.
    pub vip: Address,
    /// Port, network byte order.
    pub port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// Service it asked for.
    pub service_id: u32,
    /// Index of its backend.
    pub backend: u32,
    /// The backend's generation then.
    pub generation: u32,
}
const _: () = assert!(size_of::<SocketOrigin>() == 32);

/// Key of `SOCKET_REPLIES` (LRU hash): an unconnected UDP socket and the backend it was sent to; the value is the
/// [`SocketOrigin`] that replies must show. A socket can use several VIPs at once.
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
