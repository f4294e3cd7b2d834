//! Garbage collection by owner references.
//!
//! An object whose owners are all gone goes too. An owner deleted with `Orphan` is held by a finalizer until what it owned has been
//! released; one deleted with `Foreground` until what it owned is gone.

use std::collections::HashMap;

use async_trait::async_trait;
use causeway_proto::{
    Kind,
    resource::ObjectKey,
    v1::{Object, OwnerReference, Preconditions},
};

use super::{
    driver::{Pass, ReconcileError, Reconciler},
    live,
};
use crate::api::{ApiError, DeleteOptions, Propagation, Registry};

mod plan;

use plan::{Action, Graph};

/// The reconciler.
pub struct GarbageCollector {
    registry: Registry,
}

impl GarbageCollector {
    /// Works through the registry.
    pub fn new(registry: Registry) -> Self {
        Self { registry }
    }

    /// Whether an owner exists now, whatever the caches show.
    async fn owner_exists(&self, namespace: &str, owner: &OwnerReference) -> Result<bool, ReconcileError> {
        // Only kinds that are known can be told to be gone.
        let Some(kind) = plan::kind_of(owner) else {
            return Ok(true);
        };
        let namespace = if kind.namespaced() { namespace } else { "" };
        let exists = live::exists(&self.registry, kind, namespace, &owner.name, &owner.uid).await;
        exists.map_err(ReconcileError::api(format!("reading {kind} {}", owner.name)))
    }

    async fn collect(&self, object: &Object) -> Result<(), ReconcileError> {
        let Some(meta) = object.meta() else { return Ok(()) };
        for owner in &meta.owner_references {
            if self.owner_exists(&meta.namespace, owner).await? {
                return Err(ReconcileError::NotYet(format!(
                    "{} has an owner after all",
                    object.title()
                )));
            }
        }
        self.delete(object, Propagation::Background).await
    }

    async fn delete(&self, object: &Object, propagation: Propagation) -> Result<(), ReconcileError> {
        let (Some(meta), Some(kind)) = (object.meta(), object.kind()) else {
            return Ok(());
        };
        tracing::info!(
            object = object.title(),
            namespace = meta.namespace,
            "collecting garbage"
        );
        let preconditions = Preconditions {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        };
        let options = DeleteOptions {
            preconditions,
            propagation,
            ..DeleteOptions::default()
        };
        let result = self.registry.delete(kind, &meta.namespace, &meta.name, &options).await;
        done(result, || format!("deleting {}", object.title()))
    }

    /// Removes owner references that name one of these uids.
    async fn disown(&self, object: &Object, owners: &[String]) -> Result<(), ReconcileError> {
        let mut object = object.clone();
        if let Some(meta) = object.meta_mut() {
            meta.owner_references.retain(|owner| !owners.contains(&owner.uid));
        }
        let title = object.title();
        done(self.registry.update(object, false).await, || {
            format!("removing owners of {title}")
        })
    }

    /// Removes owners that are gone while another one stays.
    async fn prune(&self, object: &Object, gone: &[String]) -> Result<(), ReconcileError> {
        let Some(meta) = object.meta() else { return Ok(()) };
        let mut confirmed = Vec::new();
        for owner in meta.owner_references.iter().filter(|owner| gone.contains(&owner.uid)) {
            if !self.owner_exists(&meta.namespace, owner).await? {
                confirmed.push(owner.uid.clone());
            }
        }
        if confirmed.is_empty() {
            Ok(())
        } else {
            self.disown(object, &confirmed).await
        }
    }

    async fn remove_finalizer(&self, object: &Object, finalizer: &str) -> Result<(), ReconcileError> {
        // What it owns may be newer than the caches that were planned with.
        let mut kinds = Kind::ALL.to_vec();
        kinds.retain(|kind| !matches!(kind, Kind::Event | Kind::Lease));
        let bound = std::time::Duration::from_secs(2);
        let settled = live::settle(&self.registry, &kinds, bound).await;
        settled.map_err(ReconcileError::api(format!("waiting for what {} owns", object.title())))?;
        let snapshots = self.snapshots();
        let graph = Graph::new(snapshots.values().flat_map(|objects| objects.iter().map(AsRef::as_ref)));
        if !graph.is_released(object, finalizer) {
            return Err(ReconcileError::NotYet(format!(
                "{} still owns something",
                object.title()
            )));
        }
        let mut object = object.clone();
        if let Some(meta) = object.meta_mut() {
            meta.finalizers.retain(|present| present != finalizer);
        }
        let title = object.title();
        done(self.registry.update(object, false).await, || {
            format!("removing finalizer {finalizer} of {title}")
        })
    }

    fn snapshots(&self) -> HashMap<Kind, std::sync::Arc<[std::sync::Arc<Object>]>> {
        // Events and leases own nothing and are owned by nothing that matters here; they change all the time.
        let kinds = Kind::ALL
            .iter()
            .filter(|kind| !matches!(kind, Kind::Event | Kind::Lease));
        kinds
            .map(|kind| (*kind, self.registry.cache(*kind).snapshot()))
            .collect()
    }
}

fn done(result: Result<Object, ApiError>, doing: impl FnOnce() -> String) -> Result<(), ReconcileError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other
            .map(drop)
            .map_err(|source| ReconcileError::Api { doing: doing(), source }),
    }
}

#[async_trait]
impl Reconciler for GarbageCollector {
    type Work = Action;

    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn sources(&self) -> &'static [Kind] {
        &[
            Kind::Namespace,
            Kind::Node,
            Kind::Pod,
            Kind::ReplicationController,
            Kind::Service,
            Kind::Endpoints,
        ]
    }

    fn plan(&self) -> Pass<Action> {
        let snapshots = self.snapshots();
        let graph = Graph::new(snapshots.values().flat_map(|objects| objects.iter().map(AsRef::as_ref)));
        let work = graph.plan().into_iter().filter_map(|action| {
            let key = ObjectKey::of(action.object())?;
            Some((key.to_string(), action))
        });
        Pass {
            work: work.collect(),
            again_in: None,
        }
    }

    async fn execute(&self, _key: &str, action: Action) -> Result<(), ReconcileError> {
        match action {
            Action::Collect(object) => self.collect(&object).await,
            Action::DeleteOwned(object) => self.delete(&object, Propagation::Foreground).await,
            Action::Prune { object, gone } => self.prune(&object, &gone).await,
            Action::Release { object, owner } => self.disown(&object, &[owner]).await,
            Action::RemoveFinalizer { object, finalizer } => self.remove_finalizer(&object, finalizer).await,
        }
    }
}
