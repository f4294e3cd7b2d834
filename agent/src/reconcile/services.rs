//! From the cluster's services and endpoints to what the data path should hold. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use causeway_maps::Protocol;
use causeway_proto::v1::{EndpointAddress, EndpointSubset, Endpoints, ObjectMeta, Service, ServicePort, ServiceSpec};

use super::{
    service_frontends::{Class, cluster_ips, frontends, port_number},
    topology::{Distance, Distribution, Topology, prefer},
};
use crate::bpf::{BackendId, DesiredBackend, DesiredService, DesiredServices, Frontend, Readiness};

/// Session affinity without a time-out of its own lasts three hours, as in Kubernetes.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// The node for which the data path is to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeView {
    /// Its place among the others.
    pub topology: Topology,
    /// Addresses at which node ports are served.
    pub addresses: Vec<IpAddr>,
}

/// Every port of every service in every address family, with its frontends and its backends, ready or not.
///
/// Endpoints belong to the service of their name. A port's backends are those ports of the subsets that have its name and
/// protocol, of the frontends' family. Headless services have no VIP, so they are not here; neither are services whose VIP is not
/// allocated yet. `known` says what this node itself knows of one of its pods, which is newer than the list.
pub fn desired_services(
    services: &[Arc<Service>],
    endpoints: &[Arc<Endpoints>],
    node: &NodeView,
    known: impl Fn(IpAddr, Readiness) -> Readiness,
) -> DesiredServices {
    let endpoints = by_service(endpoints);
    let mut services: Vec<_> = services
        .iter()
        .map(|service| (key(service.metadata.as_ref()), service))
        .collect();
    services.sort_by_key(|(key, _)| *key);
    let mut candidates = Vec::new();
    for (key, service) in services {
        let Some(spec) = &service.spec else { continue };
        let subsets = endpoints
            .get(&key)
            .map_or(&[][..], |endpoints| endpoints.subsets.as_slice());
        for cluster_ip in cluster_ips(spec) {
            for port in &spec.ports {
                let (Some(protocol), Some(number)) = (Protocol::from_name(&port.protocol), port_number(port.port))
                else {
                    let (namespace, name) = key;
                    tracing::warn!(
                        namespace,
                        service = name,
                        port = port.port,
                        "service port not understood"
                    );
                    continue;
                };
                let backends = Backends {
                    port,
                    protocol,
                    ipv4: cluster_ip.is_ipv4(),
                    ready_always: spec.publish_not_ready_addresses,
                    topology: &node.topology,
                    known: &known,
                };
                let distribution = Distribution::from_name(&spec.traffic_distribution);
                let desired = DesiredService {
                    name: service_name(key, port, number),
                    affinity_seconds: affinity_seconds(spec),
                    frontends: Vec::new(),
                    backends: backends.of(subsets, distribution),
                };
                let frontends = frontends(service, spec, port, protocol, cluster_ip, &node.addresses);
                candidates.push((desired, frontends));
            }
        }
    }
    DesiredServices {
        services: without_conflicts(candidates),
    }
}

/// True when which backends are chosen depends on more than the lists: on what is near and ready.
pub fn depends_on_readiness(services: &[Arc<Service>]) -> bool {
    let mut specs = services.iter().filter_map(|service| service.spec.as_ref());
    specs.any(|spec| Distribution::from_name(&spec.traffic_distribution) != Distribution::Anywhere)
}

/// Gives each frontend to one service: to what comes first in [`Class::ALL`], then to the first service by name. Two services with
/// one address are an error elsewhere, and must not take turns here.
fn without_conflicts(mut candidates: Vec<(DesiredService, Vec<(Class, Frontend)>)>) -> Vec<DesiredService> {
    let mut taken = HashSet::new();
    for class in Class::ALL {
        for (service, frontends) in &mut candidates {
            for (_, frontend) in frontends.extract_if(.., |(of, _)| *of == class) {
                if taken.insert((frontend.vip, frontend.scope)) {
                    service.frontends.push(frontend);
                } else {
                    let (service, vip) = (&service.name, frontend.vip);
                    tracing::warn!(service, ?class, ?vip, "another service has this address and port");
                }
            }
        }
    }
    let mut services: Vec<_> = candidates
        .into_iter()
        .map(|(service, _)| service)
        .filter(|service| !service.frontends.is_empty())
        .collect();
    services.sort_by_key(|service| service.frontends.first().map(|frontend| (frontend.scope, frontend.vip)));
    services
}

/// Namespace and name.
pub(super) fn key(metadata: Option<&ObjectMeta>) -> (&str, &str) {
    metadata.map_or(("", ""), |metadata| {
        (metadata.namespace.as_str(), metadata.name.as_str())
    })
}

/// Endpoints by the service they belong to.
pub(super) fn by_service(endpoints: &[Arc<Endpoints>]) -> HashMap<(&str, &str), &Arc<Endpoints>> {
    endpoints
        .iter()
        .map(|endpoints| (key(endpoints.metadata.as_ref()), endpoints))
        .collect()
}

/// "namespace/name:port".
fn service_name((namespace, name): (&str, &str), port: &ServicePort, number: u16) -> String {
    if port.name.is_empty() {
        format!("{namespace}/{name}:{number}")
    } else {
        format!("{namespace}/{name}:{}", port.name)
    }
}

fn affinity_seconds(spec: &ServiceSpec) -> u32 {
    if spec.session_affinity != "ClientIP" {
        return 0;
    }
    let configured = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    configured
        .and_then(|seconds| u32::try_from(seconds).ok())
        .unwrap_or(DEFAULT_AFFINITY_SECONDS)
}

/// What the backends of one port are made with.
struct Backends<'a, K> {
    port: &'a ServicePort,
    protocol: Protocol,
    ipv4: bool,
    ready_always: bool,
    topology: &'a Topology,
    known: &'a K,
}

impl<K: Fn(IpAddr, Readiness) -> Readiness> Backends<'_, K> {
    /// Sorted, one for each address and port. Listed as ready anywhere counts as ready.
    fn of(&self, subsets: &[EndpointSubset], distribution: Distribution) -> Vec<DesiredBackend> {
        let mut backends = BTreeMap::<BackendId, (DesiredBackend, Distance)>::new();
        for subset in subsets {
            for number in self.numbers(subset) {
                for (address, listed) in listed(subset) {
                    let Some((backend, distance)) = self.backend(address, number, listed) else {
                        continue;
                    };
                    let (known, nearest) = backends.entry(backend.id).or_insert((backend, distance));
                    known.ready |= backend.ready;
                    known.terminating |= backend.terminating;
                    known.local |= backend.local;
                    known.node = known.node.or(backend.node);
                    *nearest = distance.min(*nearest);
                }
            }
        }
        let mut backends: Vec<_> = backends.into_values().collect();
        for (backend, _) in backends.iter_mut().filter(|(backend, _)| backend.local) {
            let listed = Readiness {
                ready: backend.ready,
                terminating: backend.terminating,
            };
            let now = (self.known)(backend.id.address, listed);
            (backend.ready, backend.terminating) = (now.ready, now.terminating);
        }
        prefer(&mut backends, distribution);
        backends.into_iter().map(|(backend, _)| backend).collect()
    }

    /// The port's numbers in a subset.
    fn numbers(&self, subset: &EndpointSubset) -> Vec<u16> {
        let ports = subset.ports.iter().filter(|candidate| {
            candidate.name == self.port.name && Protocol::from_name(&candidate.protocol) == Some(self.protocol)
        });
        ports.filter_map(|port| port_number(port.port)).collect()
    }

    fn backend(&self, address: &EndpointAddress, port: u16, listed: Readiness) -> Option<(DesiredBackend, Distance)> {
        let ip: IpAddr = address.ip.parse().ok()?;
        let id = BackendId {
            address: ip,
            port,
            protocol: self.protocol,
            ready_always: self.ready_always,
        };
        let distance = self.topology.distance(&address.node_name);
        let backend = DesiredBackend {
            id,
            ready: listed.ready,
            terminating: listed.terminating,
            local: distance == Distance::Node,
            node: self.topology.underlay_address(&address.node_name),
            preferred: true,
        };
        (ip.is_ipv4() == self.ipv4).then_some((backend, distance))
    }
}

/// Addresses of a subset with what the list says of them.
fn listed(subset: &EndpointSubset) -> impl Iterator<Item = (&EndpointAddress, Readiness)> {
    let lists = [
        (&subset.addresses, true, false),
        (&subset.not_ready_addresses, false, false),
        (&subset.terminating_addresses, true, true),
    ];
    lists.into_iter().flat_map(|(addresses, ready, terminating)| {
        let state = Readiness { ready, terminating };
        addresses.iter().map(move |address| (address, state))
    })
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
