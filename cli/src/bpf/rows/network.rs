//! The pod network: pods of the node, routes to others, the node itself.

use causeway_maps::view::{NodeView, PodView, RouteView};

use super::{Item, Rows};
use crate::{names::Names, table::or_none};

pub(super) fn pods(pods: &[PodView], names: &Names) -> Rows {
    let row = |pod: &PodView| {
        let name = names.pod(&pod.address);
        let narrow = vec![
            pod.address.clone(),
            or_none(name),
            pod.ifindex.to_string(),
            pod.pod_mac.clone(),
        ];
        Item::new(pod, narrow, vec![pod.host_mac.clone()]).with("pod", name)
    };
    Rows {
        narrow: &["ADDRESS", "POD", "IFINDEX", "MAC"],
        wide: &["HOST-MAC"],
        items: pods.iter().map(row).collect(),
        ..Rows::default()
    }
}

pub(super) fn routes(routes: &[RouteView], names: &Names) -> Rows {
    let row = |route: &RouteView| {
        let peer = names.node(&route.node);
        let narrow = vec![
            route.prefix.clone(),
            route.node.clone(),
            or_none(peer),
            route.mode.clone(),
        ];
        Item::new(route, narrow, vec![route.tunnel_id.to_string()]).with("peer", peer)
    };
    Rows {
        narrow: &["PREFIX", "VIA", "PEER", "MODE"],
        wide: &["TUNNEL-ID"],
        items: routes.iter().map(row).collect(),
        ..Rows::default()
    }
}

pub(super) fn the_node(node: &NodeView) -> Rows {
    let narrow = vec![
        both(&node.address, &node.address6),
        both(&node.router_address, &node.router_address6),
        node.uplink_ifindex.to_string(),
        node.tunnel_ifindex.to_string(),
        node.abi_version.to_string(),
    ];
    Rows {
        narrow: &["ADDRESS", "ROUTER-ADDRESS", "UPLINK-IFINDEX", "TUNNEL-IFINDEX", "ABI"],
        items: vec![Item::new(node, narrow, Vec::new())],
        ..Rows::default()
    }
}

/// Addresses of both families, as far as there are any.
fn both(ipv4: &str, ipv6: &str) -> String {
    let known: Vec<&str> = [ipv4, ipv6].into_iter().filter(|text| !text.is_empty()).collect();
    known.join(",")
}
