//! `EVENTS`: what happened to packets and connects, for whoever watches; and `EXPLANATION`, how one dry run went.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Record of `EVENTS` (ring buffer).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// Monotonic time, nanoseconds (`bpf_ktime_get_ns`).
    pub time_ns: u64,
    /// Source as the packet came in; all zero for connects, which have none yet.
    pub source: Address,
    /// Destination as the packet came in.
    pub destination: Address,
    /// Source as the packet went on; equal to `source` where nothing was translated.
    pub translated_source: Address,
    /// Destination as the packet went on.
    pub translated_destination: Address,
    /// Source port, network byte order; 0 where the protocol has none. So for the three below.
    pub source_port_be: u16,
    /// Destination port.
    pub destination_port_be: u16,
    /// Source port as the packet went on.
    pub translated_source_port_be: u16,
    /// Destination port as the packet went on.
    pub translated_destination_port_be: u16,
    /// The service's id; 0 for none.
    pub service_id: u32,
    /// Index into `BACKENDS`, or [`crate::service::NO_BACKEND`].
    pub backend: u32,
    /// [`crate::DropReason`], or 0.
    pub reason: u32,
    /// Bytes of the frame; 0 for connects.
    pub length: u32,
    /// Interface the program ran on; 0 for connects.
    pub ifindex: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Hook`].
    pub hook: u8,
    /// [`Verdict`].
    pub verdict: u8,
    /// TCP flags; 0 for other protocols.
    pub tcp_flags: u8,
}
const _: () = assert!(size_of::<Event>() == 104);

/// Where something happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Hook {
    /// A socket's `connect`.
    Connect = 1,
    /// A datagram of an unconnected socket.
    Sendmsg = 2,
    /// A packet that a pod sent.
    FromPod = 3,
    /// A packet out of the tunnel.
    FromTunnel = 4,
    /// A packet into the tunnel.
    ToTunnel = 5,
    /// A packet from the network, after XDP.
    FromUplink = 6,
    /// A packet to the network.
    ToUplink = 7,
    /// A packet from the network, before a socket buffer is made.
    Xdp = 8,
    /// A packet that the node's own stack sends to a pod.
    FromHost = 9,
}

impl Hook {
    /// Every hook, in order.
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::Sendmsg,
        Self::FromPod,
        Self::FromTunnel,
        Self::ToTunnel,
        Self::FromUplink,
        Self::ToUplink,
        Self::Xdp,
        Self::FromHost,
    ];

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Sendmsg => "sendmsg",
            Self::FromPod => "from-pod",
            Self::FromTunnel => "from-tunnel",
            Self::ToTunnel => "to-tunnel",
            Self::FromUplink => "from-uplink",
            Self::ToUplink => "to-uplink",
            Self::Xdp => "xdp",
            Self::FromHost => "from-host",
        }
    }
}

/// What became of a packet or connect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Verdict {
    /// Handed to a pod of this node.
    ToPod = 1,
    /// Sent to another node.
    ToNode = 2,
    /// Left to the node's own network stack.
    ToStack = 3,
    /// Dropped; `reason` says why.
    Drop = 4,
    /// Answered with a reset or an ICMP error, or the call failed; `reason` says why.
    Refuse = 5,
    /// The socket was given a backend.
    Balanced = 6,
    /// Sent back out of the uplink.
    ToNetwork = 7,
    /// Kept until the first fragment of its datagram comes.
    Held = 8,
}

impl Verdict {
    /// Every verdict, in order.
    pub const ALL: [Self; 8] = [
        Self::ToPod,
        Self::ToNode,
        Self::ToStack,
        Self::Drop,
        Self::Refuse,
        Self::Balanced,
        Self::ToNetwork,
        Self::Held,
    ];

    /// The verdict of a number.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::ToPod),
            2 => Some(Self::ToNode),
            3 => Some(Self::ToStack),
            4 => Some(Self::Drop),
            5 => Some(Self::Refuse),
            6 => Some(Self::Balanced),
            7 => Some(Self::ToNetwork),
            8 => Some(Self::Held),
            _ => None,
        }
    }

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToPod => "to-pod",
            Self::ToNode => "to-node",
            Self::ToStack => "to-stack",
            Self::Drop => "drop",
            Self::Refuse => "refuse",
            Self::Balanced => "balanced",
            Self::ToNetwork => "to-network",
            Self::Held => "held",
        }
    }
}

/// Element of `TRACE` (array of one, mmap-able): who is watching. Watchers move the deadlines on while they are there, so
/// that nothing is written once they are gone, however they went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Trace {
    /// Until when (monotonic nanoseconds) drops, refusals and new connections are written to `EVENTS`.
    pub until_ns: u64,
    /// Until when every packet is.
    pub packets_until_ns: u64,
}
const _: () = assert!(size_of::<Trace>() == 16);

/// Element of `EVENTS_LOST` (per-CPU array of one): events that found the ring buffer full, since the map was made.
pub type EventsLost = u64;

/// Mark (`__sk_buff::mark`) of a packet that is only tried out: the programs decide as always, write the decision to
/// `EXPLANATION`, and leave counters, events and the connection table alone. A packet that crosses network namespaces loses its
/// mark, so no pod can send one.
pub const MARK_DRY_RUN: u32 = 0x6377_00d0;

/// Element of `EXPLANATION` (array of one): how the last dry run went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Explanation {
    /// The service's id; 0 for none.
    pub service_id: u32,
    /// [`Choice`]; 0 when no backend was looked for.
    pub choice: u32,
    /// Hash of the flow or of the client.
    pub hash: u32,
    /// The slot the hash led to, absolute.
    pub first_slot: u32,
    /// Slots that were looked at before one had a backend that takes connections; 0 when the first one had.
    pub skipped: u32,
    /// Index into `BACKENDS`, or [`crate::service::NO_BACKEND`].
    pub backend: u32,
    /// [`crate::DropReason`], or 0.
    pub reason: u32,
    /// [`Verdict`].
    pub verdict: u32,
}
const _: () = assert!(size_of::<Explanation>() == 32);

/// How a backend was come by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Choice {
    /// The connection table knows the flow.
    Conntrack = 1,
    /// The Maglev table, by the hash of the flow.
    Maglev = 2,
    /// The Maglev table, by the hash of the client, for session affinity.
    ClientHash = 3,
    /// `AFFINITY` knows the client.
    Affinity = 4,
    /// It is an answer of a backend, translated back.
    Reply = 5,
}
