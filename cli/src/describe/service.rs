//! Services and endpoints in detail.

use causeway_proto::{
    Resource as _,
    v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service, ServiceSpec},
};

use super::{Related, meta, text::Entry};
use crate::columns::service::{ingress, protocol};

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
    ]);
    entries.extend(reach(service, &spec));
    entries.push(Entry::field(
        "Session Affinity",
        if spec.session_affinity.is_empty() {
            "None"
        } else {
            &spec.session_affinity
        },
    ));
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
                .filter(|endpoint| endpoint.name == port.name && self::protocol(&endpoint.protocol) == protocol)
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
        let mut below = vec![
            Entry::field("Port", format!("{}/{protocol}", port.port)),
            Entry::field("Target Port", format!("{target}/{protocol}")),
        ];
        if port.node_port != 0 {
            below.push(Entry::field("Node Port", format!("{}/{protocol}", port.node_port)));
        }
        below.extend([
            Entry::fields("Endpoints", addresses(|subset| &subset.addresses)),
            Entry::fields("Not Ready", addresses(|subset| &subset.not_ready_addresses)),
        ]);
        let ending = addresses(|subset| &subset.terminating_addresses);
        if !ending.is_empty() {
            below.push(Entry::fields("Terminating", ending));
        }
        entries.push(Entry::section(&format!("Port {name}"), below));
    }
    entries
}

/// How it is reached beside its first cluster IP; only what is there to say.
fn reach(service: &Service, spec: &ServiceSpec) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut say = |label: &str, values: &[String]| {
        if values.iter().any(|value| !value.is_empty()) {
            entries.push(Entry::fields(label, values.iter().cloned()));
        }
    };
    if spec.cluster_ips.len() > 1 {
        say("IPs", &spec.cluster_ips);
    }
    if spec.ip_families.len() > 1 || spec.ip_families.iter().any(|family| family != "IPv4") {
        say("IP Families", &[spec.ip_families.join(", ")]);
        say("IP Family Policy", std::slice::from_ref(&spec.ip_family_policy));
    }
    say("External IPs", &spec.external_ips);
    let ingress = ingress(service);
    if spec.r#type == "LoadBalancer" && ingress.is_empty() {
        let conditions = service.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let why = conditions
            .iter()
            .find(|condition| condition.r#type == "LoadBalancerAddress");
        say(
            "LoadBalancer Ingress",
            &[why.map_or_else(|| "<pending>".to_owned(), |why| format!("<pending>: {}", why.message))],
        );
    } else {
        say("LoadBalancer Ingress", &ingress);
    }
    say("Source Ranges", &spec.load_balancer_source_ranges);
    // Cluster is what everybody expects.
    let unusual = |policy: &String| {
        if policy == "Cluster" {
            String::new()
        } else {
            policy.clone()
        }
    };
    say("External Traffic Policy", &[unusual(&spec.external_traffic_policy)]);
    say("Internal Traffic Policy", &[unusual(&spec.internal_traffic_policy)]);
    if spec.health_check_node_port != 0 {
        say("HealthCheck NodePort", &[spec.health_check_node_port.to_string()]);
    }
    say("Traffic Distribution", std::slice::from_ref(&spec.traffic_distribution));
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
        let mut below = vec![
            Entry::fields("Addresses", list(&subset.addresses)),
            Entry::fields("Not Ready", list(&subset.not_ready_addresses)),
        ];
        if !subset.terminating_addresses.is_empty() {
            below.push(Entry::fields("Terminating", list(&subset.terminating_addresses)));
        }
        below.push(Entry::fields("Ports", subset.ports.iter().map(port)));
        entries.push(Entry::section(&format!("Subset {index}"), below));
    }
    entries
}
