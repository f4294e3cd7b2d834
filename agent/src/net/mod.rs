//! The pod network by netlink: the node's tunnel device and routes, and each pod's veth pair.
//!
//! The agent runs inside its node's network namespace, so nothing here names that namespace. Every operation is
//! idempotent: it looks at what the kernel has and makes what is missing, so it can be cut off at any instant and be
//! called again. Packets are forwarded by the BPF programs ([`crate::bpf`]); the kernel routes made here serve the node's
//! own processes and what the programs leave to the stack.
//!
//! ```text
//!   pod namespace                       node namespace
//!   eth0  10.244.1.5/32  ── veth ──  cw1a2b3c4d      10.244.1.5/32 dev cw1a2b3c4d src 10.244.1.1
//!   default via 169.254.1.1          cw-vxlan0       10.244.1.1/32; 10.244.0.0/16 dev cw-vxlan0 src 10.244.1.1
//!   169.254.1.1 → MAC of cw1a2b3c4d                  unreachable 10.244.1.0/24
//! ```
//!
//! The same with IPv6 addresses and the next hop `fe80::1`, in whichever families the node has a range. With native routing
//! ([`Routing::Native`]) the cluster's range does not lead to the tunnel device; each node's range has a route of its own
//! ([`DirectRoute`]).

mod direct;
mod error;
mod link;
mod namespace;
mod node;
mod pod;
mod prefix;
mod reach;
mod sysctl;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use direct::{DirectReport, DirectRoute};
pub use error::NetworkError;
pub use node::{NodeNetConfig, Routing, Tunnel};
pub use pod::{PodLink, PodNet, pod_link_name};
pub(crate) use prefix::to_bits;
pub use prefix::{ParsePrefixError, Prefix, Ranges, RangesError};

/// Name of the tunnel device.
pub const TUNNEL_NAME: &str = "cw-vxlan0";

/// Bytes that VXLAN over IPv4 adds to a packet: outer IPv4 (20), UDP (8), VXLAN (8), inner Ethernet (14). RFC 7348, 5.
pub const VXLAN_OVERHEAD_BYTES: u32 = 50;
/// The same over IPv6, whose header has 40 bytes.
pub const VXLAN_OVERHEAD_IPV6_BYTES: u32 = 70;
/// No link with a smaller MTU carries IPv6 (RFC 8200, 5).
pub const IPV6_MIN_MTU_BYTES: u32 = 1280;

/// The pods' next hop. It is nobody's address: a permanent neighbour entry gives it the MAC of the host side, so no ARP or
/// neighbour discovery takes place.
pub const fn next_hop(pod: IpAddr) -> IpAddr {
    match pod {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    }
}

/// Bits of a prefix that holds just this address.
const fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The network of the namespace that the agent runs in. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    handle: rtnetlink::Handle,
}

impl Network {
    /// Opens a netlink socket in the present network namespace. Must be called in a tokio runtime, which then drives it.
    pub fn new() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Opens a netlink socket in the network namespace at `path` (`/proc/<pid>/ns/net`).
    async fn in_namespace(path: &std::path::Path) -> Result<Self, NetworkError> {
        let handle = namespace::netlink_in(path).await?;
        Ok(Self { handle })
    }
}
