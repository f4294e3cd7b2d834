//! What the model knows: the node, its services and backends, and the flows, fragments and clients it remembers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use causeway_abi::DropReason;

use super::direct::DirectFlow;
use super::flows::{Flows, Tuple};

/// The node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its addresses on the network between nodes, IPv4 first. Pods leave the cluster behind them.
    pub addresses: Vec<IpAddr>,
    /// Its addresses among the pods; clients of backends on other nodes are given these.
    pub routers: Vec<IpAddr>,
    /// UDP port of the tunnel.
    pub tunnel_port: u16,
    /// Whether pods leave the cluster behind the node's address.
    pub masquerade: bool,
    /// Whether backends' nodes answer clients directly.
    pub direct: bool,
    /// The interface whose packets are tried.
    pub ifindex: u32,
    /// How many fragments can wait for their first one.
    pub held_fragments: u32,
}

impl Node {
    /// Whether an address is one of the node's.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || self.routers.contains(&address)
    }

    /// The node's own address of the same family.
    pub fn address_beside(&self, other: IpAddr) -> Option<IpAddr> {
        same_family(&self.addresses, other)
    }

    /// The router address of the same family.
    pub fn router_beside(&self, other: IpAddr) -> Option<IpAddr> {
        same_family(&self.routers, other)
    }
}

fn same_family(addresses: &[IpAddr], other: IpAddr) -> Option<IpAddr> {
    addresses
        .iter()
        .copied()
        .find(|address| address.is_ipv4() == other.is_ipv4())
}

/// A pod of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pod {
    /// The host side of its veth pair.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its next hop's.
    pub host_mac: [u8; 6],
}

/// How a prefix is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Through the tunnel.
    Tunnel,
    /// By the kernel's routing table.
    Native,
}

/// From where a service is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// By pods.
    Cluster,
    /// By the network.
    Node,
}

/// An address services are asked for at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Vip {
    /// From where.
    pub scope: Scope,
    /// TCP or UDP.
    pub protocol: u8,
    /// Address and port.
    pub address: SocketAddr,
}

/// A service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its id, which counters go by.
    pub id: u32,
    /// Its table: backends by index, the same one in many places.
    pub table: Vec<u32>,
    /// Backends that places of the table had before.
    pub previous: Vec<u32>,
    /// How often the table has changed.
    pub changes: u32,
    /// How long a client keeps its backend.
    pub affinity: Option<Duration>,
    /// Whom it lets in from the network; `None` for everybody.
    pub sources: Option<Vec<(IpAddr, u8)>>,
}

/// A backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// Answers.
    pub ready: bool,
    /// About to leave.
    pub terminating: bool,
    /// Counts those that had the same index before.
    pub generation: u32,
}

/// What the first fragment of a datagram became, for those that follow; with an unspecified source before it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentRoute {
    /// New source.
    pub source: IpAddr,
    /// New destination.
    pub destination: IpAddr,
    /// The service's id, or 0.
    pub service: u32,
    /// The backend's index, or `NO_BACKEND`.
    pub backend: u32,
    /// When.
    pub seen: Duration,
}

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FragmentKey {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Identification.
    pub identification: u32,
    /// Protocol; 0 for IPv6, whose fragments may differ in it (RFC 8200, 4.5).
    pub protocol: u8,
}

/// A fragment that waits for its first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its datagram.
    pub datagram: FragmentKey,
    /// When it came.
    pub seen: Duration,
    /// How many came before it.
    pub number: u64,
    /// Bytes of its frame.
    pub length: usize,
}

/// Which backend a client was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Affinity {
    /// The backend's index.
    pub backend: u32,
    /// Its generation then.
    pub generation: u32,
    /// When.
    pub seen: Duration,
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceCount {
    /// Flows begun.
    pub connections: u64,
    /// Packets translated.
    pub packets: u64,
    /// Bytes of their IP packets.
    pub bytes: u64,
    /// Packets refused or dropped.
    pub drops: u64,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Tables {
    /// The node.
    pub node: Node,
    /// Its pods.
    pub pods: BTreeMap<IpAddr, Pod>,
    /// Where other pods live, by prefix and its length.
    pub routes: BTreeMap<(IpAddr, u8), Route>,
    /// Services.
    pub services: BTreeMap<Vip, Service>,
    /// Backends by index.
    pub backends: BTreeMap<u32, Backend>,
    /// Flows that are translated.
    pub flows: Flows,
    /// Flows that are sent on directly.
    pub direct: BTreeMap<Tuple, DirectFlow>,
    /// Datagrams in fragments.
    pub fragments: BTreeMap<FragmentKey, FragmentRoute>,
    /// Fragments that wait for their first one, by place.
    pub held: BTreeMap<u32, Held>,
    /// How many came to wait.
    pub held_ever: u64,
    /// Whether no ICMP error may be sent any more.
    pub is_mute: bool,
    /// Clients by address and service.
    pub affinity: BTreeMap<(IpAddr, u32), Affinity>,
    /// Dropped and refused packets and their bytes, by reason.
    pub drops: BTreeMap<u32, (u64, u64)>,
    /// What each service counted, by id.
    pub counts: BTreeMap<u32, ServiceCount>,
    /// Time since the sequence began.
    pub now: Duration,
}

impl Tables {
    /// The most specific route to an address.
    pub fn route(&self, to: IpAddr) -> Option<Route> {
        let fitting = self
            .routes
            .iter()
            .filter(|((prefix, bits), _)| within(to, *prefix, *bits));
        fitting.max_by_key(|((_, bits), _)| *bits).map(|(_, route)| *route)
    }

    /// Counts what is dropped.
    pub fn count_drop(&mut self, reason: DropReason, length: usize) {
        let (packets, bytes) = self.drops.entry(reason as u32).or_default();
        *packets += 1;
        *bytes += length as u64;
    }

    /// A backend, if the index still belongs to the one of that generation.
    pub fn backend(&self, index: u32, generation: u32) -> Option<&Backend> {
        self.backends
            .get(&index)
            .filter(|backend| backend.generation == generation)
    }
}

/// Whether an address is in a prefix.
pub fn within(address: IpAddr, prefix: IpAddr, bits: u8) -> bool {
    let (address, prefix, width) = match (address, prefix) {
        (IpAddr::V4(address), IpAddr::V4(prefix)) => (u128::from(address.to_bits()), u128::from(prefix.to_bits()), 32),
        (IpAddr::V6(address), IpAddr::V6(prefix)) => (address.to_bits(), prefix.to_bits(), 128),
        _ => return false,
    };
    let ignored = width - u32::from(bits).min(width);
    (address ^ prefix).checked_shr(ignored).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_hold_their_addresses() {
        let within =
            |address: &str, prefix: &str, bits| within(address.parse().unwrap(), prefix.parse().unwrap(), bits);
        assert!(within("10.1.2.3", "10.1.2.0", 24));
        assert!(!within("10.1.3.3", "10.1.2.0", 24));
        assert!(within("10.1.3.3", "0.0.0.0", 0));
        assert!(within("fd00:1::9", "fd00:1::", 64));
        assert!(!within("fd00:2::9", "fd00:1::", 64));
        assert!(!within("10.1.2.3", "::", 0));
    }
}
