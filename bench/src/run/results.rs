//! What was measured.

use std::collections::BTreeMap;

use super::Machine;
use crate::{
    mode::{Measure, Mode, Position},
    options::Plan,
    program::Passed,
    stats::median,
};

/// More work of others than this share makes processor times doubtful.
const QUIET: f64 = 0.1;

/// What a value is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// How many services there were.
    pub services: usize,
    /// What was measured.
    pub measure: Measure,
    /// Which way.
    pub mode: Mode,
    /// Where the service stood; none where no single service is meant.
    pub position: Option<Position>,
}

impl Key {
    /// Of a measure that has no position.
    pub fn of_mode(mode: Mode, services: usize, measure: Measure) -> Self {
        Self {
            services,
            measure,
            mode,
            position: None,
        }
    }
}

/// Numbers that are not shown, and why.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Refusal {
    /// Which way.
    pub mode: Mode,
    /// Among how many services.
    pub services: usize,
    /// Where the service stood.
    pub position: Option<Position>,
    /// Which kind of traffic.
    pub task: String,
    /// Why.
    pub reason: String,
}

/// What the counters of a mode have shown, summed up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Proof {
    /// Connections that the client opened to services.
    pub opened: u64,
    /// Connections and packets that the mode's own counters tell.
    pub passed: Passed,
}

/// Times by value and number.
pub type Times = BTreeMap<u64, u64>;

/// Everything that was measured.
#[derive(Clone, Debug)]
pub struct Results {
    /// On what.
    pub machine: Machine,
    /// What was planned.
    pub plan: Plan,
    /// Values by round.
    pub samples: BTreeMap<Key, Vec<(usize, f64)>>,
    /// Times of `connect` of all rounds together.
    pub times: BTreeMap<(usize, Mode, Option<Position>), Times>,
    /// What must not be shown.
    pub refusals: Vec<Refusal>,
    /// What counters have shown.
    pub proofs: BTreeMap<Mode, Proof>,
    /// Remarks.
    pub notes: Vec<String>,
    /// How long it all took.
    pub seconds: f64,
    others: Vec<f64>,
}

impl Results {
    /// None yet.
    pub fn new(machine: Machine, plan: &Plan) -> Self {
        Self {
            machine,
            plan: plan.clone(),
            samples: BTreeMap::new(),
            times: BTreeMap::new(),
            refusals: Vec::new(),
            proofs: BTreeMap::new(),
            notes: Vec::new(),
            seconds: 0.0,
            others: Vec::new(),
        }
    }

    /// A value.
    pub fn add(&mut self, key: Key, round: usize, value: f64) {
        if value.is_finite() {
            self.samples.entry(key).or_default().push((round, value));
        }
    }

    /// Times of a round.
    pub fn add_times(&mut self, mode: Mode, services: usize, position: Option<Position>, times: &[(u64, u64)]) {
        let sum = self.times.entry((services, mode, position)).or_default();
        for (value, count) in times {
            *sum.entry(*value).or_default() += count;
        }
    }

    /// Numbers that must not be shown. A mode, position and task of which one round is refused is refused as a whole.
    pub fn refuse(&mut self, mode: Mode, services: usize, position: Option<Position>, task: &str, reason: &str) {
        let is_same = |refusal: &&Refusal| {
            (refusal.mode, refusal.services, refusal.position, refusal.task.as_str())
                == (mode, services, position, task)
        };
        if self.refusals.iter().find(is_same).is_none() {
            self.refusals.push(Refusal {
                mode,
                services,
                position,
                task: task.to_owned(),
                reason: reason.to_owned(),
            });
        }
    }

    /// What counters have shown of a measurement that is kept.
    pub fn prove(&mut self, mode: Mode, opened: u64, passed: Passed) {
        let proof = self.proofs.entry(mode).or_default();
        proof.opened += opened;
        proof.passed.connections += passed.connections;
        proof.passed.packets += passed.packets;
        proof.passed.early += passed.early;
    }

    /// Share of the processors' work that was not the benchmark's.
    pub fn other_load(&mut self, share: f64) {
        self.others.push(share);
    }

    /// A remark, once.
    pub fn note(&mut self, text: &str) {
        if !self.notes.iter().any(|note| note == text) {
            self.notes.push(text.to_owned());
        }
    }

    /// A warning when other programs kept the processors busy.
    pub fn warning(&self) -> Option<String> {
        let share = median(&self.others).filter(|share| *share > QUIET)?;
        Some(format!(
            "other programs did {:.0} % of the processors' work: processor times are too high, and all else is uncertain",
            share * 100.0
        ))
    }

    /// Removes the values of what is refused; called when all rounds are over.
    pub fn settle(&mut self) {
        let Self { samples, refusals, .. } = self;
        samples.retain(|key, _| {
            !refusals.iter().any(|refusal| {
                (refusal.mode, refusal.services, refusal.position) == (key.mode, key.services, key.position)
                    && measures_of(&refusal.task).contains(&key.measure)
            })
        });
    }
}

/// The measures that come from a task.
fn measures_of(task: &str) -> &'static [Measure] {
    match task {
        "connect" => &[Measure::ConnectLatencyP50, Measure::ConnectLatencyP99],
        "churn" => &[Measure::SlowConnects],
        "short connections" => &[Measure::ConnectionsPerSecond, Measure::CpuPerConnection],
        "keep-alive" => &[
            Measure::RequestsPerSecond,
            Measure::RequestLatencyP50,
            Measure::RequestLatencyP99,
            Measure::CpuPerRequest,
        ],
        "stream" => &[Measure::Throughput, Measure::CpuPerGigabyte],
        "UDP" => &[
            Measure::UdpPerSecond,
            Measure::UdpLatencyP50,
            Measure::UdpLatencyP99,
            Measure::CpuPerUdp,
        ],
        "endpoint change" => &[Measure::EndpointChange],
        "readiness" => &[Measure::ReadinessFlip],
        _ => &[],
    }
}
