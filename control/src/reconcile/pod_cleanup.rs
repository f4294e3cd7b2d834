//! Pods that nobody will ever care for again: bound to a node that does not exist, or finished, without owner and too many.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use causeway_proto::{
    Kind, Resource,
    v1::{Node, Pod},
};

use super::{
    driver::{Pass, ReconcileError, Reconciler},
    live,
    objects::typed,
    pod_state,
};
use crate::api::{DeleteOptions, Registry};

/// A node may register again under its name; its pods then go on.
const QUARANTINE: Duration = Duration::from_secs(20);
/// Finished pods kept, all together (Kubernetes' `--terminated-pod-gc-threshold`).
const FINISHED_KEPT: usize = 12_500;

/// The reconciler.
pub struct PodCleanup {
    registry: Registry,
    /// Since when a node is missing that pods are bound to.
    missing: Mutex<HashMap<String, Instant>>,
}

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its node does not exist.
    NodeMissing,
    /// There are too many finished ones.
    Surplus,
}

/// A pod to delete.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    pod: Pod,
    reason: Reason,
}

/// Which pods go. `is_missing` tells of a node that has not existed for long enough.
pub fn plan<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    is_missing: impl Fn(&str) -> bool,
    finished_kept: usize,
) -> BTreeMap<String, Work> {
    let mut work = BTreeMap::new();
    let mut finished = Vec::new();
    for pod in pods {
        let node = pod_state::node_name(pod);
        if !node.is_empty() && is_missing(node) {
            work.insert(
                pod.key(),
                Work {
                    pod: pod.clone(),
                    reason: Reason::NodeMissing,
                },
            );
        } else if pod_state::is_finished(pod) && pod.meta().owner_references.is_empty() && !pod.meta().is_terminating()
        {
            finished.push(pod);
        }
    }
    let surplus = finished.len().saturating_sub(finished_kept);
    let age = |pod: &Pod| {
        pod.meta()
            .creation_timestamp
            .map_or((0, 0), |time| (time.seconds, time.nanos))
    };
    finished.sort_by_cached_key(|pod| (age(pod), pod.key()));
    for pod in finished.into_iter().take(surplus) {
        work.insert(
            pod.key(),
            Work {
                pod: pod.clone(),
                reason: Reason::Surplus,
            },
        );
    }
    work
}

impl PodCleanup {
    /// Works through the registry.
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            missing: Mutex::default(),
        }
    }
}

#[async_trait]
impl Reconciler for PodCleanup {
    type Work = Work;

    fn name(&self) -> &'static str {
        "pod-cleanup"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Node]
    }

    fn plan(&self) -> Pass<Work> {
        let [pods, nodes] = [Kind::Pod, Kind::Node].map(|kind| self.registry.cache(kind).snapshot());
        let nodes: HashSet<&str> = typed::<Node>(&nodes).map(|node| node.meta().name.as_str()).collect();
        let wanted: HashSet<&str> = typed::<Pod>(&pods)
            .map(pod_state::node_name)
            .filter(|name| !name.is_empty())
            .collect();
        let now = Instant::now();
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|name, _| wanted.contains(name.as_str()) && !nodes.contains(name.as_str()));
        for name in wanted.difference(&nodes) {
            missing.entry((*name).to_owned()).or_insert(now);
        }
        let lasted = |name: &str| missing.get(name).map(|since| now.duration_since(*since));
        let work = plan(
            typed::<Pod>(&pods),
            |name| lasted(name).is_some_and(|lasted| lasted >= QUARANTINE),
            FINISHED_KEPT,
        );
        let waiting = missing
            .values()
            .filter_map(|since| QUARANTINE.checked_sub(now.duration_since(*since)));
        let again_in = waiting.filter(|left| !left.is_zero()).min();
        Pass { work, again_in }
    }

    async fn execute(&self, key: &str, work: Work) -> Result<(), ReconcileError> {
        let meta = work.pod.meta();
        let node = pod_state::node_name(&work.pod);
        // Without its agent nobody ends it gracefully.
        let mut grace_period_seconds = None;
        if work.reason == Reason::NodeMissing {
            let present = live::get(&self.registry, Kind::Node, "", node).await;
            if present
                .map_err(ReconcileError::api(format!("reading node {node}")))?
                .is_some()
            {
                return Err(ReconcileError::NotYet(format!("node {node} has come back")));
            }
            grace_period_seconds = Some(0);
        }
        tracing::info!(pod = key, node, reason = ?work.reason, "deleting pod");
        let options = DeleteOptions {
            grace_period_seconds,
            ..DeleteOptions::only_uid(&meta.uid)
        };
        let result = self
            .registry
            .delete(Kind::Pod, &meta.namespace, &meta.name, &options)
            .await;
        result
            .map(drop)
            .map_err(ReconcileError::api(format!("deleting pod {key}")))
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{OwnerReference, PodSpec, PodStatus};

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, created: i64) -> Pod {
        let mut pod = Pod {
            spec: Some(PodSpec {
                node_name: node.into(),
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: phase.into(),
                ..PodStatus::default()
            }),
            ..Pod::default()
        };
        pod.meta_mut().name = name.into();
        pod.meta_mut().creation_timestamp = Some(prost_types::Timestamp {
            seconds: created,
            nanos: 0,
        });
        pod
    }

    #[test]
    fn pods_of_missing_nodes_go_whatever_they_are() {
        let pods = [
            pod("a", "n1", "Running", 1),
            pod("b", "gone", "Running", 1),
            pod("c", "", "Pending", 1),
        ];
        let work = plan(&pods, |node| node == "gone", 10);
        assert_eq!(
            work.into_iter()
                .map(|(key, work)| (key, work.reason))
                .collect::<Vec<_>>(),
            [("b".to_owned(), Reason::NodeMissing)]
        );
    }

    #[test]
    fn the_oldest_of_too_many_finished_pods_go() {
        let mut owned = pod("owned", "n1", "Failed", 0);
        owned.meta_mut().owner_references = vec![OwnerReference::default()];
        let pods = [
            pod("new", "n1", "Succeeded", 3),
            pod("old", "n1", "Failed", 1),
            pod("mid", "n1", "Failed", 2),
            pod("running", "n1", "Running", 0),
            owned,
        ];
        let work = plan(&pods, |_| false, 1);
        assert_eq!(work.into_keys().collect::<Vec<_>>(), ["mid", "old"]);
    }
}
