//! Where the pods of other nodes live: from the cluster's nodes to `ROUTES`, and to the kernel's own routes. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use causeway_proto::v1::Node;

use crate::{
    bpf::{DesiredRoute, RouteMode},
    net::{DirectReport, DirectRoute, Prefix, Ranges, Routing},
};

/// What a node is told about the network between the nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteSettings {
    /// How pods of other nodes are reached.
    pub routing: Routing,
    /// Interface that leads to the other nodes.
    pub uplink: String,
    /// Ranges of all pods.
    pub cluster: Ranges,
    /// This node's own pod ranges.
    pub own: Ranges,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Further prefixes whose machines know the way to pods: packets that pods send there keep their source.
    pub native: Vec<Prefix>,
}

/// Routes as they should be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RoutePlan {
    /// In the data path's map.
    pub map: Vec<DesiredRoute>,
    /// In the kernel's routing table.
    pub direct: Vec<DirectRoute>,
}

/// Routes to the pod ranges of all nodes but `own`. A node without range or address has none yet; a range that overlaps one of a
/// node before it (by name) is left out, as is one that is not in the cluster's.
pub fn plan_routes<'a>(nodes: impl IntoIterator<Item = &'a Node>, own: &str, settings: &RouteSettings) -> RoutePlan {
    let mut plan = RoutePlan::default();
    let mut known: Vec<Prefix> = Vec::new();
    for node in nodes {
        let name = node.metadata.as_ref().map_or("", |meta| &meta.name);
        let Some(ranges) = pod_ranges(node).filter(|_| name != own) else {
            continue;
        };
        for range in ranges.iter() {
            if !settings.cluster.hold(&range.into()) {
                tracing::warn!(node = name, %range, cluster = %settings.cluster, "pod range is outside the cluster's; no route");
            } else if known.iter().any(|other| other.overlaps(range)) {
                tracing::warn!(node = name, %range, "pod range overlaps another node's; no route");
            } else if plan.add(range, &internal_addresses(node), settings) {
                known.push(range);
            }
        }
    }
    let whole = settings.cluster.iter().filter(|_| settings.routing == Routing::Native);
    for prefix in whole.chain(settings.native.iter().copied()) {
        // A node that has all of the cluster's range is a route of its own.
        if !known.contains(&prefix) {
            plan.map.push(route(prefix, None, RouteMode::Native));
            known.push(prefix);
        }
    }
    plan
}

impl RoutePlan {
    /// Adds the routes to a node's range; false when it has no address to lead to.
    fn add(&mut self, range: Prefix, node: &[IpAddr], settings: &RouteSettings) -> bool {
        match settings.routing {
            Routing::Vxlan => {
                let vni = settings.vni;
                let Some(address) = tunnel_address(node) else {
                    return false;
                };
                self.map.push(route(range, Some(address), RouteMode::Vxlan { vni }));
            }
            Routing::Native => {
                let Some(&gateway) = node.iter().find(|address| address.is_ipv4() == range.is_ipv4()) else {
                    return false;
                };
                self.map.push(route(range, Some(gateway), RouteMode::Native));
                self.direct
                    .extend(settings.own.of_family(gateway).map(|own| DirectRoute {
                        range,
                        gateway,
                        source: own.router(),
                    }));
            }
        }
        true
    }
}

fn route(prefix: Prefix, node: Option<IpAddr>, mode: RouteMode) -> DesiredRoute {
    let unspecified = if prefix.is_ipv4() {
        IpAddr::from([0; 4])
    } else {
        IpAddr::from([0; 16])
    };
    DesiredRoute {
        address: prefix.network(),
        prefix_len: prefix.length(),
        node: node.unwrap_or(unspecified),
        mode,
    }
}

/// What of the direct routes is not as one might expect, in words.
pub fn direct_problems(report: &DirectReport, uplink: &str) -> BTreeSet<String> {
    let far = report.not_on_link.iter().map(|route| {
        format!(
            "node {} is not directly behind {uplink}: packets for its pods ({}) are left to the network's routers, which have to \
             know them",
            route.gateway, route.range
        )
    });
    let others = report.others.iter().map(|route| {
        format!(
            "somebody else has made a route for {}, the pods of node {}: it is left as it is",
            route.range, route.gateway
        )
    });
    far.chain(others).collect()
}

/// The node's pod ranges, once the control plane has given it some, in the order of the cluster's preference.
pub fn pod_ranges(node: &Node) -> Option<Ranges> {
    let spec = node.spec.as_ref()?;
    let texts = spec
        .pod_cidrs
        .iter()
        .chain([&spec.pod_cidr])
        .filter(|text| !text.is_empty());
    let mut ranges: Vec<Prefix> = Vec::new();
    for text in texts {
        match text.parse::<Prefix>() {
            Ok(range) if ranges.iter().all(|other| other.is_ipv4() != range.is_ipv4()) => ranges.push(range),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "pod range not understood"),
        }
    }
    Ranges::new(&ranges)
}

/// Where a node's tunnel ends: over IPv4 if both can, whose headers are smaller.
pub fn tunnel_address(addresses: &[IpAddr]) -> Option<IpAddr> {
    let ipv4 = addresses.iter().find(|address| address.is_ipv4());
    ipv4.or(addresses.first()).copied()
}

fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| &status.addresses);
    let internal = addresses.filter(|address| address.r#type == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
