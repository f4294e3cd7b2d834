//! Which backends are near enough: `trafficDistribution`. Pure.

use std::{collections::HashMap, net::Ipv4Addr};

use causeway_proto::v1::Node;

use crate::bpf::DesiredBackend;

/// The zone of a node.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What a service asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Distribution {
    /// Any backend.
    Anywhere,
    /// Backends in this node's zone while one of them is ready.
    SameZone,
    /// Backends on this node while one of them is ready, else as [`Self::SameZone`].
    SameNode,
}

impl Distribution {
    /// What a service's `trafficDistribution` says; anything unknown is no preference.
    pub fn from_name(name: &str) -> Self {
        match name {
            "PreferClose" | "PreferSameZone" => Self::SameZone,
            "PreferSameNode" => Self::SameNode,
            _ => Self::Anywhere,
        }
    }
}

/// How far a backend is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Distance {
    /// On this node.
    Node,
    /// In its zone.
    Zone,
    /// Elsewhere, or nobody knows where.
    Elsewhere,
}

/// Which node is in which zone, as one of them sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Topology {
    node: String,
    zone: Option<String>,
    /// Zones by node; nodes without zone are not in it.
    zones: HashMap<String, String>,
    /// Underlay addresses of the other nodes that have one.
    addresses: HashMap<String, Ipv4Addr>,
}

impl Topology {
    /// As the node called `own` sees it.
    pub fn new<'a>(own: &str, nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let zone_of = |node: &Node| {
            let meta = node.metadata.as_ref()?;
            let zone = meta.labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty())?;
            Some((meta.name.clone(), zone.clone()))
        };
        let address_of = |node: &Node| {
            let name = &node.metadata.as_ref()?.name;
            Some((name.clone(), internal_ipv4(node)?)).filter(|_| name != own)
        };
        let (mut zones, mut addresses) = (HashMap::new(), HashMap::new());
        for node in nodes {
            zones.extend(zone_of(node));
            addresses.extend(address_of(node));
        }
        Self {
            node: own.to_owned(),
            zone: zones.get(own).cloned(),
            zones,
            addresses,
        }
    }

    /// This node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The underlay address of another node; `None` for this one, and for those that are unknown or have none yet.
    pub fn underlay_address(&self, name: &str) -> Option<Ipv4Addr> {
        self.addresses.get(name).copied()
    }

    /// How far the node called `name` is; the empty name is nobody's.
    pub fn distance(&self, name: &str) -> Distance {
        if name.is_empty() {
            Distance::Elsewhere
        } else if name == self.node {
            Distance::Node
        } else if self.zone.is_some() && self.zones.get(name) == self.zone.as_ref() {
            Distance::Zone
        } else {
            Distance::Elsewhere
        }
    }
}

/// The address at which other nodes reach a node.
fn internal_ipv4(node: &Node) -> Option<Ipv4Addr> {
    let addresses = &node.status.as_ref()?.addresses;
    let mut internal = addresses.iter().filter(|address| address.r#type == "InternalIP");
    internal.find_map(|address| address.address.parse().ok())
}

/// Marks the backends that take new connections: the nearest for which the service asks and of which one takes new connections, or
/// all. A backend that is ready but ending counts as ready to go, not as a reason to stay near.
pub fn prefer(backends: &mut [(DesiredBackend, Distance)], distribution: Distribution) {
    let tiers: &[Distance] = match distribution {
        Distribution::Anywhere => &[],
        Distribution::SameZone => &[Distance::Zone],
        Distribution::SameNode => &[Distance::Node, Distance::Zone],
    };
    let takes_new = |backend: &DesiredBackend| (backend.ready || backend.id.ready_always) && !backend.terminating;
    let within = tiers
        .iter()
        .copied()
        .find(|tier| {
            backends
                .iter()
                .any(|(backend, distance)| distance <= tier && takes_new(backend))
        })
        .unwrap_or(Distance::Elsewhere);
    for (backend, distance) in backends {
        backend.preferred = *distance <= within;
    }
}

#[cfg(test)]
mod tests {
    use causeway_maps::Protocol;
    use causeway_proto::v1::{NodeAddress, NodeStatus, ObjectMeta};

    use super::*;
    use crate::bpf::BackendId;

    fn node(name: &str, zone: &str) -> Node {
        let mut meta = ObjectMeta {
            name: name.into(),
            ..ObjectMeta::default()
        };
        if !zone.is_empty() {
            meta.labels.insert(ZONE_LABEL.into(), zone.into());
        }
        Node {
            metadata: Some(meta),
            ..Node::default()
        }
    }

    fn backend(ready: bool, distance: Distance) -> (DesiredBackend, Distance) {
        let backend = DesiredBackend {
            ready,
            local: distance == Distance::Node,
            ..DesiredBackend::ready(BackendId::new("10.244.1.2".parse().unwrap(), 80, Protocol::TCP))
        };
        (backend, distance)
    }

    fn preferred(backends: &[(bool, Distance)], distribution: Distribution) -> Vec<bool> {
        let mut backends: Vec<_> = backends
            .iter()
            .map(|(ready, distance)| backend(*ready, *distance))
            .collect();
        prefer(&mut backends, distribution);
        backends.iter().map(|(backend, _)| backend.preferred).collect()
    }

    #[test]
    fn a_zone_is_shared_by_those_who_have_its_label() {
        let nodes = [node("a", "east"), node("b", "east"), node("c", "west"), node("d", "")];
        let topology = Topology::new("a", &nodes);
        let distances = ["a", "b", "c", "d", "gone", ""].map(|name| topology.distance(name));
        let (near, far) = (Distance::Zone, Distance::Elsewhere);
        assert_eq!(distances, [Distance::Node, near, far, far, far, far]);
        let zoneless = Topology::new("d", &nodes);
        assert_eq!(
            zoneless.distance("a"),
            Distance::Elsewhere,
            "two nodes without zone share none"
        );
    }

    #[test]
    fn other_nodes_have_underlay_addresses() {
        let at = |name: &str, addresses: &[(&str, &str)]| {
            let address = |(kind, address): &(&str, &str)| NodeAddress {
                r#type: (*kind).into(),
                address: (*address).into(),
            };
            Node {
                status: Some(NodeStatus {
                    addresses: addresses.iter().map(address).collect(),
                    ..NodeStatus::default()
                }),
                ..node(name, "")
            }
        };
        let nodes = [
            at("own", &[("InternalIP", "172.30.0.1")]),
            at(
                "dual",
                &[
                    ("Hostname", "dual"),
                    ("InternalIP", "fd00::2"),
                    ("InternalIP", "172.30.0.2"),
                ],
            ),
            at("young", &[]),
        ];
        let topology = Topology::new("own", &nodes);
        let addresses = ["own", "dual", "young", ""].map(|name| topology.underlay_address(name));
        assert_eq!(addresses, [None, Some(Ipv4Addr::new(172, 30, 0, 2)), None, None]);
    }

    #[test]
    fn the_nearest_ready_ones_are_preferred() {
        use Distance::{Elsewhere, Node, Zone};
        let all = [(true, Node), (true, Zone), (true, Elsewhere)];
        assert_eq!(preferred(&all, Distribution::Anywhere), [true, true, true]);
        assert_eq!(preferred(&all, Distribution::SameZone), [true, true, false]);
        assert_eq!(preferred(&all, Distribution::SameNode), [true, false, false]);
    }

    #[test]
    fn without_a_ready_one_the_next_tier_serves() {
        use Distance::{Elsewhere, Node, Zone};
        let node_down = [(false, Node), (true, Zone), (true, Elsewhere)];
        assert_eq!(preferred(&node_down, Distribution::SameNode), [true, true, false]);
        let zone_down = [(false, Node), (false, Zone), (true, Elsewhere)];
        assert_eq!(preferred(&zone_down, Distribution::SameNode), [true, true, true]);
        assert_eq!(preferred(&zone_down, Distribution::SameZone), [true, true, true]);
        let none = [(false, Zone), (false, Elsewhere)];
        assert_eq!(
            preferred(&none, Distribution::SameZone),
            [true, true],
            "who becomes ready first is in the table"
        );
    }

    #[test]
    fn one_that_is_ending_keeps_nobody_near() {
        let (mut ending, distance) = backend(true, Distance::Zone);
        ending.terminating = true;
        let mut backends = [(ending, distance), backend(true, Distance::Elsewhere)];
        prefer(&mut backends, Distribution::SameZone);
        assert!(backends[1].0.preferred);
    }
}
