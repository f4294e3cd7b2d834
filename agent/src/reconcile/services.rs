//! From the cluster's services and endpoints to what the data path should hold. Pure.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use causeway_maps::Protocol;
use causeway_proto::v1::{EndpointAddress, EndpointSubset, Endpoints, ObjectMeta, Service, ServicePort, ServiceSpec};

use super::{
    service_frontends::{Class, cluster_ips, frontends, port_number},
    services_index::{Candidate, FrontendIndex, ServiceName},
    topology::{Distance, Distribution, Topology, prefer},
};
use crate::{
    bpf::{BackendId, DesiredBackend, DesiredService, DesiredServices, Frontend, Readiness},
    hash::HashMap,
};

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
/// This looks at everything; [`candidates`] and a [`FrontendIndex`] that is kept do the same for single services. Endpoints belong
/// to the service of their name.
pub fn desired_services(
    services: &[Arc<Service>],
    endpoints: &[Arc<Endpoints>],
    node: &NodeView,
    known: impl Fn(IpAddr, Readiness) -> Readiness,
) -> DesiredServices {
    let endpoints = by_service(endpoints);
    let mut index = FrontendIndex::default();
    let mut all = Vec::with_capacity(services.len());
    for service in services {
        let (namespace, name) = key(service.metadata.as_ref());
        let endpoints = endpoints.get(&(namespace, name)).map(|endpoints| &***endpoints);
        let candidates = candidates(service, endpoints, node, &known);
        let name: ServiceName = (namespace.to_owned(), name.to_owned());
        // All are looked at anyway.
        index.update(&name, &candidates, &mut BTreeSet::new());
        all.push((name, candidates));
    }
    let resolved = all
        .into_iter()
        .flat_map(|(name, candidates)| index.resolve(&name, candidates, warn_of_loss));
    let mut services: Vec<_> = resolved.collect();
    services.sort_by_key(|service| service.frontends.first().map(|frontend| (frontend.scope, frontend.vip)));
    DesiredServices { services }
}

/// Two services with one address are an error elsewhere, and must not take turns here.
pub fn warn_of_loss(service: &DesiredService, class: Class, frontend: &Frontend) {
    let (service, vip) = (&service.name, frontend.vip);
    tracing::debug!(service, ?class, ?vip, "another service has this address and port");
}

/// The ports of one service in every address family, each with all frontends that it claims and its backends.
///
/// A port's backends are those ports of the subsets that have its name and protocol, of the frontends' family. Headless services
/// have no VIP, so they have no candidates; neither have services whose VIP is not allocated yet. `known` says what this node itself
/// knows of one of its pods, which is newer than the list.
pub fn candidates(
    service: &Service,
    endpoints: Option<&Endpoints>,
    node: &NodeView,
    known: &impl Fn(IpAddr, Readiness) -> Readiness,
) -> Vec<Candidate> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let key = key(service.metadata.as_ref());
    let subsets = endpoints.map_or(&[][..], |endpoints| endpoints.subsets.as_slice());
    let distribution = Distribution::from_name(&spec.traffic_distribution);
    let cluster_ips = cluster_ips(spec);
    let mut candidates = Vec::with_capacity(cluster_ips.len() * spec.ports.len());
    for cluster_ip in cluster_ips {
        for port in &spec.ports {
            let (Some(protocol), Some(number)) = (Protocol::from_name(&port.protocol), port_number(port.port)) else {
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
                known,
            };
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
    candidates
}

/// True when which backends are chosen depends on more than the lists: on what is near and ready.
pub fn depends_on_readiness(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| Distribution::from_name(&spec.traffic_distribution) != Distribution::Anywhere)
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
        let addresses = subsets.iter().flat_map(listed).count();
        let mut backends = Vec::with_capacity(addresses);
        for subset in subsets {
            for number in self.numbers(subset) {
                backends.extend(listed(subset).filter_map(|(address, listed)| self.backend(address, number, listed)));
            }
        }
        backends.sort_by_key(|(backend, _)| backend.id);
        backends.dedup_by(|(backend, distance), (known, nearest)| {
            let is_known = backend.id == known.id;
            if is_known {
                known.ready |= backend.ready;
                known.terminating |= backend.terminating;
                known.local |= backend.local;
                known.node = known.node.or(backend.node);
                *nearest = (*distance).min(*nearest);
            }
            is_known
        });
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
