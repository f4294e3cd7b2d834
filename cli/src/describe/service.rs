//! Services and endpoints in detail.

use causeway_proto::{
    Resource as _,
    v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service},
};

use super::{Related, meta, text::Entry};
use crate::columns::service::protocol;

/// A service with the endpoints behind each port.
pub fn describe(service: &Service, related: &Related) -> Vec<Entry> {
    let spec = service.spec.clone().unwrap_or_default();
    let mut entries = meta::describe(service.meta(), related);
    entries.extend([
        Entry::fields(
            "Selector",
            spec.selector.iter().map(|(key, value)| format!("{key}={value}")),
        ),
        Entry::field(
            "Type",
            if spec.r#type.is_empty() {
                "ClusterIP"
            } else {
                &spec.r#type
            },
        ),
        Entry::field("IP", &spec.cluster_ip),
        Entry::field(
            "Session Affinity",
            if spec.session_affinity.is_empty() {
                "None"
            } else {
                &spec.session_affinity
            },
        ),
    ]);
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    if let Some(seconds) = timeout {
        entries.push(Entry::field("Affinity Timeout", format!("{seconds}s")));
    }
    let subsets = related
        .endpoints
        .as_ref()
        .map_or(&[][..], |endpoints| &endpoints.subsets);
    for port in &spec.ports {
        let name = if port.name.is_empty() { "<unset>" } else { &port.name };
        let protocol = protocol(&port.protocol);
        let target = port
            .target_port
            .as_ref()
            .map_or_else(|| port.port.to_string(), ToString::to_string);
        let of_port = |ports: &[EndpointPort]| -> Vec<i32> {
            ports
                .iter()
                .filter(|endpoint| endpoint.name == port.name)
                .map(|endpoint| endpoint.port)
                .collect()
        };
        let addresses = |of: fn(&EndpointSubset) -> &Vec<EndpointAddress>| {
            let in_subset = |subset: &EndpointSubset| {
                let ports = of_port(&subset.ports);
                let at =
                    |address: &EndpointAddress| ports.iter().map(|port| endpoint(address, *port)).collect::<Vec<_>>();
                of(subset).iter().flat_map(at).collect::<Vec<_>>()
            };
            subsets.iter().flat_map(in_subset).collect::<Vec<_>>()
        };
        let below = vec![
            Entry::field("Port", format!("{}/{protocol}", port.port)),
            Entry::field("Target Port", format!("{target}/{protocol}")),
            Entry::fields("Endpoints", addresses(|subset| &subset.addresses)),
            Entry::fields("Not Ready", addresses(|subset| &subset.not_ready_addresses)),
        ];
        entries.push(Entry::section(&format!("Port {name}"), below));
    }
    entries
}

/// "10.244.1.2:8080 (pod web-x7k2p on node-1)".
fn endpoint(address: &EndpointAddress, port: i32) -> String {
    let ip = if address.ip.contains(':') {
        format!("[{}]", address.ip)
    } else {
        address.ip.clone()
    };
    format!("{ip}:{port}{}", origin(address))
}

fn origin(address: &EndpointAddress) -> String {
    let what = address
        .target_ref
        .as_ref()
        .map(|target| format!("{} {}", target.kind.to_lowercase(), target.name));
    let place = (!address.node_name.is_empty()).then(|| format!("on {}", address.node_name));
    let words: Vec<String> = what.into_iter().chain(place).collect();
    if words.is_empty() {
        String::new()
    } else {
        format!(" ({})", words.join(" "))
    }
}

/// Endpoints with each of their subsets.
pub fn describe_endpoints(endpoints: &Endpoints, related: &Related) -> Vec<Entry> {
    let mut entries = meta::describe(endpoints.meta(), related);
    for (index, subset) in endpoints.subsets.iter().enumerate() {
        let list = |addresses: &[EndpointAddress]| {
            addresses
                .iter()
                .map(|address| format!("{}{}", address.ip, origin(address)))
                .collect::<Vec<_>>()
        };
        let port = |port: &EndpointPort| {
            let name = if port.name.is_empty() { "<unset>" } else { &port.name };
            format!("{name} {}/{}", port.port, protocol(&port.protocol))
        };
        let below = vec![
            Entry::fields("Addresses", list(&subset.addresses)),
            Entry::fields("Not Ready", list(&subset.not_ready_addresses)),
            Entry::fields("Ports", subset.ports.iter().map(port)),
        ];
        entries.push(Entry::section(&format!("Subset {index}"), below));
    }
    entries
}
