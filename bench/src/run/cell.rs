//! One mode at one position: a single measurement.

use anyhow::Result;

use super::{
    check,
    results::{Key, Results},
    rig::{Rig, transport_of},
};
use crate::{
    mode::{Measure, Mode, Position},
    program::Passed,
    service::Transport,
    stats::quantile,
    usage::Reading,
    worker::{Job, Outcome, Task},
};

/// A connect that takes longer has been repeated: the first timer for that is at 10 ms at the earliest.
const SLOW_NANOSECONDS: u64 = 5_000_000;

/// A column of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cell {
    pub(super) mode: Mode,
    /// None for the direct ways, which call no service.
    pub(super) position: Option<Position>,
}

impl Cell {
    /// For people.
    pub(super) fn title(self, task: Task) -> String {
        let position = self
            .position
            .map(|position| format!(" ({})", position.name()))
            .unwrap_or_default();
        format!("{}{position}, {}", self.mode.name(), task_name(task))
    }

    /// Does a task and answers what came of it, with what counters say.
    pub(super) fn perform(self, rig: &mut Rig, task: Task, milliseconds: u64) -> Result<Performed> {
        let service = self.position.map(|position| position.index(rig.services.len()));
        let transport = transport_of(task);
        let watched = service.map_or_else(|| rig.measured(), |service| vec![service]);
        let job = Job {
            task,
            targets: rig.targets(service, task),
            milliseconds,
        };
        rig.forget_flows()?;
        for service in &watched {
            rig.passed_since(*service, transport)?;
        }
        let cpu = rig.workers_cpu_ns(self.mode)?;
        let before = Reading::now()?;
        let outcome = rig.client(self.mode)?.ask(&job)?;
        let worked_ns = Reading::now()?.worked_since(&before)?;
        let workers_ns = rig.workers_cpu_ns(self.mode)? - cpu;
        let mut passed = Passed::default();
        for service in watched {
            let more = rig.passed_since(service, transport)?;
            passed.connections += more.connections;
            passed.packets += more.packets;
            // Of all services together.
            passed.early = passed.early.max(more.early);
        }
        Ok(Performed {
            outcome,
            passed,
            worked_ns,
            workers_ns,
        })
    }

    /// As [`perform`](Self::perform), and keeps the values if they may be kept.
    pub(super) fn measure(
        self,
        rig: &mut Rig,
        task: Task,
        milliseconds: u64,
        (services, round): (usize, usize),
        results: &mut Results,
    ) -> Result<()> {
        let performed = self.perform(rig, task, milliseconds)?;
        let Performed { outcome, passed, .. } = &performed;
        if let Err(reason) = check::check(self.mode, task, outcome, *passed) {
            results.refuse(self.mode, services, self.position, task_name(task), &reason);
            return Ok(());
        }
        if self.mode != Mode::Direct && self.mode != Mode::DirectRouted {
            results.prove(self.mode, outcome.opened, *passed);
        }
        results.other_load(performed.others_share());
        for (measure, value) in performed.values(task) {
            let key = Key {
                mode: self.mode,
                services,
                position: self.position,
                measure,
            };
            results.add(key, round, value);
        }
        if task == Task::Connect {
            results.add_times(self.mode, services, self.position, &outcome.times);
        }
        Ok(())
    }
}

/// What a task did.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Performed {
    outcome: Outcome,
    passed: Passed,
    /// By all processors of the machine.
    worked_ns: u64,
    /// By client and servers.
    workers_ns: u64,
}

impl Performed {
    /// Share of the processors' work that was neither the client's nor the servers'.
    fn others_share(&self) -> f64 {
        let others = self.worked_ns.saturating_sub(self.workers_ns) as f64;
        others / (self.worked_ns as f64).max(1.0)
    }

    fn values(&self, task: Task) -> Vec<(Measure, f64)> {
        let Outcome { done, bytes, times, .. } = &self.outcome;
        let seconds = self.outcome.elapsed_ns as f64 / 1e9;
        let rate = *done as f64 / seconds;
        let cpu_us = self.worked_ns as f64 / 1e3 / (*done as f64);
        let time = |share| quantile(times, share).unwrap_or_default() as f64 / 1e3;
        match task {
            Task::Connect => vec![
                (Measure::ConnectLatencyP50, time(0.5)),
                (Measure::ConnectLatencyP99, time(0.99)),
            ],
            Task::Churn => {
                let slow = times.iter().filter(|(time, _)| *time > SLOW_NANOSECONDS);
                let slow: u64 = slow.map(|(_, count)| count).sum();
                vec![(Measure::SlowConnects, slow as f64 / *done as f64 * 100.0)]
            }
            Task::Connections => vec![
                (Measure::ConnectionsPerSecond, rate),
                (Measure::CpuPerConnection, cpu_us),
            ],
            Task::KeepAlive => vec![
                (Measure::RequestsPerSecond, rate),
                (Measure::RequestLatencyP50, time(0.5)),
                (Measure::RequestLatencyP99, time(0.99)),
                (Measure::CpuPerRequest, cpu_us),
            ],
            Task::Stream => vec![
                (Measure::Throughput, *bytes as f64 * 8.0 / 1e9 / seconds),
                (
                    Measure::CpuPerGigabyte,
                    self.worked_ns as f64 / 1e6 / (*bytes as f64 / 1e9),
                ),
            ],
            Task::Udp => vec![
                (Measure::UdpPerSecond, rate),
                (Measure::UdpLatencyP50, time(0.5)),
                (Measure::UdpLatencyP99, time(0.99)),
                (Measure::CpuPerUdp, cpu_us),
            ],
            Task::InTurn | Task::StreamsInTurn | Task::WatchFor(_) => Vec::new(),
        }
    }
}

fn task_name(task: Task) -> &'static str {
    match (task, transport_of(task)) {
        (Task::Connect, _) => "connect",
        (Task::Churn, _) => "churn",
        (Task::Connections, _) => "short connections",
        (Task::KeepAlive, _) => "keep-alive",
        (Task::Stream, _) => "stream",
        (Task::InTurn, _) => "requests in turn",
        (Task::StreamsInTurn, _) => "streams in turn",
        (_, Transport::Udp) => "UDP",
        (_, Transport::Tcp) => "watch",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn performed() -> Performed {
        Performed {
            outcome: Outcome {
                done: 1_000,
                opened: 1_000,
                bytes: 2_500_000_000,
                elapsed_ns: 500_000_000,
                times: vec![(10_000, 980), (50_000, 20)],
                ..Outcome::default()
            },
            passed: Passed::default(),
            worked_ns: 100_000_000,
            workers_ns: 90_000_000,
        }
    }

    #[test]
    fn values_have_their_units() {
        let connect = performed().values(Task::Connect);
        assert_eq!(
            connect,
            [(Measure::ConnectLatencyP50, 10.0), (Measure::ConnectLatencyP99, 50.0)]
        );
        let rates = performed().values(Task::Connections);
        assert_eq!(
            rates,
            [
                (Measure::ConnectionsPerSecond, 2_000.0),
                (Measure::CpuPerConnection, 100.0)
            ]
        );
        let stream = performed().values(Task::Stream);
        assert_eq!(stream, [(Measure::Throughput, 40.0), (Measure::CpuPerGigabyte, 40.0)]);
    }

    #[test]
    fn work_of_others_is_seen() {
        assert!((performed().others_share() - 0.1).abs() < 1e-9);
    }
}
