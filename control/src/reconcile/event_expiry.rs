//! Deletes events that are old, and the oldest when there are too many.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use causeway_proto::{
    Kind, Resource, time,
    v1::{Event, Preconditions},
};
use futures::future::join_all;
use prost_types::Timestamp;

use super::{
    driver::{Pass, ReconcileError, Reconciler},
    objects::typed,
};
use crate::api::{DeleteOptions, Registry};

/// Deletions that are one piece of work.
const BATCH: usize = 200;

/// How long events are kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From their last repetition.
    pub age: Duration,
    /// All together.
    pub count: usize,
}

impl Default for Limits {
    /// An hour, as in Kubernetes.
    fn default() -> Self {
        Self {
            age: Duration::from_hours(1),
            count: 10_000,
        }
    }
}

/// The reconciler.
pub struct EventExpiry {
    registry: Registry,
    limits: Limits,
}

impl EventExpiry {
    /// Works through the registry.
    pub fn new(registry: Registry, limits: Limits) -> Self {
        Self { registry, limits }
    }
}

fn last_seen(event: &Event) -> Timestamp {
    let stamps = [
        event.last_timestamp,
        event.first_timestamp,
        event.meta().creation_timestamp,
    ];
    stamps.into_iter().flatten().next().unwrap_or_default()
}

/// The events to delete.
pub fn plan<'a>(events: impl IntoIterator<Item = &'a Event>, limits: &Limits, now: Timestamp) -> Vec<&'a Event> {
    let mut events: Vec<&Event> = events.into_iter().collect();
    events.sort_by_cached_key(|event| {
        let seen = last_seen(event);
        (seen.seconds, seen.nanos, event.key())
    });
    let surplus = events.len().saturating_sub(limits.count);
    let is_old = |event: &&Event| time::seconds_between(&last_seen(event), &now) >= limits.age.as_secs_f64();
    let old = events.partition_point(is_old);
    events.truncate(surplus.max(old));
    events
}

#[async_trait]
impl Reconciler for EventExpiry {
    type Work = Vec<Event>;

    fn name(&self) -> &'static str {
        "event-expiry"
    }

    fn sources(&self) -> &'static [Kind] {
        // Only time matters.
        &[]
    }

    fn plan(&self) -> Pass<Vec<Event>> {
        let events = self.registry.cache(Kind::Event).snapshot();
        let expired = plan(typed::<Event>(&events), &self.limits, time::now());
        let batches = expired.chunks(BATCH).enumerate();
        let work: BTreeMap<_, _> = batches
            .map(|(number, batch)| {
                (
                    format!("batch {number}"),
                    batch.iter().map(|event| (*event).clone()).collect(),
                )
            })
            .collect();
        Pass { work, again_in: None }
    }

    async fn execute(&self, _key: &str, expired: Vec<Event>) -> Result<(), ReconcileError> {
        let namespaces: BTreeSet<_> = expired.iter().map(|event| event.meta().namespace.clone()).collect();
        tracing::debug!(count = expired.len(), ?namespaces, "deleting old events");
        let deletions = expired.iter().map(async |event| {
            let meta = event.meta();
            let preconditions = Preconditions {
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
            };
            let options = DeleteOptions {
                preconditions,
                ..DeleteOptions::default()
            };
            match self
                .registry
                .delete(Kind::Event, &meta.namespace, &meta.name, &options)
                .await
            {
                // Repeated meanwhile, so it is not old any more; or gone.
                Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
                other => other
                    .map(drop)
                    .map_err(ReconcileError::api(format!("deleting event {}", meta.key()))),
            }
        });
        join_all(deletions).await.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, seconds: i64) -> Event {
        let mut event = Event {
            last_timestamp: Some(Timestamp { seconds, nanos: 0 }),
            ..Event::default()
        };
        event.meta_mut().name = name.into();
        event
    }

    fn expired(events: &[Event], age: u64, count: usize, now: i64) -> Vec<&str> {
        let limits = Limits {
            age: Duration::from_secs(age),
            count,
        };
        let expired = plan(events, &limits, Timestamp { seconds: now, nanos: 0 });
        expired.into_iter().map(|event| event.meta().name.as_str()).collect()
    }

    #[test]
    fn old_events_go_and_the_oldest_of_too_many() {
        let events = [event("c", 30), event("a", 10), event("b", 20)];
        assert_eq!(expired(&events, 100, 10, 50), Vec::<&str>::new());
        assert_eq!(expired(&events, 30, 10, 50), ["a", "b"]);
        assert_eq!(expired(&events, 100, 2, 50), ["a"]);
        assert_eq!(expired(&events, 30, 0, 50), ["a", "b", "c"]);
    }
}
