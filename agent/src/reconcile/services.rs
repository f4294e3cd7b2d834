//! From the cluster's services and endpoints to what the data path should hold. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use causeway_maps::Protocol;
use causeway_proto::v1::{EndpointAddress, EndpointSubset, Endpoints, ObjectMeta, Service, ServicePort, ServiceSpec};

use crate::bpf::{BackendId, DesiredBackend, DesiredService, DesiredServices, VipId};

/// Session affinity without a time-out of its own lasts three hours, as in Kubernetes.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// Every VIP port of every service, with its backends, ready or not; `node_name` tells which are local.
///
/// Endpoints belong to the service of their name. A port's backends are those ports of the subsets that have its name and
/// protocol. Headless services have no VIP, so they are not here; neither are services whose VIP is not allocated yet.
/// What local probes found out since is not mixed in here: [`crate::bpf::ReadinessHandle`] remembers it.
pub fn desired_services(services: &[Arc<Service>], endpoints: &[Arc<Endpoints>], node_name: &str) -> DesiredServices {
    let endpoints: HashMap<_, _> = endpoints
        .iter()
        .map(|endpoints| (key(endpoints.metadata.as_ref()), endpoints))
        .collect();
    // By VIP, and for each VIP the first service by name: two services with one address are an error elsewhere, and must
    // not take turns here.
    let mut desired = BTreeMap::<VipId, DesiredService>::new();
    let mut services: Vec<_> = services
        .iter()
        .map(|service| (key(service.metadata.as_ref()), service))
        .collect();
    services.sort_by_key(|(key, _)| *key);
    for (key, service) in services {
        let Some(spec) = &service.spec else { continue };
        let subsets = endpoints
            .get(&key)
            .map_or(&[][..], |endpoints| endpoints.subsets.as_slice());
        for address in addresses(spec) {
            for port in &spec.ports {
                let Some(service) = desired_port(key, address, spec, port, subsets, node_name) else {
                    tracing::warn!(
                        namespace = key.0,
                        service = key.1,
                        port = port.port,
                        "service port not understood"
                    );
                    continue;
                };
                if let Some(other) = desired.get(&service.vip) {
                    tracing::warn!(
                        service = service.name,
                        other = other.name,
                        "two services have the same address"
                    );
                    continue;
                }
                desired.insert(service.vip, service);
            }
        }
    }
    DesiredServices {
        services: desired.into_values().collect(),
    }
}

fn key(metadata: Option<&ObjectMeta>) -> (&str, &str) {
    metadata.map_or(("", ""), |metadata| {
        (metadata.namespace.as_str(), metadata.name.as_str())
    })
}

/// The service's VIPs; "None" and "" are no addresses.
fn addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    let single = std::slice::from_ref(&spec.cluster_ip);
    let all = if spec.cluster_ips.is_empty() {
        single
    } else {
        spec.cluster_ips.as_slice()
    };
    all.iter().filter_map(|address| address.parse().ok()).collect()
}

fn desired_port(
    (namespace, name): (&str, &str),
    address: IpAddr,
    spec: &ServiceSpec,
    port: &ServicePort,
    subsets: &[EndpointSubset],
    node_name: &str,
) -> Option<DesiredService> {
    let protocol = Protocol::from_name(&port.protocol)?;
    let number = u16::try_from(port.port).ok().filter(|number| *number != 0)?;
    let label = if port.name.is_empty() {
        number.to_string()
    } else {
        port.name.clone()
    };
    Some(DesiredService {
        vip: VipId {
            address,
            port: number,
            protocol,
        },
        name: format!("{namespace}/{name}:{label}"),
        affinity_seconds: affinity_seconds(spec),
        backends: backends(port, protocol, spec.publish_not_ready_addresses, subsets, node_name),
    })
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

/// Sorted, one for each address and port. Listed as ready anywhere counts as ready.
fn backends(
    port: &ServicePort,
    protocol: Protocol,
    ready_always: bool,
    subsets: &[EndpointSubset],
    node_name: &str,
) -> Vec<DesiredBackend> {
    let mut backends = BTreeMap::<BackendId, DesiredBackend>::new();
    for subset in subsets {
        let ports = subset.ports.iter().filter(|candidate| {
            candidate.name == port.name && Protocol::from_name(&candidate.protocol) == Some(protocol)
        });
        for number in ports
            .filter_map(|port| u16::try_from(port.port).ok())
            .filter(|number| *number != 0)
        {
            let listed = |address: &EndpointAddress, ready: bool| {
                let id = BackendId {
                    address: address.ip.parse().ok()?,
                    port: number,
                    protocol,
                    ready_always,
                };
                Some(DesiredBackend {
                    id,
                    ready,
                    terminating: false,
                    local: address.node_name == node_name,
                })
            };
            let ready = subset.addresses.iter().filter_map(|address| listed(address, true));
            let not_ready = subset
                .not_ready_addresses
                .iter()
                .filter_map(|address| listed(address, false));
            for backend in ready.chain(not_ready) {
                let known = backends.entry(backend.id).or_insert(backend);
                known.ready |= backend.ready;
                known.local |= backend.local;
            }
        }
    }
    backends.into_values().collect()
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
