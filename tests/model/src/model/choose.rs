//! Which backend a flow gets. The model knows no hash. It knows what any choice must keep to, checks that, and then goes on
//! with the choice the programs made:
//!
//! - Who takes connections is taken; a backend that leaves but still answers only when nobody else is there (Kubernetes,
//!   KEP-1669).
//! - What is asked alike is answered alike: there is one order of preference for each flow (each client, with session
//!   affinity), and it does not depend on who is ready. So a backend that comes or goes moves its own flows and no others.

use std::collections::BTreeMap;
use std::net::SocketAddr;

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
    /// From the range that Linux gives to no socket by itself (61000 and up), because the same client may have a socket that
    /// was balanced by `connect` to the same backend; the client's own when those that were tried are taken.
    Unused,
    /// The client's own; from that range when it is taken.
    Own,
    /// From the range of the node's own, 10000 to 29999.
    Node,
}

/// Tries for a port before a flow is turned away.
const TRIES: usize = 4;

impl Ports {
    /// What is wrong with a port, given what the flows that look alike but for their port show.
    pub fn complaint(self, port: u16, own: u16, taken: &[u16]) -> Option<String> {
        let unused = port >= 61_000;
        let fits = match self {
            Self::Unused => unused || (port == own && taken.len() >= TRIES),
            Self::Own => port == own || (unused && taken.contains(&own)),
            Self::Node => (10_000..30_000).contains(&port),
        };
        (!fits)
            .then(|| format!("port {port} is none of those for the client's port {own} ({self:?}, taken: {taken:?})"))
    }

    /// Whether so many ports are taken that a flow may be turned away.
    pub fn may_be_exhausted(self, taken: &[u16]) -> bool {
        taken.len() >= TRIES
    }
}

/// The ports by which clients of one address are known to one backend.
pub fn taken(tables: &Tables, protocol: u8, answerer: SocketAddr, shown: std::net::IpAddr) -> Vec<u16> {
    tables
        .flows
        .iter()
        .filter(|flow| flow.protocol == protocol && flow.answerer == answerer && flow.shown.ip() == shown)
        .map(|flow| flow.shown.port())
        .collect()
}
