//! Which backend a flow gets. The model knows no hash. It knows what any choice must keep to, checks that, and then goes on
//! with the choice the programs made:
//!
//! - Who takes connections is taken; a backend that leaves but still answers only when nobody else is there (Kubernetes,
//!   KEP-1669).
//! - What is asked alike is answered alike: there is one order of preference for each flow (each client, with session
//!   affinity), and it does not depend on who is ready. So a backend that comes or goes moves its own flows and no others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::tables::{Backend, Tables};

/// Who may be chosen: all that take connections, else all that still answer.
pub fn candidates(table: &[u32], backends: &BTreeMap<u32, Backend>) -> Vec<u32> {
    let mut ready: Vec<(u32, &Backend)> = table
        .iter()
        .filter_map(|index| Some((*index, backends.get(index)?)))
        .filter(|(_, backend)| backend.ready)
        .collect();
    ready.sort_unstable_by_key(|(index, _)| *index);
    ready.dedup_by_key(|(index, _)| *index);
    let staying = ready.iter().any(|(_, backend)| !backend.terminating);
    ready
        .into_iter()
        .filter(|(_, backend)| !(staying && backend.terminating))
        .map(|(index, _)| index)
        .collect()
}

/// What a choice is made by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Question {
    /// The service's id, for clients that keep their backend; flows are told apart by what they ask for.
    pub service: u32,
    /// Protocol and ends of the flow; only the client's address with session affinity.
    pub asker: (u8, SocketAddr, Option<SocketAddr>),
    /// The service's table.
    pub table: Vec<u32>,
}

/// Choices made so far.
#[derive(Clone, Debug, Default)]
pub struct Preferences {
    made: BTreeMap<Question, Vec<(Vec<u32>, u32)>>,
}

impl Preferences {
    /// Notes a choice; tells what earlier choice it contradicts.
    pub fn note(&mut self, question: Question, candidates: &[u32], chosen: u32) -> Option<String> {
        let made = self.made.entry(question).or_default();
        let contradicted = made
            .iter()
            .find(|(others, other)| *other != chosen && others.contains(&chosen) && candidates.contains(other));
        let complaint = contradicted.map(|(others, other)| {
            format!("of {candidates:?} backend {chosen} was chosen, though of {others:?} the same flow got {other}")
        });
        let entry = (candidates.to_vec(), chosen);
        if !made.contains(&entry) {
            made.push(entry);
        }
        complaint
    }
}

/// Where a client's port as its backend sees it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ports {
    /// One that Linux gives to no socket by itself, because the same client may have a socket that was balanced by `connect` to the
    /// same backend. Each of those that Linux gives has one of its own among them.
    Unused,
    /// The client's own; one of those when it is taken.
    Own,
    /// From the range of the node's own, 10000 to 29999.
    Node,
}

/// Ports that Linux gives to sockets (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: Range<u16> = 32_768..61_000;
/// Below these are servers.
const CLIENTS: u16 = 1_024;
/// Tries for a port before one is taken from a flow that both sides have closed.
pub const TRIES: usize = 8;

impl Ports {
    /// What is wrong with a port, given the ports that other flows between the same two have.
    pub fn complaint(self, port: u16, own: u16, backend: u16, taken: &[u16]) -> Option<String> {
        let unused = port >= CLIENTS && !EPHEMERAL.contains(&port) && port != backend;
        let fits = match self {
            Self::Unused => match home(own).filter(|home| *home != backend && !taken.contains(home)) {
                Some(home) => port == home,
                None => unused,
            },
            Self::Own => {
                if taken.contains(&own) {
                    unused
                } else {
                    port == own
                }
            }
            Self::Node => (10_000..30_000).contains(&port),
        };
        (!fits)
            .then(|| format!("port: {port} is none of those for the client's port {own} ({self:?}, taken: {taken:?})"))
    }

    /// Whether so many ports are taken that a flow may be turned away.
    pub fn may_be_exhausted(taken: &[u16]) -> bool {
        taken.len() >= TRIES
    }
}

/// The port that belongs to one of those that Linux gives to sockets.
fn home(own: u16) -> Option<u16> {
    EPHEMERAL.contains(&own).then(|| CLIENTS + (own - EPHEMERAL.start))
}

/// The ports by which clients of one address are known to one backend, and which no other flow may have: all but those of
/// flows that are over or were reset.
pub fn taken(tables: &Tables, protocol: u8, answerer: SocketAddr, shown: IpAddr) -> Vec<u16> {
    tables
        .flows
        .iter()
        .filter(|flow| flow.protocol == protocol && flow.answerer == answerer && flow.shown.ip() == shown)
        .filter(|flow| flow.is_live(tables.now) && !flow.is_reset())
        .map(|flow| flow.shown.port())
        .collect()
}
