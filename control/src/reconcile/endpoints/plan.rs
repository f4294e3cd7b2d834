//! What the endpoints of a service should be: pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use causeway_proto::{
    Kind, Resource,
    v1::{
        EndpointAddress, EndpointPort, EndpointSubset, Endpoints, OwnerReference, Pod, Service, ServicePort,
        ServiceSpec, int_or_string::Value,
    },
};

use super::super::{
    objects::{controller_reference, reference, selects},
    pod_state,
};
use crate::cidr::Family;

/// Marks endpoints of a service without VIP, as Kubernetes does.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What addresses are made of.
pub(super) struct Cluster<'a> {
    /// Pods by namespace and each of their labels: services are many, and each selects few.
    pods: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Pod>>,
    ready_nodes: HashSet<&'a str>,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(pods: impl Iterator<Item = &'a Pod>, ready_nodes: impl Iterator<Item = &'a str>) -> Self {
        let mut by_label: HashMap<_, Vec<&Pod>> = HashMap::new();
        for pod in pods.filter(|pod| !pod_state::is_finished(pod)) {
            let meta = pod.meta();
            for (key, value) in &meta.labels {
                by_label
                    .entry((meta.namespace.as_str(), key.as_str(), value.as_str()))
                    .or_default()
                    .push(pod);
            }
        }
        Self {
            pods: by_label,
            ready_nodes: ready_nodes.collect(),
        }
    }

    /// The pods that a service selects and that have not ended: looked up by the label that the fewest have.
    fn selected(&self, service: &Service, spec: &ServiceSpec) -> Vec<&'a Pod> {
        let namespace = service.meta().namespace.as_str();
        let mut candidates: Option<&[&'a Pod]> = None;
        for (key, value) in &spec.selector {
            let with_label = self
                .pods
                .get(&(namespace, key.as_str(), value.as_str()))
                .map_or(&[][..], Vec::as_slice);
            if candidates.is_none_or(|candidates| with_label.len() < candidates.len()) {
                candidates = Some(with_label);
            }
        }
        let candidates = candidates.unwrap_or_default().iter().copied();
        candidates.filter(|pod| selects(&spec.selector, pod.meta())).collect()
    }

    /// Whether new connections may go to a pod.
    fn is_ready(&self, pod: &Pod) -> bool {
        pod_state::is_ready(pod) && self.is_on_ready_node(pod)
    }

    /// Whether a pod was given up with its node: nobody there can say when it has ended.
    fn is_lost(&self, pod: &Pod) -> bool {
        pod.meta().is_terminating() && !self.is_on_ready_node(pod)
    }

    fn is_on_ready_node(&self, pod: &Pod) -> bool {
        self.ready_nodes.contains(pod_state::node_name(pod))
    }
}

/// The service for which endpoints were made.
pub(super) fn service_uid(endpoints: &Endpoints) -> Option<&str> {
    let owner = endpoints.meta().controller()?;
    (owner.kind == Kind::Service.name()).then_some(owner.uid.as_str())
}

/// What the endpoints of a service should be.
#[derive(Debug, PartialEq)]
pub(super) struct Desired {
    subsets: Vec<EndpointSubset>,
    labels: BTreeMap<String, String>,
    owner: OwnerReference,
}

impl Desired {
    /// `None` if they are the user's matter.
    pub(super) fn of(service: &Service, cluster: &Cluster<'_>) -> Option<Self> {
        let spec = service.spec.as_ref().filter(|spec| !spec.selector.is_empty())?;
        if service.meta().is_terminating() {
            return None;
        }
        let mut labels = service.meta().labels.clone();
        if spec.cluster_ip == "None" {
            labels.insert(HEADLESS_LABEL.to_owned(), String::new());
        }
        Some(Self {
            subsets: subsets(service, spec, cluster),
            labels,
            owner: controller_reference(service),
        })
    }

    /// Whether these are it already.
    pub(super) fn is(&self, present: &Endpoints) -> bool {
        let meta = present.meta();
        present.subsets == self.subsets
            && meta.labels == self.labels
            && meta.owner_references == std::slice::from_ref(&self.owner)
    }

    /// The object to write. Based on the one that is there, so that others' metadata stay.
    pub(super) fn into_endpoints(self, service: &Service, present: Option<&Endpoints>) -> Endpoints {
        let mut endpoints = present.cloned().unwrap_or_default();
        endpoints.subsets = self.subsets;
        let meta = endpoints.meta_mut();
        meta.name.clone_from(&service.meta().name);
        meta.namespace.clone_from(&service.meta().namespace);
        meta.labels = self.labels;
        meta.owner_references = vec![self.owner];
        endpoints
    }
}

type Key = Vec<(String, i32, String)>;

/// Pods that offer the same ports share a subset. All is sorted, so that the same pods give the same subsets.
fn subsets(service: &Service, spec: &ServiceSpec, cluster: &Cluster<'_>) -> Vec<EndpointSubset> {
    let mut subsets: BTreeMap<Key, EndpointSubset> = BTreeMap::new();
    for pod in cluster
        .selected(service, spec)
        .into_iter()
        .filter(|pod| !cluster.is_lost(pod))
    {
        let ports = ports(spec, pod);
        let addresses = addresses(spec, pod);
        if addresses.is_empty() || (ports.is_empty() && !spec.ports.is_empty()) {
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
        let answers = spec.publish_not_ready_addresses || cluster.is_ready(pod);
        let list = match (answers, pod.meta().is_terminating()) {
            (true, false) => &mut subset.addresses,
            (true, true) => &mut subset.terminating_addresses,
            (false, _) => &mut subset.not_ready_addresses,
        };
        list.extend(addresses.into_iter().map(|ip| EndpointAddress {
            ip,
            hostname: String::new(),
            node_name: pod_state::node_name(pod).to_owned(),
            target_ref: Some(reference(pod)),
        }));
    }
    let mut subsets: Vec<_> = subsets.into_values().collect();
    for subset in &mut subsets {
        for addresses in [
            &mut subset.addresses,
            &mut subset.not_ready_addresses,
            &mut subset.terminating_addresses,
        ] {
            addresses.sort_by_cached_key(sort_key);
        }
    }
    subsets
}

/// The pod's addresses of the service's families; without families, its first.
fn addresses(spec: &ServiceSpec, pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let first = Some(&status.pod_ip).filter(|ip| !ip.is_empty());
    let all = status.pod_ips.iter().map(|pod_ip| &pod_ip.ip);
    let mut ips: Vec<&String> = first.into_iter().chain(all).collect();
    ips.sort_unstable();
    ips.dedup();
    let families: Vec<_> = spec
        .ip_families
        .iter()
        .filter_map(|name| Family::from_name(name))
        .collect();
    if families.is_empty() {
        return first.cloned().into_iter().collect();
    }
    let wanted = |ip: &&String| ip.parse().is_ok_and(|ip| families.contains(&Family::of(ip)));
    ips.into_iter().filter(wanted).cloned().collect()
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
