//! What the data path should hold: plain values, made by the reconcilers.

use std::net::IpAddr;

use causeway_maps::Protocol;

/// A virtual address: the key of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VipId {
    /// Virtual address.
    pub address: IpAddr,
    /// Port, host byte order.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What makes a backend the same backend from one list to the next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BackendId {
    /// Pod (or external) address.
    pub address: IpAddr,
    /// Port, host byte order.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its service publishes not-ready addresses, so probes do not touch its READY bit. Part of the identity because one
    /// pod port can be behind a service that does and one that does not.
    pub ready_always: bool,
}

/// Readiness of a pod as its own node knows it, which is newer than what the API server says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readiness {
    /// Answers.
    pub ready: bool,
    /// Was asked to end.
    pub terminating: bool,
}

/// A backend of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DesiredBackend {
    /// Which.
    pub id: BackendId,
    /// Answers.
    pub ready: bool,
    /// Keeps its connections; takes new ones only while it is ready and nobody else is.
    pub terminating: bool,
    /// Runs on this node.
    pub local: bool,
}

/// A service on one VIP port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredService {
    /// Its virtual address.
    pub vip: VipId,
    /// "namespace/name:port".
    pub name: String,
    /// Session affinity time-out in seconds; 0 for none.
    pub affinity_seconds: u32,
    /// Its backends, ready or not; at most one for each id.
    pub backends: Vec<DesiredBackend>,
}

/// The complete list: what is not in it goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DesiredServices {
    /// At most one for each VIP.
    pub services: Vec<DesiredService>,
}

/// A pod of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DesiredPod {
    /// Pod address.
    pub address: IpAddr,
    /// Interface index of the host side of its veth pair.
    pub ifindex: u32,
    /// MAC address of the pod's `eth0`.
    pub pod_mac: [u8; 6],
    /// MAC address of the host side.
    pub host_mac: [u8; 6],
}

/// Where the pods of another node live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DesiredRoute {
    /// First address of the prefix.
    pub address: IpAddr,
    /// Bits of the prefix, in the address's own family.
    pub prefix_len: u8,
    /// Underlay address of the node.
    pub node: IpAddr,
    /// VXLAN network identifier.
    pub vni: u32,
}
