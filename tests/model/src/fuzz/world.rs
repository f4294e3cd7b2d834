//! The node that sequences happen on: few addresses and ports, so that flows meet.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use causeway_abi::node::{MASQUERADE, NodeConfig};
use causeway_abi::route::{MODE_NATIVE, MODE_VXLAN, Route as RouteValue, RouteKey};
use causeway_abi::{ABI_VERSION, Address};
use zerocopy::FromZeros as _;

use super::kernel::Kernel;
use crate::model::flows::Flows;
use crate::model::tables::{Node, Pod, Route, Tables};

/// Test runs come in by loopback, whose index is 1 in every network namespace.
const IFINDEX: u32 = 1;
/// Behind which a pod is that does not send in sequences.
const OTHER_IFINDEX: u32 = 77;
const TUNNEL_IFINDEX: u32 = 900;
const UPLINK_IFINDEX: u32 = 901;
const TUNNEL_PORT: u16 = 8472;
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
            ifindex: IFINDEX,
        },
        pods: pods.collect(),
        routes: ROUTES
            .iter()
            .map(|(prefix, bits, route)| ((ip(prefix), *bits), *route))
            .collect(),
        services: BTreeMap::new(),
        backends: BTreeMap::new(),
        flows: Flows::default(),
        fragments: BTreeMap::new(),
        affinity: BTreeMap::new(),
        drops: BTreeMap::new(),
        counts: BTreeMap::new(),
        now: Duration::ZERO,
    }
}

/// Writes the same into the maps.
pub fn write(kernel: &Kernel, tables: &Tables) -> Result<()> {
    let mut node = NodeConfig::new_zeroed();
    node.abi_version = ABI_VERSION;
    node.tunnel_ifindex = TUNNEL_IFINDEX;
    node.uplink_ifindex = UPLINK_IFINDEX;
    node.flags = MASQUERADE;
    [node.node_address, node.node_address6] = NODE.map(ip).map(mapped);
    [node.router_address, node.router_address6] = ROUTER.map(ip).map(mapped);
    node.tunnel_port_be = TUNNEL_PORT.to_be();
    kernel.set_node(&node);
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
            node: mapped(ip("172.30.0.12")),
            tunnel_id: 1,
            mode: match route {
                Route::Tunnel => MODE_VXLAN,
                Route::Native => MODE_NATIVE,
            },
        };
        kernel.routes.put(&key, &value)?;
    }
    Ok(())
}
