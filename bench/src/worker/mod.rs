//! The processes that make and answer traffic: the same program for every mode, in the pods' namespaces.
//!
//! A worker is this executable under another argument. It reads jobs from standard input, one JSON line each, answers
//! with one JSON line each, and ends with its input: nothing of it outlives the benchmark.

mod client;
mod connections;
mod epoll;
mod in_turn;
mod process;
mod server;
mod socket;
mod streams;

use std::{collections::BTreeMap, net::SocketAddrV4};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use client::run as run_client;
pub use process::{ARGUMENT, Worker, client, parse_server, processors, server};
pub use server::run as run_server;

/// Bytes of a request and of an answer.
const MESSAGE_BYTES: usize = 64;
/// First byte of a request after whose answer the connection stays.
const KEEP: u8 = b'K';
/// First byte of a request after whose answer the server closes the connection.
const CLOSE: u8 = b'C';
/// First byte of a request after whose answer the server swallows what comes.
const SWALLOW: u8 = b'S';
/// First byte of a request after whose answer each [`BLOCK_BYTES`] are answered.
const BLOCKS: u8 = b'B';
/// As much as is sent before the other end answers: long enough for its time to be that of bytes, and short enough for what
/// disturbs one block to disturb the next.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;
/// First byte of every answer; the second is the server's number.
const ANSWER: u8 = b'A';

/// What a client is to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Short connections, one at a time; the time of `connect` is recorded.
    Connect,
    /// As [`Self::Connect`], with connections that the server closes in good order, so that its side rests in TIME-WAIT.
    Churn,
    /// Short connections, several at a time.
    Connections,
    /// Requests on connections that stay open; the time of each is recorded.
    KeepAlive,
    /// As many bytes as go through one connection.
    Stream,
    /// UDP requests from ever new sockets, one at a time; the time of each is recorded.
    Udp,
    /// One connection to each target, one request at a time, the targets in turn; the times are recorded by target.
    InTurn,
    /// As [`Self::InTurn`], with a block of bytes before each answer.
    StreamsInTurn,
    /// Short connections, one at a time, until this server alone answers; tells when that began.
    WatchFor(u8),
}

/// Somebody to call, and who may answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Target {
    /// Where to connect to.
    pub address: SocketAddrV4,
    /// Numbers of the servers that are right.
    pub servers: Vec<u8>,
}

/// A task, for whom and how long.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Job {
    /// What to do.
    pub task: Task,
    /// Called in turn.
    pub targets: Vec<Target>,
    /// For how long; for [`Task::WatchFor`], at most.
    pub milliseconds: u64,
}

/// What came of a job.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Requests answered by a right server.
    pub done: u64,
    /// Connections (or UDP sockets) that were opened.
    pub opened: u64,
    /// Bytes that arrived at the other end.
    pub bytes: u64,
    /// From the first request to the last answer.
    pub elapsed_ns: u64,
    /// Requests without an answer.
    pub errors: u64,
    /// Answers of a wrong server.
    pub wrong: u64,
    /// The first error in words.
    pub first_error: Option<String>,
    /// Answers by server.
    pub by_server: BTreeMap<u8, u64>,
    /// Times in nanoseconds, rising, and how often each occurred (three significant digits).
    pub times: Vec<(u64, u64)>,
    /// [`Task::InTurn`], [`Task::StreamsInTurn`]: the same for each target.
    #[serde(default)]
    pub times_by_target: Vec<Vec<(u64, u64)>>,
    /// [`Task::WatchFor`]: when the first connection began that the server sought answered, with none after it answered
    /// by another (`CLOCK_MONOTONIC`).
    pub changed_at_ns: Option<u64>,
}

/// An outcome that grows.
struct Record {
    outcome: Outcome,
    times: Histogram<u64>,
}

impl Record {
    fn new() -> Self {
        Self {
            outcome: Outcome::default(),
            times: histogram(),
        }
    }

    /// An answer; tells whether it is right.
    fn answer(&mut self, message: &[u8], target: &Target) -> bool {
        let server = message.get(1).copied().unwrap_or_default();
        if message.len() != MESSAGE_BYTES || message[0] != ANSWER || !target.servers.contains(&server) {
            self.outcome.wrong += 1;
            let says = format!("{} was answered by server {server}", target.address);
            self.outcome.first_error.get_or_insert(says);
            return false;
        }
        self.outcome.done += 1;
        *self.outcome.by_server.entry(server).or_default() += 1;
        true
    }

    fn error(&mut self, target: &Target, error: &std::io::Error) {
        self.outcome.errors += 1;
        let says = format!("{}: {error}", target.address);
        self.outcome.first_error.get_or_insert(says);
    }

    fn time(&mut self, nanoseconds: u64) {
        self.times.saturating_record(nanoseconds);
    }

    fn finish(mut self, begun_ns: u64) -> Outcome {
        self.outcome.elapsed_ns = crate::clock::now_ns() - begun_ns;
        self.outcome.times = counted(&self.times);
        self.outcome
    }
}

/// For nanoseconds up to a minute, to three significant digits.
fn histogram() -> Histogram<u64> {
    let times = Histogram::new_with_bounds(1, 60_000_000_000, 3);
    times.expect("one nanosecond to a minute with three digits is a valid range")
}

/// Values, rising, and how often each occurred.
fn counted(times: &Histogram<u64>) -> Vec<(u64, u64)> {
    times
        .iter_recorded()
        .map(|entry| (entry.value_iterated_to(), entry.count_since_last_iteration()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_strangers_are_wrong() {
        let target = Target {
            address: "10.96.0.1:80".parse().unwrap(),
            servers: vec![1, 2],
        };
        let mut record = Record::new();
        let mut message = [0; MESSAGE_BYTES];
        message[..2].copy_from_slice(&[ANSWER, 2]);
        assert!(record.answer(&message, &target));
        message[1] = 3;
        assert!(!record.answer(&message, &target));
        assert!(!record.answer(&message[..10], &target));
        record.time(1_000);
        let outcome = record.finish(0);
        assert_eq!((outcome.done, outcome.wrong, outcome.by_server[&2]), (1, 2, 1));
        assert_eq!(outcome.times, [(1_000, 1)]);
        assert!(outcome.first_error.unwrap().contains("answered by server 3"));
    }
}
