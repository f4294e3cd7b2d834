//! Nodes that fall silent: their conditions, their taints, their pods.
//!
//! An agent renews a lease every few seconds. What counts is when this process saw it change, not the time in it: clocks differ. A
//! node that was silent for the grace period is Unknown and tainted, its pods are not ready, and after the eviction time-out they are
//! deleted. When it speaks again its agent says how it is, and the taints go.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use causeway_proto::{
    Kind, Resource,
    event::EventType,
    time,
    v1::{Lease, Node, Pod},
};
use futures::future::join_all;

use super::{
    NODE_LEASE_NAMESPACE,
    driver::{Pass, ReconcileError, Reconciler},
    events::EventRecorder,
    objects::typed,
};
use crate::api::{DeleteOptions, Registry};

mod heartbeat;
mod listening;
mod plan;

use heartbeat::Heartbeats;
use listening::Listening;
use plan::{NodePlan, PodAction, plan};

const COMPONENT: &str = "node-controller";

/// Times of a node's silence.
#[derive(Clone, Copy, Debug)]
pub struct LifecycleTimes {
    /// Silence after which a node is not ready.
    pub grace_period: Duration,
    /// How long a node may be not ready before its pods are deleted, unless they tolerate it for another time.
    pub eviction_timeout: Duration,
}

impl Default for LifecycleTimes {
    /// Agents renew every 2 s; five minutes as in Kubernetes.
    fn default() -> Self {
        Self {
            grace_period: Duration::from_secs(10),
            eviction_timeout: Duration::from_mins(5),
        }
    }
}

/// The reconciler.
pub struct NodeLifecycle {
    registry: Registry,
    events: EventRecorder,
    times: LifecycleTimes,
    heartbeats: Mutex<Heartbeats>,
    listening: Listening,
}

impl NodeLifecycle {
    /// Works through the registry. Call within a tokio runtime.
    pub fn new(registry: Registry, events: &EventRecorder, times: LifecycleTimes) -> Self {
        Self {
            listening: Listening::start(registry.clone(), times.grace_period),
            registry,
            events: events.named(COMPONENT),
            times,
            heartbeats: Mutex::default(),
        }
    }

    fn heartbeats(&self) -> MutexGuard<'_, Heartbeats> {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn change_node(&self, plan: &mut NodePlan) -> Result<(), ReconcileError> {
        let Some(name) = plan.name() else { return Ok(()) };
        if let Some(node) = plan.status.take() {
            tracing::warn!(node = name, "node has fallen silent");
            let message = format!("Node {name} status is now: NodeNotReady");
            self.events.record(&node, EventType::Normal, "NodeNotReady", message);
            let result = self.registry.update_status(node.into_object(), false).await;
            result.map_err(ReconcileError::api(format!("writing the status of node {name}")))?;
            // The taints follow from the new status, with its version.
            return Ok(());
        }
        if let Some(node) = plan.taints.take() {
            let result = self.registry.update(node.into_object(), false).await;
            result.map_err(ReconcileError::api(format!("writing the taints of node {name}")))?;
        }
        Ok(())
    }

    async fn act_on_pod(&self, action: PodAction) -> Result<(), ReconcileError> {
        match action {
            PodAction::MarkNotReady(pod) => {
                let key = pod.key();
                self.events
                    .record(&*pod, EventType::Warning, "NodeNotReady", "Node is not ready");
                let result = self.registry.update_status(pod.into_object(), false).await;
                result
                    .map(drop)
                    .map_err(ReconcileError::api(format!("marking pod {key} as not ready")))
            }
            PodAction::Evict(pod) => {
                let meta = pod.meta();
                let message = format!("Marking for deletion Pod {}", meta.key());
                self.events
                    .record(&*pod, EventType::Normal, "TaintManagerEviction", message);
                let options = DeleteOptions::only_uid(&meta.uid);
                match self
                    .registry
                    .delete(Kind::Pod, &meta.namespace, &meta.name, &options)
                    .await
                {
                    Err(error) if !error.is_not_found() => {
                        Err(ReconcileError::api(format!("evicting pod {}", meta.key()))(error))
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

#[async_trait]
impl Reconciler for NodeLifecycle {
    type Work = NodePlan;

    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Lease, Kind::Pod]
    }

    fn plan(&self) -> Pass<NodePlan> {
        let [nodes, leases, pods] =
            [Kind::Node, Kind::Lease, Kind::Pod].map(|kind| self.registry.cache(kind).snapshot());
        let leases: HashMap<&str, &Lease> = typed::<Lease>(&leases)
            .filter(|lease| lease.meta().namespace == NODE_LEASE_NAMESPACE)
            .map(|lease| (lease.meta().name.as_str(), lease))
            .collect();
        let mut on_node: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in typed::<Pod>(&pods) {
            on_node.entry(super::pod_state::node_name(pod)).or_default().push(pod);
        }
        let mut heartbeats = self.heartbeats();
        let (now, instant) = (time::now(), Instant::now());
        let listened = self.listening.lasted(instant);
        let mut pass = Pass::default();
        for node in typed::<Node>(&nodes) {
            let name = node.meta().name.as_str();
            let silence = heartbeats
                .silence(node, leases.get(name).copied(), instant)
                .min(listened);
            let pods = on_node.get(name).map_or(&[][..], Vec::as_slice);
            let plan = plan(node, pods, silence, &self.times, now);
            pass.look_again_in(plan.again_in);
            if plan.has_work() {
                pass.work.insert(name.to_owned(), plan);
            }
        }
        heartbeats.forget_others(typed::<Node>(&nodes));
        pass
    }

    async fn execute(&self, _key: &str, mut plan: NodePlan) -> Result<(), ReconcileError> {
        let changed = self.change_node(&mut plan).await;
        let pods = join_all(plan.pods.drain(..).map(|action| self.act_on_pod(action))).await;
        changed.and(pods.into_iter().collect())
    }
}
