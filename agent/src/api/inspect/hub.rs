//! One reader of the node's events for all who watch.
//!
//! A ring buffer has one consumer, so the agent takes events out for everybody, and only while there is anybody: then the
//! programs write events, and the lock on the events is held.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use causeway_maps::{
    events::{EventReader, EventsError, WATCH_AHEAD},
    view::{EventFilter, EventView},
};
use causeway_proto::v1::MonitorResponse;
use futures::{Stream, stream};
use tokio::{
    io::unix::AsyncFd,
    sync::broadcast::{self, Receiver, Sender, error::RecvError, error::TryRecvError},
};
use tonic::Status;

/// Events that may wait for the slowest watcher before it loses some.
const BACKLOG: usize = 16_384;
/// Events of one message.
const BATCH: usize = 256;
/// Deadlines are moved on this often.
const INTERVAL: Duration = Duration::from_millis(WATCH_AHEAD.as_millis() as u64 / 4);

/// Where watchers come and go.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    pin_dir: PathBuf,
    state: Mutex<State>,
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    sender: Option<Sender<Arc<EventView>>>,
    watchers: usize,
    packet_watchers: usize,
}

/// A watcher; leaves when it is dropped.
pub struct Subscription {
    hub: Hub,
    events: Receiver<Arc<EventView>>,
    packets: bool,
    lost_before: u64,
    lost_on_the_way: u64,
    told_lost: u64,
}

impl Hub {
    /// A hub of the node with these pins; takes nothing until somebody watches.
    pub fn new(pin_dir: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                pin_dir,
                state: Mutex::default(),
                lost: AtomicU64::new(0),
            }),
        }
    }

    /// Begins to watch: every packet, or drops, refusals and new connections. Needs a tokio runtime.
    pub fn subscribe(&self, packets: bool) -> Result<Subscription, EventsError> {
        let mut state = self.lock();
        let sender = if let Some(sender) = &state.sender {
            sender.clone()
        } else {
            let reader = EventReader::open(&self.inner.pin_dir)?;
            reader.keep_watching(packets);
            self.inner.lost.store(0, Ordering::Relaxed);
            let (sender, _) = broadcast::channel(BACKLOG);
            // SAFETY: the reader's descriptor is the map's, which it keeps open and never exchanges.
            let registered = unsafe { AsyncFd::register(reader) };
            let source = registered.map_err(|error| EventsError::Poll {
                source: error.into_parts().1,
            })?;
            tokio::spawn(self.clone().run(source, sender.clone()));
            state.sender = Some(sender.clone());
            sender
        };
        state.watchers += 1;
        state.packet_watchers += usize::from(packets);
        Ok(Subscription {
            hub: self.clone(),
            events: sender.subscribe(),
            packets,
            lost_before: self.inner.lost.load(Ordering::Relaxed),
            lost_on_the_way: 0,
            told_lost: 0,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes events out until nobody watches.
    async fn run(self, mut source: AsyncFd<EventReader>, sender: Sender<Arc<EventView>>) {
        let mut due = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                ready = source.readable_mut() => {
                    let Ok(mut guard) = ready else { break };
                    let reader = guard.get_inner_mut();
                    let mut taken = 0;
                    while taken < BATCH && let Some(event) = reader.next_event() {
                        // Nobody there to receive is found out below.
                        let _ = sender.send(Arc::new(event));
                        taken += 1;
                    }
                    if taken < BATCH {
                        guard.clear_ready();
                    }
                    // A flood of packets must not keep others from their turn.
                    tokio::task::yield_now().await;
                }
                _ = due.tick() => {
                    let mut state = self.lock();
                    if state.watchers == 0 {
                        state.sender = None;
                        // Before the next watcher can open another reader.
                        drop(source);
                        return;
                    }
                    let packets = state.packet_watchers > 0;
                    drop(state);
                    let reader = source.get_mut();
                    reader.keep_watching(packets);
                    reader.refresh_names();
                    match reader.lost() {
                        Ok(lost) => self.inner.lost.store(lost, Ordering::Relaxed),
                        Err(error) => tracing::warn!(%error, "lost events not counted"),
                    }
                }
            }
        }
        self.lock().sender = None;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.watchers -= 1;
        state.packet_watchers -= usize::from(self.packets);
    }
}

impl Subscription {
    /// The events that the filter lets through, several in a message when they come fast.
    pub fn into_stream(self, filter: EventFilter) -> impl Stream<Item = Result<MonitorResponse, Status>> {
        stream::unfold((self, filter), |(mut this, filter)| async move {
            let message = this.next(&filter).await?;
            Some((message, (this, filter)))
        })
    }

    /// `None` when the reader ended.
    async fn next(&mut self, filter: &EventFilter) -> Option<Result<MonitorResponse, Status>> {
        loop {
            let mut events = Vec::new();
            // Wakes up now and then, to tell of losses while everything is filtered out.
            match tokio::time::timeout(Duration::from_secs(1), self.events.recv()).await {
                Ok(Ok(event)) => events.extend(self.text(&event, filter)),
                Ok(Err(RecvError::Lagged(count))) => self.lost_on_the_way += count,
                Ok(Err(RecvError::Closed)) => return None,
                Err(_) => {}
            }
            while events.len() < BATCH {
                match self.events.try_recv() {
                    Ok(event) => events.extend(self.text(&event, filter)),
                    Err(TryRecvError::Lagged(count)) => self.lost_on_the_way += count,
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            let in_kernel = self.hub.inner.lost.load(Ordering::Relaxed);
            let lost = in_kernel.saturating_sub(self.lost_before) + self.lost_on_the_way;
            if !events.is_empty() || lost > self.told_lost {
                self.told_lost = lost;
                return Some(Ok(MonitorResponse { events, lost }));
            }
        }
    }

    fn text(&self, event: &EventView, filter: &EventFilter) -> Option<String> {
        let wanted = (self.packets || is_notable(event)) && filter.matches(event);
        wanted.then(|| serde_json::to_string(event).expect("views are plain data"))
    }
}

/// Whether an event would have been written with nobody watching every packet: drops, refusals, connects, and what begins a
/// translated flow. Of protocols without connections any packet to a service counts, for its event does not tell.
fn is_notable(event: &EventView) -> bool {
    let is_translated = !event.service.is_empty() || event.translated_source.is_some();
    let may_begin = event.tcp_flags == "SYN" || (event.protocol != "TCP" && !event.is_reply);
    !event.reason.is_empty() || event.length == 0 || (is_translated && may_begin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(protocol: &str, tcp_flags: &str, reason: &str) -> EventView {
        EventView {
            time_unix_ns: 0,
            hook: "from-pod".into(),
            verdict: "to-pod".into(),
            reason: reason.into(),
            protocol: protocol.into(),
            source: "10.0.0.1:1".into(),
            destination: "10.0.0.2:2".into(),
            translated_source: None,
            translated_destination: None,
            service: "default/web:http".into(),
            is_reply: false,
            length: 60,
            ifindex: 1,
            tcp_flags: tcp_flags.into(),
        }
    }

    #[test]
    fn packets_amid_a_connection_are_for_those_who_watch_all() {
        assert!(is_notable(&event("TCP", "SYN", "")));
        assert!(!is_notable(&event("TCP", "SYN|ACK", "")));
        assert!(!is_notable(&event("TCP", "ACK", "")));
        assert!(is_notable(&event("TCP", "ACK", "BACKEND_GONE")));
        assert!(is_notable(&event("UDP", "", "")));
        let of_no_service = EventView {
            service: String::new(),
            ..event("UDP", "", "")
        };
        assert!(!is_notable(&of_no_service));
    }
}
