//! Why a packet was dropped or a connect refused: the one list, for BPF, metrics and the command line.

/// Index into `DROPS`. Numbers are stable: new reasons go at the end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum DropReason {
    /// The service has no backend that takes connections.
    NoReadyBackend = 1,
    /// A pod sent with an address that is not its own.
    SourceAddressNotPods = 2,
    /// Headers end before they should, or contradict each other.
    MalformedPacket = 3,
    /// The connection table has no room.
    ConntrackFull = 4,
    /// The flow's backend is gone.
    BackendGone = 5,
    /// The kernel refused to rewrite the packet.
    RewriteFailed = 6,
    /// The kernel refused the tunnel header.
    TunnelFailed = 7,
    /// An address of the pod range that no pod has.
    NoSuchPod = 8,
    /// The client is in none of the service's `loadBalancerSourceRanges`.
    SourceNotAllowed = 9,
    /// A protocol that has no ports to tell flows apart by cannot leave the cluster behind the node's address.
    NotMasqueradable = 10,
    /// A fragment came before the first of its datagram, and there was no room to keep it until then.
    FragmentNotHeld = 11,
    /// The packet has been through too many routers; its sender is told.
    HopLimitExceeded = 12,
    /// The packet does not fit into the tunnel and may not be divided; its sender is told what would.
    TooLargeForTunnel = 13,
    /// A packet was dropped or refused for a reason of its own, and its sender was not told: too many senders had been told of late
    /// ([`crate::icmp`]). Counts the messages that were not sent.
    IcmpErrorSuppressed = 14,
    /// A fragment that was kept for the first of its datagram, which did not come in time.
    FragmentExpired = 15,
    /// A fragment that was kept, and whose place another one took.
    FragmentEvicted = 16,
    /// The tables of balanced sockets have no room for another one, or there was no memory for it.
    SocketsFull = 17,
}

impl DropReason {
    /// Every reason, in order.
    pub const ALL: [Self; 17] = [
        Self::NoReadyBackend,
        Self::SourceAddressNotPods,
        Self::MalformedPacket,
        Self::ConntrackFull,
        Self::BackendGone,
        Self::RewriteFailed,
        Self::TunnelFailed,
        Self::NoSuchPod,
        Self::SourceNotAllowed,
        Self::NotMasqueradable,
        Self::FragmentNotHeld,
        Self::HopLimitExceeded,
        Self::TooLargeForTunnel,
        Self::IcmpErrorSuppressed,
        Self::FragmentExpired,
        Self::FragmentEvicted,
        Self::SocketsFull,
    ];

    /// Name in metrics and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoReadyBackend => "NO_READY_BACKEND",
            Self::SourceAddressNotPods => "SOURCE_ADDRESS_NOT_PODS",
            Self::MalformedPacket => "MALFORMED_PACKET",
            Self::ConntrackFull => "CONNTRACK_FULL",
            Self::BackendGone => "BACKEND_GONE",
            Self::RewriteFailed => "REWRITE_FAILED",
            Self::TunnelFailed => "TUNNEL_FAILED",
            Self::NoSuchPod => "NO_SUCH_POD",
            Self::SourceNotAllowed => "SOURCE_NOT_ALLOWED",
            Self::NotMasqueradable => "NOT_MASQUERADABLE",
            Self::FragmentNotHeld => "FRAGMENT_NOT_HELD",
            Self::HopLimitExceeded => "HOP_LIMIT_EXCEEDED",
            Self::TooLargeForTunnel => "TOO_LARGE_FOR_TUNNEL",
            Self::IcmpErrorSuppressed => "ICMP_ERROR_SUPPRESSED",
            Self::FragmentExpired => "FRAGMENT_EXPIRED",
            Self::FragmentEvicted => "FRAGMENT_EVICTED",
            Self::SocketsFull => "SOCKETS_FULL",
        }
    }
}

/// Elements of `DROPS`; leaves room so that a new reason keeps the map's shape.
pub const DROP_REASONS_MAX: u32 = 64;
