//! What the data path should hold: plain values, made by the reconcilers.

use std::net::{IpAddr, Ipv4Addr};

use causeway_maps::Protocol;

/// An address and port of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VipId {
    /// Virtual address, or one of a node.
    pub address: IpAddr,
    /// Port, host byte order.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// From where a frontend is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// From pods and from the node's own sockets.
    Cluster,
    /// From the network: packets that come in by the uplink.
    External,
}

/// Addresses of clients: a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SourceRange {
    /// First address.
    pub address: IpAddr,
    /// Bits of the prefix, in the address's own family.
    pub prefix_len: u8,
}

/// An address under which a service is reached from one side. At most one service has a `vip` and `scope`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// Address, port and protocol.
    pub vip: VipId,
    /// From where.
    pub scope: Scope,
    /// Only backends of this node count (`internalTrafficPolicy: Local` for the cluster IPs, `externalTrafficPolicy: Local` for what
    /// comes from outside).
    pub local_only: bool,
    /// Clients that are let in; empty for all. Only ever set where the network is let in ([`Scope::External`]).
    pub source_ranges: Vec<SourceRange>,
}

impl Frontend {
    /// A cluster IP without conditions.
    pub fn cluster(vip: VipId) -> Self {
        Self {
            vip,
            scope: Scope::Cluster,
            local_only: false,
            source_ranges: Vec::new(),
        }
    }
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

impl BackendId {
    /// A backend whose READY bit follows its probes.
    pub fn new(address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self {
            address,
            port,
            protocol,
            ready_always: false,
        }
    }
}

/// Readiness of a pod as its own node knows it, which is newer than what the API server says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readiness {
    /// Answers.
    pub ready: bool,
    /// Was asked to end.
    pub terminating: bool,
}

/// Ports at the node's own addresses that a pod in the node's network has by its manifest: nobody else on the node has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostedPorts {
    /// The pod's UID.
    pub pod: String,
    /// Number and protocol of each.
    pub ports: Vec<(u16, Protocol)>,
}

/// A backend of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a state of its own, and all combinations occur"
)]
pub struct DesiredBackend {
    /// Which.
    pub id: BackendId,
    /// Answers.
    pub ready: bool,
    /// Keeps its connections; takes new ones only while it is ready and nobody else is.
    pub terminating: bool,
    /// Runs on this node.
    pub local: bool,
    /// Underlay address of the other node it runs on; `None` for this node, for an address outside the cluster, and when it is not
    /// known.
    pub node: Option<Ipv4Addr>,
    /// Takes new connections of frontends that are not `local_only`. Not so when it is farther away than `trafficDistribution` asks
    /// for and a nearer one is ready; it keeps its connections.
    pub preferred: bool,
}

impl DesiredBackend {
    /// A backend that answers and takes new connections, on no node that is known.
    pub fn ready(id: BackendId) -> Self {
        Self {
            id,
            ready: true,
            terminating: false,
            local: false,
            node: None,
            preferred: true,
        }
    }
}

/// One port of a service, in one address family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredService {
    /// "namespace/name:port".
    pub name: String,
    /// Session affinity time-out in seconds; 0 for none. The same for all frontends.
    pub affinity_seconds: u32,
    /// Where it is reached; cluster IPs come first.
    pub frontends: Vec<Frontend>,
    /// Its backends, ready or not; at most one for each id.
    pub backends: Vec<DesiredBackend>,
}

impl DesiredService {
    /// A service with a cluster IP and nothing else.
    pub fn cluster_ip(vip: VipId, name: impl Into<String>, backends: Vec<DesiredBackend>) -> Self {
        Self {
            name: name.into(),
            affinity_seconds: 0,
            frontends: vec![Frontend::cluster(vip)],
            backends,
        }
    }

    /// "namespace/name": its service, which owns it and others with other ports or of another family.
    pub fn owner(&self) -> &str {
        owner_of(&self.name)
    }

    /// The backends among which frontends choose, those with [`Frontend::local_only`] and those without.
    pub fn choice(&self, local_only: bool) -> impl Iterator<Item = &DesiredBackend> {
        self.backends
            .iter()
            .filter(move |backend| if local_only { backend.local } else { backend.preferred })
    }
}

/// "namespace/name" of a "namespace/name:port".
pub fn owner_of(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(owner, _)| owner)
}

/// All that is desired of one service of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServicesOf {
    /// "namespace/name", as in [`DesiredService::owner`].
    pub owner: String,
    /// Its ports, none when it is gone. No two have a frontend in common.
    pub services: Vec<DesiredService>,
}

/// The complete list: what is not in it goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DesiredServices {
    /// No two have a frontend in common.
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
    /// Underlay address of the node; unspecified for prefixes of no one node.
    pub node: IpAddr,
    /// How packets get there.
    pub mode: RouteMode,
}

/// How packets get to the pods of another node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RouteMode {
    /// Through the tunnel.
    Vxlan {
        /// VXLAN network identifier.
        vni: u32,
    },
    /// As they are, by the kernel's routing table; what pods send there keeps its source.
    Native,
}
