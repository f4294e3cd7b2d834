//! What load balancers ask a node: has this service a ready backend here? (`healthCheckNodePort`) Pure.

use std::{collections::BTreeMap, net::IpAddr};

use causeway_proto::v1::{EndpointAddress, Endpoints, Service};

use super::{service_frontends::port_number, services::key};
use crate::bpf::Readiness;

/// What a health-check port answers for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// Namespace of the service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its backends on this node, as the API server knows them.
    pub pods: BTreeMap<IpAddr, Readiness>,
    /// Probes do not count.
    pub ready_always: bool,
}

impl HealthCheck {
    /// Backends that take new connections; `known` says what this node itself knows of a pod.
    pub fn ready(&self, known: impl Fn(IpAddr, Readiness) -> Readiness) -> usize {
        let takes_new = |(address, listed): (&IpAddr, &Readiness)| {
            let state = if self.ready_always {
                *listed
            } else {
                known(*address, *listed)
            };
            state.ready && !state.terminating
        };
        self.pods.iter().filter(|pod| takes_new(*pod)).count()
    }
}

/// The health-check port of a service, if it has one, for the node called `node`.
pub fn health_check(service: &Service, endpoints: Option<&Endpoints>, node: &str) -> Option<(u16, HealthCheck)> {
    let spec = service.spec.as_ref()?;
    let port = port_number(spec.health_check_node_port)?;
    if spec.r#type != "LoadBalancer" || spec.external_traffic_policy != "Local" {
        return None;
    }
    let (namespace, name) = key(service.metadata.as_ref());
    let check = HealthCheck {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        pods: endpoints.map_or_else(BTreeMap::new, |endpoints| local_pods(endpoints, node)),
        ready_always: spec.publish_not_ready_addresses,
    };
    Some((port, check))
}

fn local_pods(endpoints: &Endpoints, node: &str) -> BTreeMap<IpAddr, Readiness> {
    let mut pods = BTreeMap::new();
    for subset in &endpoints.subsets {
        let mut add = |addresses: &[EndpointAddress], listed: Readiness| {
            for address in addresses.iter().filter(|address| address.node_name == node) {
                let Ok(ip) = address.ip.parse() else { continue };
                let known = pods.entry(ip).or_insert(listed);
                known.ready |= listed.ready;
                known.terminating |= listed.terminating;
            }
        };
        let state = |ready, terminating| Readiness { ready, terminating };
        add(&subset.addresses, state(true, false));
        add(&subset.not_ready_addresses, state(false, false));
        add(&subset.terminating_addresses, state(true, true));
    }
    pods
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{EndpointSubset, ObjectMeta, ServiceSpec};

    use super::*;

    fn meta() -> ObjectMeta {
        ObjectMeta {
            namespace: "default".into(),
            name: "web".into(),
            ..ObjectMeta::default()
        }
    }

    fn service(policy: &str) -> Service {
        let spec = ServiceSpec {
            r#type: "LoadBalancer".into(),
            external_traffic_policy: policy.into(),
            health_check_node_port: 30_100,
            ..ServiceSpec::default()
        };
        Service {
            metadata: Some(meta()),
            spec: Some(spec),
            status: None,
        }
    }

    fn address(ip: &str, node: &str) -> EndpointAddress {
        EndpointAddress {
            ip: ip.into(),
            node_name: node.into(),
            ..EndpointAddress::default()
        }
    }

    #[test]
    fn ready_pods_of_this_node_are_counted() {
        let subset = EndpointSubset {
            addresses: vec![
                address("10.0.0.1", "a"),
                address("10.0.0.2", "a"),
                address("10.0.1.1", "b"),
            ],
            not_ready_addresses: vec![address("10.0.0.3", "a")],
            terminating_addresses: vec![address("10.0.0.4", "a")],
            ..EndpointSubset::default()
        };
        let endpoints = Endpoints {
            metadata: Some(meta()),
            subsets: vec![subset],
        };
        let (port, check) = health_check(&service("Local"), Some(&endpoints), "a").unwrap();
        assert_eq!(port, 30_100);
        assert_eq!(check.pods.len(), 4);
        assert_eq!(check.ready(|_, listed| listed), 2);
        // What the node itself knows is newer.
        let first_down = |address: IpAddr, listed: Readiness| Readiness {
            ready: listed.ready && address.to_string() != "10.0.0.1",
            ..listed
        };
        assert_eq!(check.ready(first_down), 1);
        let (_, elsewhere) = health_check(&service("Local"), Some(&endpoints), "b").unwrap();
        assert_eq!(elsewhere.pods.len(), 1);
    }

    #[test]
    fn a_service_without_endpoints_has_none_ready() {
        let (_, check) = health_check(&service("Local"), None, "a").unwrap();
        assert_eq!(check.ready(|_, listed| listed), 0);
        assert_eq!(health_check(&service("Cluster"), None, "a"), None);
    }
}
