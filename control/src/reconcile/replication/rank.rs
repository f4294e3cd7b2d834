//! Which replica to delete first: the one that is missed least. The order is nearly that of Kubernetes' `ActivePodsWithRanks`.

use std::{cmp::Reverse, collections::HashMap};

use causeway_proto::{Resource, v1::Pod};

use super::super::pod_state;

/// Sorts pods, first to go first: not scheduled; not running; not ready; on a node with more of them; more restarts; ready for a
/// shorter time; younger; by name.
///
/// Unlike in Kubernetes, where all pods of the most crowded node go before any of another, each one counts those that would be left
/// on its node when its turn comes, so that what remains is spread evenly.
pub(super) fn sort_for_deletion(pods: &mut [&Pod]) {
    pods.sort_by_cached_key(|pod| (usefulness(pod), dispensability(pod)));
    let mut left: HashMap<&str, usize> = HashMap::new();
    for pod in pods.iter() {
        *left.entry(pod_state::node_name(pod)).or_default() += 1;
    }
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in pods.iter() {
        let left = left.entry(pod_state::node_name(pod)).or_default();
        crowd.insert(&pod.meta().uid, *left);
        *left -= 1;
    }
    pods.sort_by_cached_key(|pod| {
        let crowd = crowd.get(pod.meta().uid.as_str()).copied();
        (usefulness(pod), Reverse(crowd), dispensability(pod))
    });
}

/// Scheduled, running, ready: more is better.
fn usefulness(pod: &Pod) -> (bool, u8, bool) {
    (
        !pod_state::node_name(pod).is_empty(),
        phase_rank(pod),
        pod_state::is_ready(pod),
    )
}

type Seconds = (i64, i32);

/// Less goes first.
fn dispensability(pod: &Pod) -> (Reverse<i32>, Reverse<Seconds>, Reverse<Seconds>, String) {
    let seconds = |time: Option<prost_types::Timestamp>| time.map_or((0, 0), |time| (time.seconds, time.nanos));
    (
        Reverse(pod_state::restarts(pod)),
        Reverse(seconds(pod_state::ready_since(pod))),
        Reverse(seconds(pod.meta().creation_timestamp)),
        pod.meta().name.clone(),
    )
}

fn phase_rank(pod: &Pod) -> u8 {
    match pod_state::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    }
}
