//! `NODE`, `PODS` and `ROUTES` in words.

use causeway_abi::{
    Address,
    route::{MODE_NATIVE, RouteKey},
};
use serde::{Deserialize, Serialize};

use crate::{AddressExt as _, MapsError, PinnedMaps, address};

/// The node itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Version of the map layouts.
    pub abi_version: u32,
    /// Underlay address.
    pub address: String,
    /// The node's address in its pod range.
    pub router_address: String,
    /// Underlay address of the other family, if the node has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address6: String,
    /// The node's address in its IPv6 pod range, if it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub router_address6: String,
    /// Interface index of the VXLAN device; 0 for none.
    pub tunnel_ifindex: u32,
    /// Interface index of the uplink; 0 for none.
    pub uplink_ifindex: u32,
}

/// A pod of this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodView {
    /// Pod address.
    pub address: String,
    /// Interface index of the host side of its veth pair.
    pub ifindex: u32,
    /// MAC address of the pod's `eth0`.
    pub pod_mac: String,
    /// MAC address of the host side.
    pub host_mac: String,
}

/// Where pods of another node live.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    /// Prefix of pod addresses, "address/bits".
    pub prefix: String,
    /// Underlay address of their node; unspecified for prefixes of no one node.
    pub node: String,
    /// VXLAN network identifier.
    pub tunnel_id: u32,
    /// "VXLAN" or "Native".
    pub mode: String,
}

/// The node in words.
pub fn node(maps: &PinnedMaps) -> Result<NodeView, MapsError> {
    let node = maps.node.get()?;
    Ok(NodeView {
        abi_version: node.abi_version,
        address: text_of(node.node_address),
        router_address: text_of(node.router_address),
        address6: text_of(node.node_address6),
        router_address6: text_of(node.router_address6),
        tunnel_ifindex: node.tunnel_ifindex,
        uplink_ifindex: node.uplink_ifindex,
    })
}

/// The local pods, by address.
pub fn pods(maps: &PinnedMaps) -> Result<Vec<PodView>, MapsError> {
    let mut entries = maps.pods.entries()?;
    entries.sort_by_key(|(address, _)| *address);
    Ok(entries
        .into_iter()
        .map(|(address, pod)| PodView {
            address: text(address),
            ifindex: pod.ifindex,
            pod_mac: address::mac(pod.pod_mac),
            host_mac: address::mac(pod.host_mac),
        })
        .collect())
}

/// The routes, by prefix.
pub fn routes(maps: &PinnedMaps) -> Result<Vec<RouteView>, MapsError> {
    let mut entries = maps.routes.entries()?;
    entries.sort_by_key(|(key, _)| (key.address, key.prefix_len));
    Ok(entries
        .into_iter()
        .map(|(key, route)| RouteView {
            prefix: prefix(&key),
            node: text(route.node),
            tunnel_id: route.tunnel_id,
            mode: if route.mode == MODE_NATIVE { "Native" } else { "VXLAN" }.to_owned(),
        })
        .collect())
}

/// Empty for none.
fn text_of(address: Address) -> String {
    if address == Address::default() {
        String::new()
    } else {
        text(address)
    }
}

fn text(address: Address) -> String {
    address.to_ip().to_string()
}

fn prefix(key: &RouteKey) -> String {
    let ip = key.address.to_ip();
    let bits = if ip.is_ipv4() {
        key.prefix_len.saturating_sub(96)
    } else {
        key.prefix_len
    };
    format!("{ip}/{bits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_count_bits_of_their_own_family() {
        let key = |ip: &str, prefix_len| RouteKey {
            prefix_len,
            address: Address::from_ip(ip.parse().unwrap()),
        };
        assert_eq!(prefix(&key("10.244.1.0", 120)), "10.244.1.0/24");
        assert_eq!(prefix(&key("fd00:1::", 64)), "fd00:1::/64");
    }
}
