//! Which replica to delete first: the one that is missed least. The order is that of Kubernetes' `ActivePodsWithRanks`.

use std::{cmp::Reverse, collections::HashMap};

use causeway_proto::{Resource, v1::Pod};

use super::super::pod_state;

/// Sorts pods, first to go first: not scheduled; not running; not ready; on a node with more of them; more restarts; ready for a
/// shorter time; younger; by name.
pub(super) fn sort_for_deletion(pods: &mut [&Pod]) {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in pods.iter().filter(|pod| is_running(pod)) {
        *on_node.entry(pod_state::node_name(pod)).or_default() += 1;
    }
    let seconds = |time: Option<prost_types::Timestamp>| time.map_or((0, 0), |time| (time.seconds, time.nanos));
    pods.sort_by_cached_key(|pod| {
        let node = pod_state::node_name(pod);
        (
            (!node.is_empty(), phase_rank(pod), pod_state::is_ready(pod)),
            Reverse(on_node.get(node).copied().unwrap_or(0)),
            Reverse(pod_state::restarts(pod)),
            Reverse(seconds(pod_state::ready_since(pod))),
            Reverse(seconds(pod.meta().creation_timestamp)),
            pod.meta().name.clone(),
        )
    });
}

fn is_running(pod: &Pod) -> bool {
    pod_state::phase(pod) == "Running" && !pod_state::node_name(pod).is_empty()
}

fn phase_rank(pod: &Pod) -> u8 {
    match pod_state::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    }
}
