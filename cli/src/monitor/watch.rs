//! Watching a node: through its agent, else its ring buffer.

use std::{os::fd::AsRawFd as _, path::Path, thread};

use causeway_maps::{
    events::{EventReader, EventsError},
    view::{EventFilter, EventView},
};
use tokio::sync::mpsc;

use crate::{
    agent::Agent,
    context::GlobalArgs,
    error::CliError,
    nodes::{Node, Place},
};

/// Deadlines are moved on, and the ring buffer is looked at, at least this often.
const POLL_MS: i32 = 500;

/// What one node's watch has to say.
pub enum Told {
    /// What happened.
    Events(Vec<EventView>),
    /// So many were lost, in all since it began.
    Lost(u64),
    /// There is no more.
    Ended(CliError),
}

/// Takes what nodes say, with their numbers.
type Teller = mpsc::Sender<(usize, Told)>;

/// Begins to watch a node: through its agent, else its ring buffer.
pub async fn watch(
    global: &GlobalArgs,
    node: &Node,
    number: usize,
    packets: bool,
    filter: &EventFilter,
    sender: &Teller,
) -> Result<(), CliError> {
    let cluster = Some(node.cluster.as_str()).filter(|cluster| !cluster.is_empty());
    let context = global.context_of(cluster)?;
    let stream = async {
        let agent = node.agent(&context).await?;
        let stream = agent.monitor(packets, filter).await?;
        Ok((agent, stream))
    };
    match (stream.await, &node.place) {
        (Ok((agent, stream)), _) => {
            tokio::spawn(follow(agent, stream, number, sender.clone()));
            Ok(())
        }
        (Err(_), Place::Pins(dir)) => {
            let reader = open(node, dir)?;
            let (filter, sender) = (filter.clone(), sender.clone());
            thread::spawn(move || take(reader, number, packets, &filter, &sender));
            Ok(())
        }
        (Err(error), Place::Agent(_)) => Err(error),
    }
}

fn open(node: &Node, dir: &Path) -> Result<EventReader, CliError> {
    EventReader::open(dir).map_err(|error| match error {
        EventsError::Maps(source) => CliError::NodeMaps {
            node: node.title(),
            source: Box::new(source),
        },
        error => CliError::Events {
            node: node.title(),
            source: Box::new(error),
        },
    })
}

async fn follow(
    agent: Agent,
    mut stream: tonic::Streaming<causeway_proto::v1::MonitorResponse>,
    number: usize,
    sender: Teller,
) {
    loop {
        let told = match stream.message().await {
            Ok(Some(message)) => {
                let events = message
                    .events
                    .iter()
                    .filter_map(|event| serde_json::from_str(event).ok());
                let events = Told::Events(events.collect());
                if sender.send((number, Told::Lost(message.lost))).await.is_err() {
                    return;
                }
                events
            }
            Ok(None) => {
                let status = tonic::Status::unavailable("it ended the stream: was it stopped?");
                Told::Ended(agent.failed(&status))
            }
            Err(status) => Told::Ended(agent.failed(&status)),
        };
        let ended = matches!(told, Told::Ended(_));
        if sender.send((number, told)).await.is_err() || ended {
            return;
        }
    }
}

/// Takes events out of the ring buffer until nobody listens any more.
fn take(mut reader: EventReader, number: usize, packets: bool, filter: &EventFilter, sender: &Teller) {
    loop {
        reader.keep_watching(packets);
        let mut poll = libc::pollfd {
            fd: reader.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, POLL_MS) };
        let mut events = Vec::new();
        while events.len() < 256
            && let Some(event) = reader.next_event()
        {
            events.extend(filter.matches(&event).then_some(event));
        }
        let lost = reader.lost().unwrap_or(0);
        let gone = |told| sender.blocking_send((number, told)).is_err();
        if gone(Told::Lost(lost)) || gone(Told::Events(events)) {
            return;
        }
        reader.refresh_names();
    }
}
