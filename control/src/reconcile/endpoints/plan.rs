//! What the endpoints of a service should be: pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use causeway_proto::{
    Kind, Resource,
    v1::{
        EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServicePort, ServiceSpec,
        int_or_string::Value,
    },
};

use super::super::{
    objects::{controller_reference, reference, selects},
    pod_state,
};

/// Marks endpoints of a service without VIP, as Kubernetes does.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What addresses are made of.
pub(super) struct Cluster<'a> {
    pods: HashMap<&'a str, Vec<&'a Pod>>,
    ready_nodes: HashSet<&'a str>,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(pods: impl Iterator<Item = &'a Pod>, ready_nodes: impl Iterator<Item = &'a str>) -> Self {
        let mut by_namespace: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in pods {
            by_namespace.entry(&pod.meta().namespace).or_default().push(pod);
        }
        Self {
            pods: by_namespace,
            ready_nodes: ready_nodes.collect(),
        }
    }

    fn selected(&self, service: &Service, spec: &ServiceSpec) -> impl Iterator<Item = &'a Pod> {
        let pods = self
            .pods
            .get(service.meta().namespace.as_str())
            .map_or(&[][..], Vec::as_slice);
        pods.iter().copied().filter(|pod| selects(&spec.selector, pod.meta()))
    }

    /// Whether new connections may go to a pod.
    fn is_ready(&self, pod: &Pod) -> bool {
        pod_state::is_ready(pod) && self.ready_nodes.contains(pod_state::node_name(pod))
    }
}

/// The service for which endpoints were made.
pub(super) fn service_uid(endpoints: &Endpoints) -> Option<&str> {
    let owner = endpoints.meta().controller()?;
    (owner.kind == Kind::Service.name()).then_some(owner.uid.as_str())
}

/// Whether writing `wanted` would change anything.
pub(super) fn differs(present: &Endpoints, wanted: &Endpoints) -> bool {
    present.subsets != wanted.subsets
        || present.meta().labels != wanted.meta().labels
        || present.meta().owner_references != wanted.meta().owner_references
}

/// The endpoints of a service; `None` if they are its user's matter. Based on those present, so that others' metadata stay.
pub(super) fn desired(service: &Service, present: Option<&Endpoints>, cluster: &Cluster<'_>) -> Option<Endpoints> {
    let spec = service.spec.as_ref().filter(|spec| !spec.selector.is_empty())?;
    if service.meta().is_terminating() {
        return None;
    }
    let mut endpoints = present.cloned().unwrap_or_default();
    endpoints.subsets = subsets(service, spec, cluster);
    let meta = endpoints.meta_mut();
    meta.name.clone_from(&service.meta().name);
    meta.namespace.clone_from(&service.meta().namespace);
    meta.labels.clone_from(&service.meta().labels);
    if spec.cluster_ip == "None" {
        meta.labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    meta.owner_references = vec![controller_reference(service)];
    Some(endpoints)
}

type Key = Vec<(String, i32, String)>;

/// Pods that offer the same ports share a subset. All is sorted, so that the same pods give the same subsets.
fn subsets(service: &Service, spec: &ServiceSpec, cluster: &Cluster<'_>) -> Vec<EndpointSubset> {
    let mut subsets: BTreeMap<Key, EndpointSubset> = BTreeMap::new();
    for pod in cluster.selected(service, spec).filter(|pod| pod_state::is_active(pod)) {
        let ip = pod.status.as_ref().map_or("", |status| status.pod_ip.as_str());
        let ports = ports(spec, pod);
        if ip.is_empty() || (ports.is_empty() && !spec.ports.is_empty()) {
            continue;
        }
        let key: Key = ports
            .iter()
            .map(|port| (port.name.clone(), port.port, port.protocol.clone()))
            .collect();
        let subset = subsets.entry(key).or_insert_with(|| EndpointSubset {
            ports,
            ..EndpointSubset::default()
        });
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: String::new(),
            node_name: pod_state::node_name(pod).to_owned(),
            target_ref: Some(reference(pod)),
        };
        if spec.publish_not_ready_addresses || cluster.is_ready(pod) {
            subset.addresses.push(address);
        } else {
            subset.not_ready_addresses.push(address);
        }
    }
    let mut subsets: Vec<_> = subsets.into_values().collect();
    for subset in &mut subsets {
        for addresses in [&mut subset.addresses, &mut subset.not_ready_addresses] {
            addresses.sort_by_cached_key(sort_key);
        }
    }
    subsets
}

/// By address as a number, then by pod.
fn sort_key(address: &EndpointAddress) -> (Option<std::net::IpAddr>, String) {
    let uid = address.target_ref.as_ref().map_or("", |target| target.uid.as_str());
    (address.ip.parse().ok(), uid.to_owned())
}

/// The service's ports as this pod offers them; those whose named target it does not have are left out.
fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let mut ports: Vec<_> = spec
        .ports
        .iter()
        .filter_map(|port| {
            let number = target(port, pod)?;
            Some(EndpointPort {
                name: port.name.clone(),
                port: number,
                protocol: protocol(&port.protocol).to_owned(),
            })
        })
        .collect();
    ports.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
    ports
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match port.target_port.as_ref().and_then(|target| target.value.as_ref()) {
        None | Some(Value::IntValue(0)) => Some(port.port),
        Some(Value::IntValue(number)) => Some(*number),
        Some(Value::StringValue(name)) if name.is_empty() => Some(port.port),
        Some(Value::StringValue(name)) => {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut offered = containers.flat_map(|container| &container.ports);
            let found =
                offered.find(|offer| offer.name == *name && protocol(&offer.protocol) == protocol(&port.protocol))?;
            Some(found.container_port)
        }
    }
}

fn protocol(text: &str) -> &str {
    if text.is_empty() { "TCP" } else { text }
}
