//! Columns of services.

use causeway_proto::{Resource as _, time::age_at, v1::Service};

use super::View;
use crate::table::{or_none, pairs};

pub const NARROW: &[&str] = &["NAME", "TYPE", "CLUSTER-IP", "PORT(S)", "AGE"];
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
        ports(service),
        age_at(meta.creation_timestamp.as_ref(), &view.now),
    ];
    if view.wide {
        cells.push(pairs(&spec.selector));
    }
    cells
}

/// "80/TCP,53/UDP".
fn ports(service: &Service) -> String {
    let ports = service.spec.as_ref().map_or(&[][..], |spec| &spec.ports);
    let text = |port: &causeway_proto::v1::ServicePort| format!("{}/{}", port.port, protocol(&port.protocol));
    or_none(&ports.iter().map(text).collect::<Vec<_>>().join(","))
}

/// The protocol, TCP where none is said.
pub fn protocol(name: &str) -> &str {
    if name.is_empty() { "TCP" } else { name }
}
