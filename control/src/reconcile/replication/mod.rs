//! Replication controllers: as many pods as asked for, no more and no fewer.

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
    v1::{Condition, Pod, ReplicationController, ReplicationControllerStatus},
};
use futures::future::join_all;

use super::{
    driver::{Pass, ReconcileError, Reconciler, chain},
    events::EventRecorder,
    live,
    objects::{controller_reference, typed},
};
use crate::api::{ApiError, DeleteOptions, Registry};

mod claim;
mod expectations;
mod plan;
mod rank;
mod status;

use expectations::Expectations;
use plan::{Plan, plan};

const COMPONENT: &str = "replication-controller";
/// Condition that tells of pods which cannot be created or deleted.
const REPLICA_FAILURE: &str = "ReplicaFailure";
/// First batch of creations; each one that succeeds doubles the next.
const FIRST_BATCH: usize = 1;

/// The reconciler.
pub struct Replication {
    registry: Registry,
    events: EventRecorder,
    memory: Mutex<Memory>,
}

/// What is known beyond the objects; by controller uid. All of it may be lost.
#[derive(Default)]
struct Memory {
    expectations: HashMap<String, Expectations>,
    /// Why creations or deletions fail.
    failures: HashMap<String, Condition>,
}

/// What to do for one controller.
pub struct Work {
    controller: ReplicationController,
    plan: Plan,
}

impl Replication {
    /// Works through the registry.
    pub fn new(registry: Registry, events: &EventRecorder) -> Self {
        Self {
            registry,
            events: events.named(COMPONENT),
            memory: Mutex::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn adopt(&self, controller: &ReplicationController, pod: Pod) -> Result<(), ReconcileError> {
        let meta = controller.meta();
        // The cache may not know yet that the controller is being deleted, or that another one has its name.
        let present = live::get(&self.registry, Kind::ReplicationController, &meta.namespace, &meta.name).await;
        let present = present.map_err(ReconcileError::api(format!("reading {}", meta.key())))?;
        let stays = present.is_some_and(|present| {
            present
                .meta()
                .is_some_and(|present| present.uid == meta.uid && !present.is_terminating())
        });
        if !stays {
            return Err(ReconcileError::NotYet(format!(
                "controller {} is going away",
                meta.key()
            )));
        }
        let key = pod.key();
        let mut pod = pod;
        pod.meta_mut().owner_references.push(controller_reference(controller));
        let result = self.registry.update(pod.into_object(), false).await;
        result
            .map(drop)
            .map_err(ReconcileError::api(format!("adopting pod {key}")))
    }

    async fn release(&self, controller: &ReplicationController, pod: Pod) -> Result<(), ReconcileError> {
        let key = pod.key();
        let mut pod = pod;
        pod.meta_mut()
            .owner_references
            .retain(|owner| owner.uid != controller.meta().uid);
        let result = self.registry.update(pod.into_object(), false).await;
        result
            .map(drop)
            .map_err(ReconcileError::api(format!("releasing pod {key}")))
    }

    /// In batches that double as long as all is well, so that a template that is always refused costs one request, not hundreds.
    async fn create_all(&self, controller: &ReplicationController, count: usize) -> Result<(), ReconcileError> {
        let mut left = count;
        let mut batch = FIRST_BATCH;
        while left > 0 {
            let results = join_all((0..batch.min(left)).map(|_| self.create(controller))).await;
            left -= results.len();
            for result in results {
                result?;
            }
            batch *= 2;
        }
        Ok(())
    }

    async fn create(&self, controller: &ReplicationController) -> Result<(), ReconcileError> {
        let key = controller.key();
        match self.registry.create(new_pod(controller).into_object(), false).await {
            Ok(created) => {
                let meta = created.meta().cloned().unwrap_or_default();
                self.expect(controller, |expectations| {
                    expectations.created(&meta.uid, Instant::now());
                });
                let message = format!("Created pod: {}", meta.name);
                self.events
                    .record(controller, EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                let text = chain(&error);
                self.events.record(
                    controller,
                    EventType::Warning,
                    "FailedCreate",
                    format!("Error creating: {text}"),
                );
                self.remember_failure(controller, "FailedCreate", text);
                if matches!(error, ApiError::Store(_) | ApiError::Unavailable(_)) {
                    // It may have been created all the same: look again only when the caches must show it.
                    let bound = Duration::from_secs(10);
                    live::settle(&self.registry, &[Kind::Pod], bound)
                        .await
                        .map_err(ReconcileError::api(format!(
                            "waiting for the store after creating a pod for {key}"
                        )))?;
                }
                Err(ReconcileError::api(format!("creating a pod for {key}"))(error))
            }
        }
    }

    async fn delete(&self, controller: &ReplicationController, pod: &Pod) -> Result<(), ReconcileError> {
        let meta = pod.meta();
        self.expect(controller, |expectations| {
            expectations.deleted(&meta.uid, Instant::now());
        });
        let options = DeleteOptions::only_uid(&meta.uid);
        match self
            .registry
            .delete(Kind::Pod, &meta.namespace, &meta.name, &options)
            .await
        {
            Ok(_) => {
                let message = format!("Deleted pod: {}", meta.name);
                self.events
                    .record(controller, EventType::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) => {
                self.expect(controller, |expectations| expectations.not_deleted(&meta.uid));
                if error.is_not_found() {
                    return Ok(());
                }
                let text = chain(&error);
                self.events.record(
                    controller,
                    EventType::Warning,
                    "FailedDelete",
                    format!("Error deleting: {text}"),
                );
                self.remember_failure(controller, "FailedDelete", text);
                Err(ReconcileError::api(format!("deleting pod {}", meta.key()))(error))
            }
        }
    }

    async fn write_status(
        &self,
        mut controller: ReplicationController,
        status: ReplicationControllerStatus,
    ) -> Result<(), ReconcileError> {
        let key = controller.key();
        controller.status = Some(status);
        let result = self.registry.update_status(controller.into_object(), false).await;
        result
            .map(drop)
            .map_err(ReconcileError::api(format!("writing the status of {key}")))
    }

    fn expect(&self, controller: &ReplicationController, change: impl FnOnce(&mut Expectations)) {
        change(
            self.memory()
                .expectations
                .entry(controller.meta().uid.clone())
                .or_default(),
        );
    }

    fn remember_failure(&self, controller: &ReplicationController, reason: &str, message: String) {
        let failure = Condition {
            r#type: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: Some(time::now()),
            ..Condition::default()
        };
        self.memory().failures.insert(controller.meta().uid.clone(), failure);
    }

    async fn manage(&self, controller: &ReplicationController, plan: &mut Plan) -> Result<(), ReconcileError> {
        for pod in std::mem::take(&mut plan.release) {
            self.release(controller, pod).await?;
        }
        for pod in std::mem::take(&mut plan.adopt) {
            self.adopt(controller, pod).await?;
        }
        if plan.create > 0 {
            self.create_all(controller, plan.create).await?;
        }
        let deletions = join_all(plan.delete.iter().map(|pod| self.delete(controller, pod))).await;
        deletions.into_iter().collect::<Result<(), _>>()?;
        if plan.create > 0 || !plan.delete.is_empty() {
            self.memory().failures.remove(&controller.meta().uid);
        }
        Ok(())
    }
}

/// A pod as the template says, managed by the controller.
fn new_pod(controller: &ReplicationController) -> Pod {
    let meta = controller.meta();
    let template = controller
        .spec
        .as_ref()
        .and_then(|spec| spec.template.clone())
        .unwrap_or_default();
    let mut pod = Pod {
        metadata: None,
        spec: template.spec,
        status: None,
    };
    let from = template.metadata.unwrap_or_default();
    let to = pod.meta_mut();
    to.generate_name = format!("{}-", meta.name);
    to.namespace.clone_from(&meta.namespace);
    to.labels = from.labels;
    to.annotations = from.annotations;
    to.finalizers = from.finalizers;
    to.owner_references = vec![controller_reference(controller)];
    pod
}

#[async_trait]
impl Reconciler for Replication {
    type Work = Work;

    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::ReplicationController, Kind::Pod]
    }

    fn plan(&self) -> Pass<Work> {
        let controllers = self.registry.cache(Kind::ReplicationController).snapshot();
        let pods = self.registry.cache(Kind::Pod).snapshot();
        let mut by_namespace: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in typed::<Pod>(&pods) {
            by_namespace.entry(&pod.meta().namespace).or_default().push(pod);
        }
        let (now, instant) = (time::now_micro(), Instant::now());
        let mut memory = self.memory();
        let mut pass = Pass::default();
        let mut alive = std::collections::HashSet::new();
        for controller in typed::<ReplicationController>(&controllers) {
            let uid = &controller.meta().uid;
            alive.insert(uid.as_str());
            let pods = by_namespace
                .get(controller.meta().namespace.as_str())
                .map_or(&[][..], Vec::as_slice);
            let settled = memory
                .expectations
                .get_mut(uid)
                .is_none_or(|expectations| expectations.settle(pods, instant));
            let plan = plan(controller, pods, settled, memory.failures.get(uid), now);
            if let Some(delay) = plan.again_in {
                pass.look_again_in(delay);
            }
            if plan.has_work() {
                pass.work.insert(
                    controller.key(),
                    Work {
                        controller: controller.clone(),
                        plan,
                    },
                );
            }
        }
        memory.expectations.retain(|uid, _| alive.contains(uid.as_str()));
        memory.failures.retain(|uid, _| alive.contains(uid.as_str()));
        pass
    }

    async fn execute(&self, _key: &str, mut work: Work) -> Result<(), ReconcileError> {
        let managed = self.manage(&work.controller, &mut work.plan).await;
        // Also after a failure: it tells of it.
        let written = match work.plan.status {
            Some(status) => self.write_status(work.controller, status).await,
            None => Ok(()),
        };
        managed.and(written)
    }
}
