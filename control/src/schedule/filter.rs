//! What rules a node out for a pod.

use causeway_proto::{
    Resource,
    quantity::Amount,
    v1::{ContainerPort, Pod, Taint},
};

use super::{NodeState, Resources};
use crate::reconcile::pod_state;

/// Stands for `spec.unschedulable` where tolerations are concerned.
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Every reason of the first filter that fails, in Kubernetes' words; empty if the pod can run there.
pub(super) fn reasons_against(pod: &Pod, requested: &Resources, node: &NodeState<'_>) -> Vec<String> {
    if let Some(reason) = state_reason(pod, node) {
        return vec![reason];
    }
    if lacks_ports(pod, node) {
        return vec!["node(s) didn't have free ports for the requested pod ports".to_owned()];
    }
    insufficient(requested, node)
}

/// Whether a port of the node that the pod asks for belongs to another pod there.
fn lacks_ports(pod: &Pod, node: &NodeState<'_>) -> bool {
    let wanted: Vec<_> = host_ports(pod).collect();
    let mut taken = node.pods().iter().flat_map(|other| host_ports(other));
    !wanted.is_empty() && taken.any(|taken| wanted.iter().any(|wanted| conflicts(wanted, taken)))
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .flat_map(|container| &container.ports)
        .filter(|port| port.host_port != 0)
}

/// The same port of the same protocol, unless each is at an address of its own.
fn conflicts(one: &ContainerPort, other: &ContainerPort) -> bool {
    let is_any = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
    one.host_port == other.host_port
        && one.protocol == other.protocol
        && (one.host_ip == other.host_ip || is_any(&one.host_ip) || is_any(&other.host_ip))
}

fn state_reason(pod: &Pod, state: &NodeState<'_>) -> Option<String> {
    let node = state.node();
    if node.meta().is_terminating() {
        return Some("node(s) were being deleted".to_owned());
    }
    if !pod_state::node_is_ready(node) {
        return Some("node(s) were not ready".to_owned());
    }
    let unschedulable = Taint {
        key: UNSCHEDULABLE_TAINT.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable) && !is_tolerated(pod, &unschedulable) {
        return Some("node(s) were unschedulable".to_owned());
    }
    let labels = &node.meta().labels;
    let selector = pod.spec.iter().flat_map(|spec| &spec.node_selector);
    if selector.into_iter().any(|(key, value)| labels.get(key) != Some(value)) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let taints = node.spec.iter().flat_map(|spec| &spec.taints);
    let hard = taints.filter(|taint| taint.effect != "PreferNoSchedule");
    hard.into_iter()
        .find(|taint| !is_tolerated(pod, taint))
        .map(|taint| format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value))
}

pub(super) fn is_tolerated(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.iter().flat_map(|spec| &spec.tolerations);
    tolerations
        .into_iter()
        .any(|toleration| pod_state::tolerates(toleration, taint))
}

fn insufficient(requested: &Resources, node: &NodeState<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    let count = i64::try_from(node.pods().len()).unwrap_or(i64::MAX);
    // A node that names no limit has none.
    if node
        .allocatable()
        .get("pods")
        .is_some_and(|allowed| Amount::from_value(count) + Amount::from_value(1) > allowed)
    {
        reasons.push("Too many pods".to_owned());
    }
    for (name, wanted) in requested.iter().filter(|(_, wanted)| !wanted.is_zero()) {
        let used = node.requested().get(name).unwrap_or(Amount::ZERO);
        let allocatable = node.allocatable().get(name).unwrap_or(Amount::ZERO);
        if used + wanted > allocatable {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}
