//! What one service has and no other: addresses and node ports. Pure.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use causeway_proto::{
    Resource,
    v1::{Object, Service},
};

use crate::admission::service::{has_node_ports, needs_health_check};

/// Protocol of a node port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The protocol of Kubernetes' name; empty means TCP.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// One of the things that are claimed in the store: by the transaction that writes them into a service, until the one that takes
/// them out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Allocation {
    /// One of `clusterIPs`.
    Vip(IpAddr),
    /// A port of all nodes.
    NodePort(Protocol, u16),
    /// One of `status.loadBalancer.ingress`.
    LoadBalancer(IpAddr),
}

/// Prefix of the keys of all allocations; each holds "uid namespace/name" of its service.
pub const PREFIX: &str = "allocations/";
const VIP: &str = "vip";
const NODE_PORT: &str = "node-port";
const LOAD_BALANCER: &str = "load-balancer";

impl Allocation {
    /// The key that claims it.
    pub fn key(&self) -> String {
        match self {
            Self::Vip(address) => format!("{PREFIX}{VIP}/{address}"),
            Self::NodePort(protocol, port) => format!("{PREFIX}{NODE_PORT}/{}/{port}", protocol.name()),
            Self::LoadBalancer(address) => format!("{PREFIX}{LOAD_BALANCER}/{address}"),
        }
    }

    /// What a key claims.
    pub fn from_key(key: &str) -> Option<Self> {
        let (kind, rest) = key.strip_prefix(PREFIX)?.split_once('/')?;
        match kind {
            VIP => rest.parse().ok().map(Self::Vip),
            LOAD_BALANCER => rest.parse().ok().map(Self::LoadBalancer),
            NODE_PORT => {
                let (protocol, port) = rest.split_once('/')?;
                Some(Self::NodePort(Protocol::from_name(protocol)?, port.parse().ok()?))
            }
            _ => None,
        }
    }

    /// All that a service has, each with the field it is in.
    pub fn fields(service: &Service) -> Vec<(Self, String)> {
        let mut found = Vec::new();
        if let Some(spec) = &service.spec {
            for (at, text) in spec.cluster_ips.iter().enumerate() {
                let address = text.parse().map(Self::Vip);
                found.extend(address.into_iter().map(|vip| (vip, format!("spec.clusterIPs[{at}]"))));
            }
            if let (true, Ok(address)) = (spec.cluster_ips.is_empty(), spec.cluster_ip.parse()) {
                found.push((Self::Vip(address), "spec.clusterIP".to_owned()));
            }
            if has_node_ports(spec) {
                for (at, port) in spec.ports.iter().enumerate() {
                    let claim = node_port(&port.protocol, port.node_port);
                    found.extend(claim.map(|claim| (claim, format!("spec.ports[{at}].nodePort"))));
                }
            }
            if needs_health_check(spec) {
                let claim = node_port("TCP", spec.health_check_node_port);
                found.extend(claim.map(|claim| (claim, "spec.healthCheckNodePort".to_owned())));
            }
        }
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        for (at, ingress) in balancer.iter().flat_map(|balancer| &balancer.ingress).enumerate() {
            let address = ingress.ip.parse().map(Self::LoadBalancer);
            let field = format!("status.loadBalancer.ingress[{at}].ip");
            found.extend(address.into_iter().map(|address| (address, field.clone())));
        }
        found
    }

    /// All that a service has.
    pub fn of(service: &Service) -> BTreeSet<Self> {
        Self::fields(service).into_iter().map(|(claim, _)| claim).collect()
    }

    /// All that an object has; nothing if it is no service.
    pub fn of_object(object: &Object) -> BTreeSet<Self> {
        Service::from_object_ref(object).map(Self::of).unwrap_or_default()
    }

    /// Why a service cannot have it, in the words of Kubernetes.
    pub fn taken(&self, owner: &str) -> String {
        match self {
            Self::Vip(ip) => {
                format!("failed to allocate IP {ip}: the provided IP is already allocated to service {owner}")
            }
            Self::NodePort(..) => format!("provided port is already allocated to service {owner}"),
            Self::LoadBalancer(_) => format!("the address already belongs to service {owner}"),
        }
    }
}

fn node_port(protocol: &str, port: i32) -> Option<Allocation> {
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    Some(Allocation::NodePort(Protocol::from_name(protocol)?, port))
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vip(address) => write!(f, "VIP {address}"),
            Self::NodePort(protocol, port) => write!(f, "node port {port}/{}", protocol.name()),
            Self::LoadBalancer(address) => write!(f, "load-balancer address {address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{LoadBalancerIngress, LoadBalancerStatus, ServicePort, ServiceSpec, ServiceStatus};

    use super::*;

    #[test]
    fn keys_are_read_back() {
        for claim in [
            Allocation::Vip("10.96.0.1".parse().unwrap()),
            Allocation::Vip("fd00:96::1".parse().unwrap()),
            Allocation::NodePort(Protocol::Udp, 30_053),
            Allocation::LoadBalancer("192.0.2.1".parse().unwrap()),
        ] {
            assert_eq!(Allocation::from_key(&claim.key()), Some(claim));
        }
        assert_eq!(
            Allocation::Vip("10.96.0.1".parse().unwrap()).key(),
            "allocations/vip/10.96.0.1"
        );
        for key in [
            "services/default/web",
            "allocations/vip/web",
            "allocations/node-port/SCTP/1",
        ] {
            assert_eq!(Allocation::from_key(key), None, "{key}");
        }
    }

    #[test]
    fn a_service_has_what_its_type_gives_it() {
        let port = ServicePort {
            port: 80,
            node_port: 30_080,
            ..ServicePort::default()
        };
        let ingress = vec![LoadBalancerIngress { ip: "192.0.2.1".into() }];
        let mut service = Service {
            spec: Some(ServiceSpec {
                r#type: "LoadBalancer".into(),
                cluster_ip: "10.96.0.1".into(),
                cluster_ips: vec!["10.96.0.1".into(), "fd00::1".into()],
                external_traffic_policy: "Local".into(),
                health_check_node_port: 30_999,
                ports: vec![port],
                ..ServiceSpec::default()
            }),
            status: Some(ServiceStatus {
                load_balancer: Some(LoadBalancerStatus { ingress }),
                ..ServiceStatus::default()
            }),
            ..Service::default()
        };
        let shown = |service: &Service| {
            Allocation::of(service)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(&service),
            [
                "VIP 10.96.0.1",
                "VIP fd00::1",
                "node port 30080/TCP",
                "node port 30999/TCP",
                "load-balancer address 192.0.2.1"
            ]
        );
        service.spec.as_mut().unwrap().r#type = "ClusterIP".into();
        service.status = None;
        assert_eq!(shown(&service), ["VIP 10.96.0.1", "VIP fd00::1"]);
    }
}
