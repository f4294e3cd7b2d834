//! How services are reached from outside: node ports, load balancers, traffic policies.

use std::collections::BTreeSet;

use causeway_proto::v1::{ServicePort, ServiceSpec};

use super::field::{Path, Violations};
use crate::{cidr::Cidr, port_range::PortRange};

const POLICIES: &[&str] = &["Cluster", "Local"];

/// True for types with a port on every node.
pub fn has_node_ports(spec: &ServiceSpec) -> bool {
    matches!(spec.r#type.as_str(), "NodePort" | "LoadBalancer")
}

/// True when every port is to get a node port, asked for or not.
pub fn wants_node_ports(spec: &ServiceSpec) -> bool {
    has_node_ports(spec) && !(is_balanced(spec) && spec.allocate_load_balancer_node_ports == Some(false))
}

/// True when load balancers have to know which nodes have backends.
pub fn needs_health_check(spec: &ServiceSpec) -> bool {
    is_balanced(spec) && spec.external_traffic_policy == "Local"
}

fn is_balanced(spec: &ServiceSpec) -> bool {
    spec.r#type == "LoadBalancer"
}

/// True when there is an address or port at which the outside reaches it.
fn is_external(spec: &ServiceSpec) -> bool {
    has_node_ports(spec) || !spec.external_ips.is_empty()
}

/// Fills in what Kubernetes fills in.
pub(super) fn default(spec: &mut ServiceSpec) {
    if spec.internal_traffic_policy.is_empty() {
        spec.internal_traffic_policy = "Cluster".into();
    }
    if spec.external_traffic_policy.is_empty() && is_external(spec) {
        spec.external_traffic_policy = "Cluster".into();
    }
    if is_balanced(spec) {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
}

/// A change that does not name what was allocated keeps it; one that changes the type drops what the new type has no use for.
pub(super) fn carry_over(new: &mut ServiceSpec, old: &ServiceSpec) {
    if has_node_ports(new) && has_node_ports(old) {
        keep_node_ports(new, old);
    } else if !has_node_ports(new) {
        let before: BTreeSet<i32> = old.ports.iter().map(|port| port.node_port).collect();
        for port in new.ports.iter_mut().filter(|port| before.contains(&port.node_port)) {
            port.node_port = 0;
        }
    }
    if needs_health_check(new) {
        if new.health_check_node_port == 0 {
            new.health_check_node_port = old.health_check_node_port;
        }
    } else if new.health_check_node_port == old.health_check_node_port {
        new.health_check_node_port = 0;
    }
    if !is_external(new) && new.external_traffic_policy == old.external_traffic_policy {
        new.external_traffic_policy.clear();
    }
    if !is_balanced(new) {
        if new.load_balancer_source_ranges == old.load_balancer_source_ranges {
            new.load_balancer_source_ranges.clear();
        }
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
    }
}

/// Ports are the same ports when they have a name in common, or else number and protocol.
fn keep_node_ports(new: &mut ServiceSpec, old: &ServiceSpec) {
    let mut used: BTreeSet<i32> = new.ports.iter().map(|port| port.node_port).collect();
    let protocol = |port: &ServicePort| {
        if port.protocol.is_empty() {
            "TCP".to_owned()
        } else {
            port.protocol.clone()
        }
    };
    let same_name = |a: &ServicePort, b: &ServicePort| !a.name.is_empty() && a.name == b.name;
    let same_number = |a: &ServicePort, b: &ServicePort| a.port == b.port;
    for same in [&same_name as &dyn Fn(&ServicePort, &ServicePort) -> bool, &same_number] {
        for port in new.ports.iter_mut().filter(|port| port.node_port == 0) {
            let was = |before: &&ServicePort| {
                same(before, port) && protocol(before) == protocol(port) && !used.contains(&before.node_port)
            };
            if let Some(before) = old.ports.iter().find(was) {
                port.node_port = before.node_port;
                used.insert(before.node_port);
            }
        }
    }
}

/// Checks what can be checked without knowing the cluster.
pub(super) fn validate(spec: &ServiceSpec, path: &Path, v: &mut Violations) {
    let mut seen = BTreeSet::new();
    for (at, port) in spec.ports.iter().enumerate().filter(|(_, port)| port.node_port != 0) {
        let path = path.child("ports").index(at).child("nodePort");
        if spec.r#type == "ClusterIP" {
            v.forbidden(&path, "may not be used when `type` is 'ClusterIP'");
        } else if !seen.insert((port.node_port, port.protocol.as_str())) {
            v.duplicate(&path, port.node_port);
        }
    }
    source_ranges(spec, &path.child("loadBalancerSourceRanges"), v);
    policies(spec, path, v);
    if spec.health_check_node_port != 0 {
        let path = path.child("healthCheckNodePort");
        if !needs_health_check(spec) {
            let rule = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            v.invalid(&path, spec.health_check_node_port, rule);
        } else if seen.contains(&(spec.health_check_node_port, "TCP")) {
            v.duplicate(&path, spec.health_check_node_port);
        }
    }
    if spec.allocate_load_balancer_node_ports.is_some() && !is_balanced(spec) {
        let path = path.child("allocateLoadBalancerNodePorts");
        v.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
}

fn source_ranges(spec: &ServiceSpec, path: &Path, v: &mut Violations) {
    if !spec.load_balancer_source_ranges.is_empty() && !is_balanced(spec) {
        return v.forbidden(path, "may only be used when `type` is 'LoadBalancer'");
    }
    for (at, text) in spec.load_balancer_source_ranges.iter().enumerate() {
        if Cidr::parse_loose(text).is_err() {
            let rule = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            v.invalid(&path.index(at), text, rule);
        }
    }
}

fn policies(spec: &ServiceSpec, path: &Path, v: &mut Violations) {
    let internal = spec.internal_traffic_policy.as_str();
    if !POLICIES.contains(&internal) {
        v.not_supported(&path.child("internalTrafficPolicy"), internal, POLICIES);
    }
    let (external, path) = (
        spec.external_traffic_policy.as_str(),
        path.child("externalTrafficPolicy"),
    );
    if !is_external(spec) {
        if !external.is_empty() {
            v.invalid(&path, external, "may only be set for externally-accessible services");
        }
    } else if !POLICIES.contains(&external) {
        v.not_supported(&path, external, POLICIES);
    }
}

/// Checks that what load balancers were told stayed.
pub(super) fn validate_update(new: &ServiceSpec, old: &ServiceSpec, path: &Path, v: &mut Violations) {
    let both = needs_health_check(new) && needs_health_check(old) && old.health_check_node_port != 0;
    if both && new.health_check_node_port != old.health_check_node_port {
        let path = path.child("healthCheckNodePort");
        v.invalid(&path, new.health_check_node_port, "field is immutable");
    }
}

/// Checks that ports that were asked for are of the cluster's range. Those from before it was changed stay.
pub(super) fn check_range(spec: &ServiceSpec, old: Option<&ServiceSpec>, range: PortRange, v: &mut Violations) {
    let had: BTreeSet<i32> = old
        .into_iter()
        .flat_map(|old| {
            old.ports
                .iter()
                .map(|port| port.node_port)
                .chain([old.health_check_node_port])
        })
        .chain([0])
        .collect();
    let mut check = |port: i32, path: &Path| {
        let inside = u16::try_from(port).ok().and_then(|port| range.offset(port)).is_some();
        if !inside && !had.contains(&port) {
            let rule = format!("provided port is not in the valid range. The range of valid ports is {range}");
            v.invalid(path, port, &rule);
        }
    };
    let path = Path::new("spec");
    if has_node_ports(spec) {
        for (at, port) in spec.ports.iter().enumerate() {
            check(port.node_port, &path.child("ports").index(at).child("nodePort"));
        }
    }
    if needs_health_check(spec) {
        check(spec.health_check_node_port, &path.child("healthCheckNodePort"));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::field::texts, *};

    fn check(alter: impl FnOnce(&mut ServiceSpec)) -> Vec<String> {
        let mut spec = ServiceSpec {
            r#type: "ClusterIP".into(),
            ports: vec![ServicePort {
                port: 80,
                protocol: "TCP".into(),
                ..ServicePort::default()
            }],
            ..ServiceSpec::default()
        };
        alter(&mut spec);
        default(&mut spec);
        let mut v = Violations::default();
        validate(&spec, &Path::new("spec"), &mut v);
        check_range(&spec, None, PortRange::NODE_PORTS, &mut v);
        texts(v)
    }

    #[test]
    fn a_node_port_is_one_for_each_protocol() {
        let with_two = |protocol: &'static str| {
            move |spec: &mut ServiceSpec| {
                spec.r#type = "NodePort".into();
                spec.ports[0].node_port = 30_053;
                let mut second = spec.ports[0].clone();
                second.protocol = protocol.into();
                spec.ports.push(second);
            }
        };
        assert_eq!(check(with_two("UDP")), [""; 0]);
        assert_eq!(
            check(with_two("TCP")),
            ["spec.ports[1].nodePort: Duplicate value: 30053"]
        );
    }

    #[test]
    fn policies_are_for_those_who_are_reached_from_outside() {
        let local = |kind: &'static str| {
            move |spec: &mut ServiceSpec| {
                spec.r#type = kind.into();
                spec.external_traffic_policy = "Local".into();
            }
        };
        assert_eq!(check(local("NodePort")), [""; 0]);
        assert_eq!(
            check(local("ClusterIP")),
            [
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services"
            ]
        );
        let with_address = |spec: &mut ServiceSpec| {
            spec.external_traffic_policy = "Local".into();
            spec.external_ips = vec!["192.0.2.1".into()];
        };
        assert_eq!(check(with_address), [""; 0]);
    }

    #[test]
    fn load_balancers_have_what_others_may_not() {
        let alter = |kind: &'static str| {
            move |spec: &mut ServiceSpec| {
                spec.r#type = kind.into();
                spec.load_balancer_source_ranges =
                    vec!["10.9.8.7/24".into(), "2001:db8::/64".into(), "10.0.0.0".into()];
                spec.external_traffic_policy = "Local".into();
                spec.health_check_node_port = 30_100;
                spec.allocate_load_balancer_node_ports = Some(false);
            }
        };
        let found = check(alter("LoadBalancer"));
        assert!(
            found.len() == 1 && found[0].starts_with("spec.loadBalancerSourceRanges[2]: Invalid value: \"10.0.0.0\""),
            "{found:?}"
        );
        let found = check(alter("NodePort"));
        let starts = [
            "spec.loadBalancerSourceRanges: Forbidden",
            "spec.healthCheckNodePort: Invalid value: 30100",
            "spec.allocateLoadBalancerNodePorts: Forbidden",
        ];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        assert!(
            found.iter().zip(starts).all(|(text, start)| text.starts_with(start)),
            "{found:?}"
        );
    }
}
