//! Nodes in detail.

use std::collections::BTreeMap;

use causeway_proto::{
    Resource as _,
    quantity::Amount,
    v1::{Node, Pod, Quantity},
};

use super::{Related, meta, text::Entry};
use crate::{
    columns::{node::status as status_word, pod},
    table::Table,
};

/// A node with its capacity and the pods on it.
pub fn describe(node: &Node, related: &Related) -> Vec<Entry> {
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let mut entries = meta::describe(node.meta(), related);
    let taint = |taint: &causeway_proto::v1::Taint| {
        let value = if taint.value.is_empty() {
            String::new()
        } else {
            format!("={}", taint.value)
        };
        format!("{}{value}:{}", taint.key, taint.effect)
    };
    entries.extend([
        Entry::field("Status", status_word(node)),
        Entry::field("Unschedulable", spec.unschedulable.to_string()),
        Entry::fields("Taints", spec.taints.iter().map(taint)),
        Entry::field("Pod CIDR", &spec.pod_cidr),
        Entry::fields(
            "Addresses",
            status
                .addresses
                .iter()
                .map(|one| format!("{}: {}", one.r#type, one.address)),
        ),
        meta::conditions(&status.conditions, &related.now),
        Entry::section("Capacity", quantities(&status.capacity)),
        Entry::section("Allocatable", quantities(&status.allocatable)),
    ]);
    if let Some(info) = &status.node_info {
        let facts = [
            ("Machine ID", &info.machine_id),
            ("Boot ID", &info.boot_id),
            ("Kernel", &info.kernel_version),
            ("OS Image", &info.os_image),
            ("Operating System", &info.operating_system),
            ("Architecture", &info.architecture),
            ("Container Runtime", &info.container_runtime_version),
            ("Agent", &info.kubelet_version),
        ];
        let known = facts.iter().filter(|(_, value)| !value.is_empty());
        entries.push(Entry::section(
            "System",
            known.map(|(label, value)| Entry::field(label, *value)).collect(),
        ));
    }
    entries.push(pods(&related.pods));
    entries.push(Entry::section(
        "Requested",
        requested(&related.pods, &status.allocatable),
    ));
    entries
}

fn quantities(quantities: &BTreeMap<String, Quantity>) -> Vec<Entry> {
    quantities
        .iter()
        .map(|(name, quantity)| Entry::field(name, &quantity.value))
        .collect()
}

fn pods(pods: &[Pod]) -> Entry {
    let mut table = Table::new(["NAMESPACE", "NAME", "STATUS", "CPU", "MEMORY"]);
    for one in pods {
        table.push(vec![
            one.meta().namespace.clone(),
            one.meta().name.clone(),
            pod::status(one),
            request(one, "cpu").to_string(),
            request(one, "memory").to_string(),
        ]);
    }
    Entry::table(&format!("Pods ({})", pods.len()), &table)
}

/// What a pod's containers ask for together. A quantity that cannot be read counts as nothing: the server refuses such.
fn request(pod: &Pod, resource: &str) -> Amount {
    let containers = pod.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
    let asked =
        |container: &causeway_proto::v1::Container| container.resources.as_ref()?.requests.get(resource)?.amount().ok();
    containers.iter().filter_map(asked).sum()
}

/// What the pods that have not ended ask for together, and its share of what the node has for them.
fn requested(pods: &[Pod], allocatable: &BTreeMap<String, Quantity>) -> Vec<Entry> {
    let ended = |pod: &&Pod| {
        pod.status
            .as_ref()
            .is_some_and(|status| matches!(&*status.phase, "Succeeded" | "Failed"))
    };
    let line = |resource: &str| {
        let sum: Amount = pods
            .iter()
            .filter(|pod| !ended(pod))
            .map(|pod| request(pod, resource))
            .sum();
        let room = allocatable
            .get(resource)
            .and_then(|quantity| quantity.milli().ok())
            .filter(|room| *room > 0);
        let share = room
            .map(|room| format!(" ({}%)", sum.milli() * 100 / room))
            .unwrap_or_default();
        Entry::field(resource, format!("{sum}{share}"))
    };
    ["cpu", "memory"].map(line).to_vec()
}
