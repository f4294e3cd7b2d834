//! What every description begins with.

use causeway_proto::{
    time::{age_at, to_rfc3339},
    v1::{Condition, ObjectMeta},
};
use prost_types::Timestamp;

use super::{Related, text::Entry};
use crate::table::Table;

/// Annotations that would drown the others: what `apply` remembers.
const HIDDEN: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "causeway.dev/last-applied-configuration",
];

/// Name, namespace, labels, annotations, creation, owner, deletion.
pub fn describe(meta: &ObjectMeta, related: &Related) -> Vec<Entry> {
    let mut entries = vec![Entry::field("Name", &meta.name)];
    if !meta.namespace.is_empty() {
        entries.push(Entry::field("Namespace", &meta.namespace));
    }
    entries.push(Entry::fields(
        "Labels",
        meta.labels.iter().map(|(key, value)| format!("{key}={value}")),
    ));
    let shown = meta
        .annotations
        .iter()
        .filter(|(key, _)| !HIDDEN.contains(&key.as_str()));
    entries.push(Entry::fields(
        "Annotations",
        shown.map(|(key, value)| format!("{key}: {value}")),
    ));
    entries.push(Entry::field(
        "Created",
        time(meta.creation_timestamp.as_ref(), &related.now),
    ));
    if let Some(owner) = meta.controller() {
        entries.push(Entry::field("Controlled By", format!("{}/{}", owner.kind, owner.name)));
    }
    if let Some(deleted) = &meta.deletion_timestamp {
        let grace = meta.deletion_grace_period_seconds.unwrap_or_default();
        let since = time(Some(deleted), &related.now);
        entries.push(Entry::field(
            "Terminating",
            format!("since {since}, grace period {grace}s"),
        ));
    }
    if !meta.finalizers.is_empty() {
        entries.push(Entry::fields("Finalizers", meta.finalizers.iter().cloned()));
    }
    entries
}

/// "2026-01-31T12:00:00Z (5m ago)".
pub fn time(time: Option<&Timestamp>, now: &Timestamp) -> String {
    time.map(|time| format!("{} ({} ago)", to_rfc3339(time), age_at(Some(time), now)))
        .unwrap_or_default()
}

/// The conditions as a table.
pub fn conditions(conditions: &[Condition], now: &Timestamp) -> Entry {
    let mut table = Table::new(["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"]);
    for condition in conditions {
        table.push(vec![
            condition.r#type.clone(),
            condition.status.clone(),
            condition
                .last_transition_time
                .map_or_else(String::new, |time| age_at(Some(&time), now)),
            condition.reason.clone(),
            condition.message.clone(),
        ]);
    }
    Entry::table("Conditions", &table)
}
