//! Replication controllers in detail.

use causeway_proto::{Resource as _, v1::ReplicationController};

use super::{Related, meta, text::Entry};
use crate::{columns::service::protocol, table::pairs};

/// A replication controller with its counts and its template.
pub fn describe(controller: &ReplicationController, related: &Related) -> Vec<Entry> {
    let spec = controller.spec.clone().unwrap_or_default();
    let status = controller.status.clone().unwrap_or_default();
    let mut entries = meta::describe(controller.meta(), related);
    let desired = spec.replicas.unwrap_or(1);
    entries.extend([
        Entry::fields(
            "Selector",
            spec.selector.iter().map(|(key, value)| format!("{key}={value}")),
        ),
        Entry::field("Replicas", format!("{} current / {desired} desired", status.replicas)),
        Entry::field(
            "Pods Status",
            format!(
                "{} ready / {} available",
                status.ready_replicas, status.available_replicas
            ),
        ),
    ]);
    if controller.meta().generation != status.observed_generation {
        entries.push(Entry::field("Observed", "not yet the latest specification"));
    }
    let template = spec.template.unwrap_or_default();
    let labels = template.metadata.map(|meta| meta.labels).unwrap_or_default();
    let mut below = vec![Entry::field("Labels", pairs(&labels))];
    for container in template.spec.unwrap_or_default().containers {
        let port =
            |port: &causeway_proto::v1::ContainerPort| format!("{}/{}", port.container_port, protocol(&port.protocol));
        let inner = vec![
            Entry::field("Image", &container.image),
            Entry::field("Ports", container.ports.iter().map(port).collect::<Vec<_>>().join(", ")),
        ];
        below.push(Entry::section(&format!("Container {}", container.name), inner));
    }
    entries.push(Entry::section("Pod Template", below));
    if !status.conditions.is_empty() {
        entries.push(meta::conditions(&status.conditions, &related.now));
    }
    entries
}
