//! What a controller says about itself: pure.

use std::time::Duration;

use causeway_proto::{
    Resource, time,
    v1::{Condition, Pod, ReplicationController, ReplicationControllerStatus},
};
use prost_types::Timestamp;

use super::{super::pod_state, REPLICA_FAILURE};

/// The status, and when it will change by the mere passing of time.
pub(super) fn status(
    controller: &ReplicationController,
    replicas: &[&Pod],
    failure: Option<&Condition>,
    now: Timestamp,
) -> (ReplicationControllerStatus, Option<Duration>) {
    let spec = controller.spec.clone().unwrap_or_default();
    let labels = spec
        .template
        .and_then(|template| template.metadata)
        .unwrap_or_default()
        .labels;
    let is_fully_labeled = |pod: &&&Pod| {
        labels
            .iter()
            .all(|(key, value)| pod.meta().labels.get(key) == Some(value))
    };
    let min_ready = f64::from(spec.min_ready_seconds.unwrap_or(0).max(0));
    let mut available = 0;
    let mut next: Option<Duration> = None;
    let ready: Vec<_> = replicas.iter().filter(|pod| pod_state::is_ready(pod)).collect();
    for pod in &ready {
        let since = pod_state::ready_since(pod);
        let left = since.map_or(0.0, |since| min_ready - time::seconds_between(&since, &now));
        if left <= 0.0 || min_ready <= 0.0 {
            available += 1;
        } else {
            let left = Duration::from_secs_f64(left);
            next = Some(next.map_or(left, |next| next.min(left)));
        }
    }
    let before = controller.status.clone().unwrap_or_default();
    let mut conditions = before.conditions;
    match failure {
        Some(failure) => {
            super::super::objects::set_condition(&mut conditions, failure.clone());
        }
        None => conditions.retain(|condition| condition.r#type != REPLICA_FAILURE),
    }
    let status = ReplicationControllerStatus {
        replicas: count(replicas.len()),
        fully_labeled_replicas: count(replicas.iter().filter(is_fully_labeled).count()),
        observed_generation: controller.meta().generation,
        ready_replicas: count(ready.len()),
        available_replicas: available,
        conditions,
    };
    (status, next)
}

fn count(pods: usize) -> i32 {
    i32::try_from(pods).unwrap_or(i32::MAX)
}
