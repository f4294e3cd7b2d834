//! Runs [`schedule`] for waiting pods, binds them, and tells those that fit nowhere why.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use causeway_proto::{
    Kind, Resource,
    event::EventType,
    time,
    v1::{Condition, Node, Pod, Service},
};

use super::{Snapshot, assumed::Assumed, schedule};
use crate::{
    api::Registry,
    reconcile::{
        EventRecorder,
        driver::{Pass, ReconcileError, Reconciler},
        objects::{condition, set_condition, typed},
        pod_state,
    },
};

/// `spec.schedulerName` of the pods that this scheduler places.
pub const SCHEDULER_NAME: &str = "default-scheduler";
const SCHEDULED: &str = "PodScheduled";
const UNSCHEDULABLE: &str = "Unschedulable";

/// The default scheduler.
pub struct Scheduler {
    registry: Registry,
    events: EventRecorder,
    assumed: Mutex<Assumed>,
}

/// What to do with a waiting pod.
#[derive(Debug)]
pub enum Work {
    /// Bind it.
    Bind {
        /// The pod.
        pod: Box<Pod>,
        /// The node.
        node: String,
    },
    /// Say that it fits nowhere.
    Mark {
        /// The pod.
        pod: Box<Pod>,
        /// Why.
        message: String,
    },
}

impl Scheduler {
    /// Works through the registry; events are recorded under the scheduler's name.
    pub fn new(registry: Registry, events: &EventRecorder) -> Self {
        Self {
            registry,
            events: events.named(SCHEDULER_NAME),
            assumed: Mutex::default(),
        }
    }

    fn assumed(&self) -> MutexGuard<'_, Assumed> {
        self.assumed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), ReconcileError> {
        let meta = pod.meta();
        match self.registry.bind(&meta.namespace, &meta.name, &meta.uid, node).await {
            Ok(_) => {
                let message = format!("Successfully assigned {} to {node}", meta.key());
                self.events.record(pod, EventType::Normal, "Scheduled", message);
                Ok(())
            }
            Err(error) => {
                self.assumed().remove(&meta.uid);
                Err(ReconcileError::api(format!(
                    "binding pod {} to node {node}",
                    meta.key()
                ))(error))
            }
        }
    }

    async fn mark(&self, pod: Pod, message: String) -> Result<(), ReconcileError> {
        self.events
            .record(&pod, EventType::Warning, "FailedScheduling", message.clone());
        let key = pod.key();
        let mut pod = pod;
        if !set_condition(
            &mut pod.status.get_or_insert_default().conditions,
            unschedulable(message),
        ) {
            return Ok(());
        }
        let result = self.registry.update_status(pod.into_object(), false).await;
        result
            .map(drop)
            .map_err(ReconcileError::api(format!("marking pod {key} as unschedulable")))
    }
}

fn unschedulable(message: String) -> Condition {
    Condition {
        r#type: SCHEDULED.to_owned(),
        status: "False".to_owned(),
        reason: UNSCHEDULABLE.to_owned(),
        message,
        last_transition_time: Some(time::now()),
        ..Condition::default()
    }
}

fn is_waiting(pod: &Pod) -> bool {
    let ours = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_empty() && matches!(spec.scheduler_name.as_str(), "" | SCHEDULER_NAME));
    ours && pod_state::is_active(pod)
}

fn says(pod: &Pod, message: &str) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .map_or(&[][..], |status| status.conditions.as_slice());
    condition(conditions, SCHEDULED).is_some_and(|said| said.status == "False" && said.message == message)
}

/// Plans for all waiting pods, oldest first; each finds those before it placed.
pub(super) fn plan<'a>(mut snapshot: Snapshot<'a>, waiting: impl IntoIterator<Item = &'a Pod>) -> Pass<Work> {
    let mut pass = Pass::default();
    let mut waiting: Vec<&Pod> = waiting.into_iter().collect();
    let age = |pod: &Pod| {
        pod.meta()
            .creation_timestamp
            .map_or((0, 0), |time| (time.seconds, time.nanos))
    };
    waiting.sort_by_cached_key(|pod| (age(pod), pod.key()));
    for pod in waiting {
        match schedule(pod, &snapshot) {
            Ok(node) => {
                snapshot.place(pod, &node);
                pass.work.insert(
                    pod.key(),
                    Work::Bind {
                        pod: Box::new(pod.clone()),
                        node,
                    },
                );
            }
            Err(reasons) => {
                let message = reasons.to_string();
                if !says(pod, &message) {
                    pass.work.insert(
                        pod.key(),
                        Work::Mark {
                            pod: Box::new(pod.clone()),
                            message,
                        },
                    );
                }
            }
        }
    }
    pass
}

#[async_trait]
impl Reconciler for Scheduler {
    type Work = Work;

    fn name(&self) -> &'static str {
        SCHEDULER_NAME
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Node, Kind::Service]
    }

    fn plan(&self) -> Pass<Work> {
        let [pods, nodes, services] =
            [Kind::Pod, Kind::Node, Kind::Service].map(|kind| self.registry.cache(kind).snapshot());
        let mut assumed = self.assumed();
        assumed.settle(typed::<Pod>(&pods));
        let mut snapshot = Snapshot::new(typed::<Node>(&nodes), typed::<Pod>(&pods), typed::<Service>(&services));
        let mut waiting = Vec::new();
        for pod in typed::<Pod>(&pods).filter(|pod| is_waiting(pod)) {
            match assumed.node(&pod.meta().uid) {
                Some(node) => snapshot.place(pod, node),
                None => waiting.push(pod),
            }
        }
        plan(snapshot, waiting)
    }

    fn begin(&self, _key: &str, work: &Work) {
        if let Work::Bind { pod, node } = work {
            self.assumed().insert(&pod.meta().uid, node);
        }
    }

    async fn execute(&self, _key: &str, work: Work) -> Result<(), ReconcileError> {
        match work {
            Work::Bind { pod, node } => self.bind(&pod, &node).await,
            Work::Mark { pod, message } => self.mark(*pod, message).await,
        }
    }
}
