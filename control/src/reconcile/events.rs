//! Writing of events: what happened to which object, for people. Never in the way of what it reports, and never more than needed:
//! the same event again only counts up.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::Duration,
};

use causeway_proto::{
    Resource,
    event::{EventType, shortened},
    time,
    v1::{Event, EventSource, ObjectMeta, ObjectReference},
};
use rand::RngExt;
use tokio::{sync::mpsc, time::Instant};

use super::objects::reference;
use crate::api::Registry;

/// Events that wait to be written; more are dropped.
const QUEUE: usize = 1024;
/// Events remembered to be counted up.
const REMEMBERED: usize = 4096;
/// Repetitions within this time are one write.
const FLUSH: Duration = Duration::from_millis(500);

/// What makes two events the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    namespace: String,
    kind: String,
    name: String,
    uid: String,
    event_type: EventType,
    reason: String,
    message: String,
    component: &'static str,
}

/// Records events of one component. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct EventRecorder {
    component: &'static str,
    queue: mpsc::Sender<(Identity, ObjectReference)>,
}

impl EventRecorder {
    /// Starts the task that writes; it ends with the last clone.
    pub fn start(registry: Registry, component: &'static str) -> Self {
        let (queue, received) = mpsc::channel(QUEUE);
        tokio::spawn(
            Writer {
                registry,
                seen: HashMap::new(),
                order: VecDeque::new(),
            }
            .run(received),
        );
        Self { component, queue }
    }

    /// The same writer under another component's name.
    #[must_use]
    pub fn named(&self, component: &'static str) -> Self {
        Self {
            component,
            queue: self.queue.clone(),
        }
    }

    /// Records something that happened to an object.
    pub fn record<T: Resource>(&self, object: &T, event_type: EventType, reason: &str, message: impl Into<String>) {
        self.record_about(reference(object), event_type, reason, message);
    }

    /// Records something that happened to an object that is only known by reference.
    pub fn record_about(
        &self,
        about: ObjectReference,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let identity = Identity {
            namespace: about.namespace.clone(),
            kind: about.kind.clone(),
            name: about.name.clone(),
            uid: about.uid.clone(),
            event_type,
            reason: reason.to_owned(),
            message: shortened(message.into()),
            component: self.component,
        };
        if let Err(error) = self.queue.try_send((identity, about)) {
            tracing::warn!(reason, %error, "dropped an event");
        }
    }
}

/// An event that was written, and what of it was not yet.
struct Record {
    about: ObjectReference,
    /// As stored; `None` before the first write.
    written: Option<Event>,
    unwritten: i32,
}

struct Writer {
    registry: Registry,
    seen: HashMap<Identity, Record>,
    /// Oldest first, to forget.
    order: VecDeque<Identity>,
}

impl Writer {
    async fn run(mut self, mut received: mpsc::Receiver<(Identity, ObjectReference)>) {
        let mut dirty: Vec<Identity> = Vec::new();
        let mut flush_at: Option<Instant> = None;
        loop {
            let flush = async {
                match flush_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = received.recv() => {
                    let Some((identity, about)) = event else { break };
                    if self.count(&identity, about) {
                        // The first of its kind is news: it does not wait.
                        self.write(&identity).await;
                    } else {
                        if !dirty.contains(&identity) {
                            dirty.push(identity);
                        }
                        flush_at.get_or_insert_with(|| Instant::now() + FLUSH);
                    }
                }
                () = flush => {
                    flush_at = None;
                    for identity in std::mem::take(&mut dirty) {
                        self.write(&identity).await;
                    }
                }
            }
        }
        for identity in dirty {
            self.write(&identity).await;
        }
    }

    /// True if it was not known.
    fn count(&mut self, identity: &Identity, about: ObjectReference) -> bool {
        match self.seen.entry(identity.clone()) {
            Entry::Occupied(mut known) => {
                known.get_mut().unwritten += 1;
                return false;
            }
            Entry::Vacant(free) => free.insert(Record {
                about,
                written: None,
                unwritten: 1,
            }),
        };
        self.order.push_back(identity.clone());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }

    async fn write(&mut self, identity: &Identity) {
        let Some(record) = self.seen.get_mut(identity) else {
            return;
        };
        let result = match record.written.clone() {
            Some(mut event) => {
                event.count += record.unwritten;
                event.last_timestamp = Some(time::now());
                event.meta_mut().resource_version.clear();
                match self.registry.update(event.into_object(), false).await {
                    // It has expired meanwhile.
                    Err(error) if error.is_not_found() => create(&self.registry, identity, record).await,
                    other => other,
                }
            }
            None => create(&self.registry, identity, record).await,
        };
        match result {
            Ok(object) => {
                record.unwritten = 0;
                record.written = Event::from_object(object);
            }
            // The next repetition tries again; an event is not worth more.
            Err(error) => {
                tracing::debug!(
                    reason = identity.reason,
                    error = super::driver::chain(&error),
                    "cannot write an event"
                );
                record.written = None;
            }
        }
    }
}

async fn create(
    registry: &Registry,
    identity: &Identity,
    record: &Record,
) -> Result<causeway_proto::v1::Object, crate::api::ApiError> {
    registry.create(event_of(identity, record).into_object(), false).await
}

fn event_of(identity: &Identity, record: &Record) -> Event {
    let now = time::now();
    // Events about objects of the cluster live in the default namespace.
    let namespace = if identity.namespace.is_empty() {
        "default"
    } else {
        &identity.namespace
    };
    let suffix: u64 = rand::rng().random();
    let metadata = ObjectMeta {
        name: format!("{}.{suffix:016x}", identity.name),
        namespace: namespace.to_owned(),
        ..ObjectMeta::default()
    };
    Event {
        metadata: Some(metadata),
        involved_object: Some(record.about.clone()),
        reason: identity.reason.clone(),
        message: identity.message.clone(),
        source: Some(EventSource {
            component: identity.component.to_owned(),
            host: String::new(),
        }),
        first_timestamp: Some(now),
        last_timestamp: Some(now),
        count: record.unwritten.max(1),
        r#type: identity.event_type.name().to_owned(),
    }
}
