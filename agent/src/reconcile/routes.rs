//! Where the pods of other nodes live: from the cluster's nodes to `ROUTES`. Pure.

use std::net::IpAddr;

use causeway_proto::v1::Node;

use super::pods::address::Prefix;
use crate::bpf::DesiredRoute;

/// Routes to the pod ranges of all nodes but `own`, in tunnels of network `vni`. A node without range or address has none
/// yet; a range that overlaps one of a node before it (by name) is left out, as is one that is not in `cluster`.
pub fn desired_routes<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    own: &str,
    cluster: Prefix,
    vni: u32,
) -> Vec<DesiredRoute> {
    let mut routes: Vec<(Prefix, DesiredRoute)> = Vec::new();
    for node in nodes {
        let name = node.metadata.as_ref().map_or("", |meta| &meta.name);
        let (Some(range), Some(address)) = (pod_range(node), internal_address(node)) else {
            continue;
        };
        if name == own {
            continue;
        }
        if !cluster.contains(range.network()) || range.length() < cluster.length() {
            tracing::warn!(node = name, %range, %cluster, "pod range is outside the cluster's; no route");
            continue;
        }
        if routes
            .iter()
            .any(|(other, _)| other.contains(range.network()) || range.contains(other.network()))
        {
            tracing::warn!(node = name, %range, "pod range overlaps another node's; no route");
            continue;
        }
        let address_of_range = IpAddr::V4(range.network());
        let route = DesiredRoute {
            address: address_of_range,
            prefix_len: range.length(),
            node: address,
            vni,
        };
        routes.push((range, route));
    }
    routes.into_iter().map(|(_, route)| route).collect()
}

/// The node's pod range, once the control plane has given it one: the first IPv4 one, whichever family the cluster prefers.
pub fn pod_range(node: &Node) -> Option<Prefix> {
    let spec = node.spec.as_ref()?;
    let texts = spec
        .pod_cidrs
        .iter()
        .chain([&spec.pod_cidr])
        .filter(|text| !text.is_empty());
    let mut not_understood = None;
    for text in texts {
        match text.parse() {
            Ok(range) => return Some(range),
            Err(error) => not_understood = Some(error),
        }
    }
    if let Some(error) = not_understood {
        tracing::warn!(%error, "pod range not understood");
    }
    None
}

fn internal_address(node: &Node) -> Option<IpAddr> {
    let addresses = &node.status.as_ref()?.addresses;
    addresses
        .iter()
        .find(|address| address.r#type == "InternalIP")?
        .address
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{NodeAddress, NodeSpec, NodeStatus, ObjectMeta};

    use super::*;

    fn node(name: &str, range: &str, address: &str) -> Node {
        Node {
            metadata: Some(ObjectMeta {
                name: name.into(),
                ..ObjectMeta::default()
            }),
            spec: Some(NodeSpec {
                pod_cidr: range.into(),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                addresses: vec![
                    NodeAddress {
                        r#type: "Hostname".into(),
                        address: name.into(),
                    },
                    NodeAddress {
                        r#type: "InternalIP".into(),
                        address: address.into(),
                    },
                ],
                ..NodeStatus::default()
            }),
        }
    }

    fn routes(nodes: &[Node]) -> Vec<String> {
        let cluster = "10.244.0.0/16".parse().unwrap();
        let routes = desired_routes(nodes, "n1", cluster, 7);
        routes
            .iter()
            .map(|r| format!("{}/{} {} {}", r.address, r.prefix_len, r.node, r.vni))
            .collect()
    }

    #[test]
    fn other_nodes_ranges_lead_to_their_addresses() {
        let nodes = [
            node("n1", "10.244.1.0/24", "172.30.0.1"),
            node("n2", "10.244.2.0/24", "172.30.0.2"),
        ];
        assert_eq!(routes(&nodes), ["10.244.2.0/24 172.30.0.2 7"]);
    }

    #[test]
    fn unfinished_and_impossible_nodes_have_no_route() {
        let nodes = [
            node("n2", "", "172.30.0.2"),
            node("n3", "10.244.3.0/24", "elsewhere"),
            node("n4", "10.250.0.0/24", "172.30.0.4"),
            node("n5", "10.0.0.0/8", "172.30.0.5"),
            node("n6", "10.244.6.0/24", "172.30.0.6"),
            node("n7", "10.244.6.128/25", "172.30.0.7"),
            node("n8", "fd00::/64", "172.30.0.8"),
        ];
        assert_eq!(routes(&nodes), ["10.244.6.0/24 172.30.0.6 7"]);
    }

    #[test]
    fn of_two_families_the_ipv4_range_is_taken_wherever_it_stands() {
        let mut dual = node("a", "fd00:244::/64", "172.30.0.11");
        assert_eq!(pod_range(&dual), None);
        dual.spec.as_mut().unwrap().pod_cidrs = vec!["fd00:244::/64".into(), "10.244.1.0/24".into()];
        assert_eq!(
            pod_range(&dual).map(|range| range.to_string()),
            Some("10.244.1.0/24".into())
        );
    }
}
