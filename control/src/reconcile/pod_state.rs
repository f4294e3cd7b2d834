//! What the reconcilers and the scheduler want to know about a pod or a node.

use causeway_proto::{
    Resource,
    v1::{Condition, Node, Pod},
};
use prost_types::Timestamp;

use super::objects::{condition, condition_status};

/// The pod's phase; empty before it has one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().map_or("", |status| status.phase.as_str())
}

/// All of its containers have ended for good.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor being deleted: it counts as a replica.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !pod.meta().is_terminating()
}

/// The node it is bound to; empty before that.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().map_or("", |spec| spec.node_name.as_str())
}

fn conditions(pod: &Pod) -> &[Condition] {
    pod.status.as_ref().map_or(&[], |status| status.conditions.as_slice())
}

/// Its readiness gates and probes say yes.
pub fn is_ready(pod: &Pod) -> bool {
    condition_status(conditions(pod), "Ready") == "True"
}

/// Since when it has been ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(conditions(pod), "Ready")?;
    ready.last_transition_time.filter(|_| ready.status == "True")
}

/// The most often restarted container's count.
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| &status.container_statuses);
    statuses.map(|status| status.restart_count).max().unwrap_or(0)
}

/// The node says, and is believed to be still able to say, that pods can run on it.
pub fn node_is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .map_or(&[][..], |status| status.conditions.as_slice());
    condition_status(conditions, "Ready") == "True"
}

/// Whether a toleration covers a taint (Kubernetes' `Toleration.ToleratesTaint`).
pub fn tolerates(toleration: &causeway_proto::v1::Toleration, taint: &causeway_proto::v1::Taint) -> bool {
    let effect = toleration.effect.is_empty() || toleration.effect == taint.effect;
    let key = toleration.key.is_empty() || toleration.key == taint.key;
    let value = toleration.operator == "Exists" || toleration.value == taint.value;
    effect && key && value
}
