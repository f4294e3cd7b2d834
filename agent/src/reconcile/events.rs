//! Events: what happened to which object, told to the control plane without ever holding anyone up.
//!
//! Whoever reports an event puts it in a bounded queue and goes on. One task writes them; repetitions of an event are
//! counted in one object instead of making new ones.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use causeway_proto::{
    Resource,
    client::{Backoff, Client, ClientError},
    event::{EventType, shortened},
    v1::{Event, EventSource, ObjectMeta, ObjectReference},
};
use tokio::sync::mpsc;

/// Events waiting to be written; more are dropped, oldest first come.
const QUEUE: usize = 1024;
/// Repetitions are written at most this often per event.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// An event that did not repeat for so long is written anew when it does.
const FORGET_AFTER: Duration = Duration::from_hours(1);

/// Something that happened.
#[derive(Clone, PartialEq, Debug)]
struct Happening {
    about: ObjectReference,
    event_type: EventType,
    reason: &'static str,
    message: String,
    at: SystemTime,
}

/// Takes events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Happening>,
}

impl Recorder {
    /// Starts the writing task; events carry `component` and `host` as their source. It ends with the last recorder.
    pub fn start(client: Client, component: &str, host: &str) -> Self {
        let (queue, happenings) = mpsc::channel(QUEUE);
        let source = EventSource {
            component: component.to_owned(),
            host: host.to_owned(),
        };
        tokio::spawn(write_all(client, source, happenings));
        Self { queue }
    }

    /// A recorder that keeps nothing, for tests.
    #[cfg(test)]
    pub fn disconnected() -> Self {
        Self {
            queue: mpsc::channel(1).0,
        }
    }

    /// Records that something happened to `object`. Never blocks; without room in the queue the event is only logged.
    pub fn record<T: Resource>(
        &self,
        object: &T,
        event_type: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.record_about(reference(object), event_type, reason, message);
    }

    /// Records that something happened to the object referred to.
    pub fn record_about(
        &self,
        about: ObjectReference,
        event_type: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let message = message.into();
        let object = format!("{} {}/{}", about.kind, about.namespace, about.name);
        match event_type {
            EventType::Normal => tracing::info!(object, reason, "{message}"),
            EventType::Warning => tracing::warn!(object, reason, "{message}"),
        }
        let happening = Happening {
            about,
            event_type,
            reason,
            message,
            at: SystemTime::now(),
        };
        if let Err(mpsc::error::TrySendError::Full(lost)) = self.queue.try_send(happening) {
            tracing::debug!(reason = lost.reason, "event queue is full, event dropped");
        }
    }
}

/// A reference to `object`.
pub fn reference<T: Resource>(object: &T) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        kind: T::KIND.name().to_owned(),
        api_version: T::KIND.api_version().to_owned(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: String::new(),
    }
}

async fn write_all(client: Client, source: EventSource, mut happenings: mpsc::Receiver<Happening>) {
    let mut known = Aggregator::new(source);
    let mut tick = tokio::time::interval(REPEAT_INTERVAL);
    loop {
        let due = tokio::select! {
            happening = happenings.recv() => match happening {
                Some(happening) => known.note(happening).into_iter().collect(),
                None => return,
            },
            _ = tick.tick() => known.due(SystemTime::now()),
        };
        for key in due {
            write(&client, &mut known, &key).await;
        }
    }
}

/// Writes one event, waiting for the control plane as long as it takes; one that is refused is dropped.
async fn write(client: &Client, known: &mut Aggregator, key: &Key) {
    let mut backoff = Backoff::default();
    while let Some(event) = known.written_form(key) {
        let created = event.meta().resource_version.is_empty();
        let answer = if created {
            client.create(event).await
        } else {
            client.update(event).await
        };
        match answer {
            Ok(stored) => return known.stored(key, stored),
            // The object was collected, or somebody else changed it: begin a new one.
            Err(error) if !created && (error.is_not_found() || error.is_conflict()) => known.renew(key),
            Err(error) if error.is_unavailable() => tokio::time::sleep(backoff.next_delay()).await,
            Err(error) => return refuse(known, key, &error),
        }
    }
}

fn refuse(known: &mut Aggregator, key: &Key, error: &ClientError) {
    // The namespace of a pod that goes with it takes no more events.
    tracing::debug!(reason = key.reason, %error, "event refused");
    known.forget(key);
}

/// What makes two happenings the same event.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    uid: String,
    name: String,
    reason: &'static str,
    message: String,
}

#[derive(Debug)]
struct Known {
    event: Event,
    /// Happened since it was last written.
    dirty: bool,
    written_at: Option<SystemTime>,
}

/// Counts repetitions. Pure.
#[derive(Debug)]
struct Aggregator {
    source: EventSource,
    events: HashMap<Key, Known>,
}

impl Aggregator {
    fn new(source: EventSource) -> Self {
        Self {
            source,
            events: HashMap::new(),
        }
    }

    /// Takes a happening; answers its key when it should be written now.
    fn note(&mut self, happening: Happening) -> Option<Key> {
        let key = Key {
            uid: happening.about.uid.clone(),
            name: happening.about.name.clone(),
            reason: happening.reason,
            message: happening.message.clone(),
        };
        let at = happening.at;
        let source = &self.source;
        let known = self.events.entry(key.clone()).or_insert_with(|| Known {
            event: fresh(happening, source),
            dirty: false,
            written_at: None,
        });
        if known.written_at.is_some() {
            known.event.count = known.event.count.saturating_add(1);
            known.event.last_timestamp = Some(stamp(at));
        }
        known.dirty = true;
        let recently = known.written_at.is_some_and(|last| since(last, at) < REPEAT_INTERVAL);
        (!recently).then_some(key)
    }

    /// Keys of the events that repeated since they were written. Forgets the old ones.
    fn due(&mut self, now: SystemTime) -> Vec<Key> {
        self.events
            .retain(|_, known| known.dirty || known.written_at.is_none_or(|at| since(at, now) < FORGET_AFTER));
        self.events
            .iter()
            .filter(|(_, known)| known.dirty)
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn written_form(&self, key: &Key) -> Option<Event> {
        self.events.get(key).map(|known| known.event.clone())
    }

    fn stored(&mut self, key: &Key, stored: Event) {
        if let Some(known) = self.events.get_mut(key) {
            *known = Known {
                event: stored,
                dirty: false,
                written_at: Some(SystemTime::now()),
            };
        }
    }

    fn renew(&mut self, key: &Key) {
        if let Some(known) = self.events.get_mut(key) {
            let meta = known.event.meta_mut();
            let (namespace, about) = (meta.namespace.clone(), key.name.clone());
            *meta = metadata(&about, namespace, SystemTime::now());
        }
    }

    fn forget(&mut self, key: &Key) {
        self.events.remove(key);
    }
}

fn fresh(happening: Happening, source: &EventSource) -> Event {
    let Happening {
        about,
        event_type,
        reason,
        message,
        at,
    } = happening;
    let namespace = if about.namespace.is_empty() {
        "default"
    } else {
        &about.namespace
    };
    Event {
        metadata: Some(metadata(&about.name, namespace.to_owned(), at)),
        involved_object: Some(about),
        reason: reason.to_owned(),
        message: shortened(message),
        source: Some(source.clone()),
        first_timestamp: Some(stamp(at)),
        last_timestamp: Some(stamp(at)),
        count: 1,
        r#type: event_type.name().to_owned(),
    }
}

fn metadata(about: &str, namespace: String, at: SystemTime) -> ObjectMeta {
    let nanos = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    // Room for the suffix in a name of 253 bytes.
    let stem = about.chars().take(230).collect::<String>();
    ObjectMeta {
        name: format!("{stem}.{nanos:016x}"),
        namespace,
        ..ObjectMeta::default()
    }
}

fn since(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

fn stamp(at: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp { nanos: 0, ..at.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happening(message: &str, second: u64) -> Happening {
        Happening {
            about: ObjectReference {
                kind: "Pod".into(),
                namespace: "shop".into(),
                name: "web".into(),
                uid: "u".into(),
                ..ObjectReference::default()
            },
            event_type: EventType::Warning,
            reason: "Unhealthy",
            message: message.into(),
            at: UNIX_EPOCH + Duration::from_secs(second),
        }
    }

    fn aggregator() -> Aggregator {
        Aggregator::new(EventSource {
            component: "causeway-agent".into(),
            host: "node-1".into(),
        })
    }

    #[test]
    fn the_first_of_a_kind_is_written_at_once_beside_its_object() {
        let mut known = aggregator();
        let key = known.note(happening("status 503", 1)).unwrap();
        let event = known.written_form(&key).unwrap();
        assert_eq!(
            (event.count, event.r#type.as_str(), event.meta().namespace.as_str()),
            (1, "Warning", "shop")
        );
        assert!(event.meta().name.starts_with("web."));
        assert!(known.note(happening("status 500", 1)).is_some());
    }

    #[test]
    fn repetitions_are_counted_in_one_object_and_written_later() {
        let mut known = aggregator();
        let key = known.note(happening("status 503", 1)).unwrap();
        let now = SystemTime::now();
        let mut stored = known.written_form(&key).unwrap();
        stored.meta_mut().resource_version = "7".into();
        known.stored(&key, stored);
        for _ in 0..3 {
            assert_eq!(
                known.note(Happening {
                    at: now,
                    ..happening("status 503", 1)
                }),
                None
            );
        }
        assert_eq!(known.due(now), std::slice::from_ref(&key));
        let event = known.written_form(&key).unwrap();
        assert_eq!((event.count, event.meta().resource_version.as_str()), (4, "7"));
        known.stored(&key, event);
        assert_eq!(known.due(SystemTime::now()), []);
        assert_eq!(
            known.note(Happening {
                at: now + 2 * REPEAT_INTERVAL,
                ..happening("status 503", 1)
            }),
            Some(key)
        );
    }

    #[test]
    fn an_object_that_was_collected_is_begun_anew_with_its_count() {
        let mut known = aggregator();
        let key = known.note(happening("x", 1)).unwrap();
        let mut stored = known.written_form(&key).unwrap();
        stored.meta_mut().resource_version = "7".into();
        stored.count = 5;
        known.stored(&key, stored);
        known.renew(&key);
        let event = known.written_form(&key).unwrap();
        assert_eq!(
            (
                event.count,
                event.meta().resource_version.as_str(),
                event.meta().namespace.as_str()
            ),
            (5, "", "shop")
        );
    }

    #[test]
    fn what_has_not_repeated_for_long_is_forgotten() {
        let mut known = aggregator();
        let key = known.note(happening("x", 1)).unwrap();
        let event = known.written_form(&key).unwrap();
        known.stored(&key, event);
        assert_eq!(known.due(SystemTime::now() + 2 * FORGET_AFTER), []);
        assert!(known.written_form(&key).is_none());
    }
}
