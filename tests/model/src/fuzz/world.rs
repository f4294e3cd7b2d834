//! The node that sequences happen on: few addresses and ports, so that flows meet.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use causeway_abi::node::{DIRECT_RETURN, MASQUERADE, NodeConfig};
use causeway_abi::route::{MODE_NATIVE, MODE_VXLAN, Route as RouteValue, RouteKey};
use causeway_abi::{ABI_VERSION, Address};
use zerocopy::FromZeros as _;

use super::kernel::{HELD, Kernel};
use crate::model::flows::Flows;
use crate::model::tables::{Node, Pod, Route, Tables, within};

/// Test runs come in by loopback, whose index is 1 in every network namespace.
const IFINDEX: u32 = 1;
/// Behind which a pod is that does not send in sequences.
const OTHER_IFINDEX: u32 = 77;
const TUNNEL_IFINDEX: u32 = 900;
const UPLINK_IFINDEX: u32 = 901;
/// UDP port of the tunnel.
pub const TUNNEL_PORT: u16 = 8472;
/// Its network identifier.
pub const VNI: u32 = 1;
/// The MAC address of the uplink.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 4, 1];
/// Who is on the uplink's network.
pub const NEIGHBOURS: [&str; 5] = ["172.30.0.12", "192.0.2.7", "192.0.2.8", "198.51.100.20", "2001:db8::7"];
/// The node that the pods of other nodes are on.
const OTHER_NODE: &str = "172.30.0.12";
const UPLINK_MTU: u32 = 1_500;
const NODE: [&str; 2] = ["172.30.0.11", "2001:db8:30::11"];
const ROUTER: [&str; 2] = ["10.244.1.1", "fd00:1::1"];
/// Pods of this node; the last of each family is behind another interface than the one packets come in by.
pub const PODS: [&str; 8] = [
    "10.244.1.5",
    "10.244.1.6",
    "10.244.1.7",
    "10.244.1.9",
    "fd00:1::5",
    "fd00:1::6",
    "fd00:1::7",
    "fd00:1::9",
];
const ROUTES: [(&str, u8, Route); 6] = [
    ("10.244.2.0", 24, Route::Tunnel),
    ("10.244.3.0", 24, Route::Tunnel),
    ("10.244.3.128", 25, Route::Native),
    ("198.51.100.0", 24, Route::Native),
    ("fd00:2::", 64, Route::Tunnel),
    ("2001:db8:1::", 48, Route::Native),
];

/// Reads an address of this file's.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no IP address"))
}

/// An address as maps have it.
pub fn mapped(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => Address::new(v6.octets()),
    }
}

/// An address of a map's.
pub fn unmapped(address: Address) -> IpAddr {
    match address.to_v4() {
        Some(v4) => IpAddr::from(v4),
        None => IpAddr::from(address.bytes),
    }
}

/// Address and port of a map's.
pub fn socket(address: Address, port_be: u16) -> SocketAddr {
    SocketAddr::new(unmapped(address), u16::from_be(port_be))
}

/// The node as the model knows it, before anything happened.
pub fn tables() -> Tables {
    let pods = PODS.iter().enumerate().map(|(i, address)| {
        let last = i as u8;
        let pod = Pod {
            ifindex: if i % 4 == 3 { OTHER_IFINDEX } else { IFINDEX },
            mac: [2, 0, 0, 0, 1, last],
            host_mac: [2, 0, 0, 0, 2, last],
        };
        (ip(address), pod)
    });
    Tables {
        node: Node {
            addresses: NODE.map(ip).to_vec(),
            routers: ROUTER.map(ip).to_vec(),
            tunnel_port: TUNNEL_PORT,
            masquerade: true,
            direct: false,
            ifindex: IFINDEX,
            held_fragments: HELD.into(),
        },
        pods: pods.collect(),
        routes: ROUTES
            .iter()
            .map(|(prefix, bits, route)| ((ip(prefix), *bits), *route))
            .collect(),
        services: BTreeMap::new(),
        backends: BTreeMap::new(),
        flows: Flows::default(),
        direct: BTreeMap::new(),
        fragments: BTreeMap::new(),
        held: BTreeMap::new(),
        held_ever: 0,
        is_mute: false,
        affinity: BTreeMap::new(),
        drops: BTreeMap::new(),
        counts: BTreeMap::new(),
        now: Duration::ZERO,
    }
}

/// The same as maps have it; `direct` says whether backends' nodes answer clients directly.
pub fn node(direct: bool) -> NodeConfig {
    let mut node = NodeConfig::new_zeroed();
    node.abi_version = ABI_VERSION;
    node.tunnel_ifindex = TUNNEL_IFINDEX;
    node.uplink_ifindex = UPLINK_IFINDEX;
    node.flags = if direct { MASQUERADE | DIRECT_RETURN } else { MASQUERADE };
    [node.node_address, node.node_address6] = NODE.map(ip).map(mapped);
    [node.router_address, node.router_address6] = ROUTER.map(ip).map(mapped);
    node.tunnel_port_be = TUNNEL_PORT.to_be();
    node.tunnel_id = VNI;
    node.held_fragments = HELD;
    node
}

/// Writes pods, routes and neighbours into the maps.
pub fn write(kernel: &Kernel, tables: &Tables) -> Result<()> {
    for (address, pod) in &tables.pods {
        let value = causeway_abi::pod::Pod {
            ifindex: pod.ifindex,
            flags: 0,
            pod_mac: pod.mac,
            host_mac: pod.host_mac,
        };
        kernel.pods.put(&mapped(*address), &value)?;
    }
    for ((prefix, bits), route) in &tables.routes {
        let key = RouteKey {
            prefix_len: u32::from(*bits) + if prefix.is_ipv4() { 96 } else { 0 },
            address: mapped(*prefix),
        };
        let value = RouteValue {
            node: mapped(ip(OTHER_NODE)),
            tunnel_id: VNI,
            mode: match route {
                Route::Tunnel => MODE_VXLAN,
                Route::Native => MODE_NATIVE,
            },
        };
        kernel.routes.put(&key, &value)?;
    }
    for neighbour in NEIGHBOURS {
        // The place that the program looks at, so that it need not ask the kernel, who knows of no such network.
        let place = |word: u32| word.wrapping_mul(0x9e37_79b1) >> 24;
        let rest = [
            &UPLINK_MTU.to_ne_bytes()[..],
            &neighbour_mac(ip(neighbour)),
            &UPLINK_MAC,
        ]
        .concat();
        match ip(neighbour) {
            IpAddr::V4(address) => {
                let mut hop = [0; 32];
                hop[..8].copy_from_slice(&u64::MAX.to_ne_bytes());
                hop[8..12].copy_from_slice(&address.octets());
                hop[12..28].copy_from_slice(&rest);
                kernel.put_next_hop(place(u32::from_ne_bytes(address.octets())), &hop)?;
            }
            IpAddr::V6(address) => {
                let mut hop = [0; 48];
                hop[..8].copy_from_slice(&u64::MAX.to_ne_bytes());
                hop[8..24].copy_from_slice(&address.octets());
                hop[24..40].copy_from_slice(&rest);
                let octets = address.octets();
                let (words, _) = octets.as_chunks::<4>();
                let word = words.iter().fold(0, |word, next| word ^ u32::from_ne_bytes(*next));
                kernel.put_next_hop6(place(word), &hop)?;
            }
        }
    }
    Ok(())
}

/// The MAC address of a neighbour.
pub fn neighbour_mac(address: IpAddr) -> [u8; 6] {
    let last = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let [.., c, d] = last.to_be_bytes();
    [2, 0, 0, if address.is_ipv4() { 3 } else { 6 }, c, d]
}

/// The node that a pod is on, if it is another than this one.
pub fn node_of(pod: IpAddr) -> Option<Ipv4Addr> {
    let is_remote = ROUTES
        .iter()
        .any(|(prefix, bits, route)| *route == Route::Tunnel && within(pod, ip(prefix), *bits));
    is_remote.then(other_node)
}

/// The node that the pods of other nodes are on.
pub fn other_node() -> Ipv4Addr {
    match ip(OTHER_NODE) {
        IpAddr::V4(node) => node,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

/// This node, as other nodes know it.
pub fn this_node() -> Ipv4Addr {
    match ip(NODE[0]) {
        IpAddr::V4(node) => node,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}
