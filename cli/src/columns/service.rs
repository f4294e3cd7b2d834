//! Columns of services.

use causeway_proto::{Resource as _, time::age_at, v1::Service};

use super::View;
use crate::table::{or_none, pairs};

pub const NARROW: &[&str] = &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"];
pub const WIDE: &[&str] = &["SELECTOR"];

pub fn row(service: &Service, view: &View) -> Vec<String> {
    let meta = service.meta();
    let spec = service.spec.clone().unwrap_or_default();
    let mut cells = vec![
        meta.name.clone(),
        if spec.r#type.is_empty() {
            "ClusterIP".to_owned()
        } else {
            spec.r#type.clone()
        },
        or_none(&spec.cluster_ip),
        external_ip(service),
        ports(service),
        age_at(meta.creation_timestamp.as_ref(), &view.now),
    ];
    if view.wide {
        cells.push(pairs(&spec.selector));
    }
    cells
}

/// Addresses of the load balancer.
pub fn ingress(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.into_iter().flat_map(|balancer| &balancer.ingress);
    ingress.map(|ingress| ingress.ip.clone()).collect()
}

/// Where the outside reaches it; "<pending>" while a load balancer has no address yet.
fn external_ip(service: &Service) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let mut addresses = ingress(service);
    addresses.extend(spec.external_ips);
    if addresses.is_empty() && spec.r#type == "LoadBalancer" {
        return "<pending>".to_owned();
    }
    or_none(&addresses.join(","))
}

/// "80:30080/TCP,53/UDP".
fn ports(service: &Service) -> String {
    let ports = service.spec.as_ref().map_or(&[][..], |spec| &spec.ports);
    let text = |port: &causeway_proto::v1::ServicePort| {
        let protocol = protocol(&port.protocol);
        if port.node_port == 0 {
            format!("{}/{protocol}", port.port)
        } else {
            format!("{}:{}/{protocol}", port.port, port.node_port)
        }
    };
    or_none(&ports.iter().map(text).collect::<Vec<_>>().join(","))
}

/// The protocol, TCP where none is said.
pub fn protocol(name: &str) -> &str {
    if name.is_empty() { "TCP" } else { name }
}
