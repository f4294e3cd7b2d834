//! Endpoints: where a service's traffic can go.

use std::collections::HashMap;

use async_trait::async_trait;
use causeway_proto::{
    Kind, Resource,
    event::EventType,
    v1::{Endpoints, Node, Pod, Preconditions, Service},
};

use super::{
    driver::{Pass, ReconcileError, Reconciler},
    events::EventRecorder,
    objects::typed,
    pod_state,
};
use crate::api::{DeleteOptions, Registry};

mod plan;

use plan::{Cluster, Desired};

const COMPONENT: &str = "endpoints-controller";

/// The reconciler.
pub struct EndpointsReconciler {
    registry: Registry,
    events: EventRecorder,
}

/// What to do with the endpoints of a name.
#[derive(Debug, PartialEq)]
pub enum Work {
    /// Make them.
    Create(Box<Endpoints>, Box<Service>),
    /// Replace them; the version is in their metadata.
    Update(Box<Endpoints>, Box<Service>),
    /// Their service is gone.
    Delete {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// What is to be deleted, and nothing newer.
        preconditions: Preconditions,
    },
}

impl EndpointsReconciler {
    /// Works through the registry.
    pub fn new(registry: Registry, events: &EventRecorder) -> Self {
        Self {
            registry,
            events: events.named(COMPONENT),
        }
    }
}

/// Plans for all services.
fn plan<'a>(
    services: impl Iterator<Item = &'a Service>,
    endpoints: impl Iterator<Item = &'a Endpoints>,
    cluster: &Cluster<'a>,
) -> Pass<Work> {
    let mut pass = Pass::default();
    let mut present: HashMap<String, &Endpoints> = endpoints.map(|endpoints| (endpoints.key(), endpoints)).collect();
    for service in services {
        let key = service.key();
        let present = present.remove(&key);
        let Some(wanted) = Desired::of(service, cluster) else {
            continue;
        };
        if present.is_some_and(|present| wanted.is(present)) {
            continue;
        }
        let endpoints = Box::new(wanted.into_endpoints(service, present));
        let service = Box::new(service.clone());
        let work = match present {
            None => Work::Create(endpoints, service),
            Some(_) => Work::Update(endpoints, service),
        };
        pass.work.insert(key, work);
    }
    // Only what was made for a service goes with it: endpoints that somebody wrote may wait for theirs.
    for (key, left) in present
        .into_iter()
        .filter(|(_, left)| plan::service_uid(left).is_some())
    {
        let meta = left.meta();
        let preconditions = Preconditions {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        };
        let work = Work::Delete {
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            preconditions,
        };
        pass.work.insert(key, work);
    }
    pass
}

#[async_trait]
impl Reconciler for EndpointsReconciler {
    type Work = Work;

    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::Pod, Kind::Node, Kind::Endpoints]
    }

    fn plan(&self) -> Pass<Work> {
        let [services, pods, nodes, endpoints] =
            [Kind::Service, Kind::Pod, Kind::Node, Kind::Endpoints].map(|kind| self.registry.cache(kind).snapshot());
        let ready = typed::<Node>(&nodes).filter(|node| pod_state::node_is_ready(node));
        let cluster = Cluster::new(typed::<Pod>(&pods), ready.map(|node| node.meta().name.as_str()));
        plan(typed::<Service>(&services), typed::<Endpoints>(&endpoints), &cluster)
    }

    async fn execute(&self, key: &str, work: Work) -> Result<(), ReconcileError> {
        let (result, service) = match work {
            Work::Create(endpoints, service) => {
                match self.registry.create(endpoints.into_object(), false).await {
                    // The cache will show them.
                    Err(error) if error.is_already_exists() => (Ok(()), None),
                    result => (result.map(drop), Some(service)),
                }
            }
            Work::Update(endpoints, service) => (
                self.registry.update(endpoints.into_object(), false).await.map(drop),
                Some(service),
            ),
            Work::Delete {
                namespace,
                name,
                preconditions,
            } => {
                let options = DeleteOptions {
                    preconditions,
                    ..DeleteOptions::default()
                };
                (
                    self.registry
                        .delete(Kind::Endpoints, &namespace, &name, &options)
                        .await
                        .map(drop),
                    None,
                )
            }
        };
        if let (Err(error), Some(service)) = (&result, service)
            && !error.is_conflict()
            && !error.is_not_found()
        {
            let message = format!("Failed to update endpoints {key}: {}", super::driver::chain(error));
            self.events
                .record(&*service, EventType::Warning, "FailedToUpdateEndpoint", message);
        }
        result.map_err(ReconcileError::api(format!("writing endpoints {key}")))
    }
}

#[cfg(test)]
mod tests;
