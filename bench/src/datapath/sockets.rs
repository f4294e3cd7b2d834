//! What a client feels: through the virtual address against straight to the pod, and with many services against one.

use anyhow::{Context as _, Result};

use super::{
    Course,
    bed::Bed,
    entry::{Bound, Entry, Goal},
};
use crate::{
    interrupt,
    mode::Mode,
    run::check,
    service::{POD_TCP, Transport, VIP_TCP},
    stats::{deviation, median, paired_ratio, quantile},
    worker::{BLOCK_BYTES, Job, Outcome, Target, Task},
};

/// Values of two ways, pair by pair.
#[derive(Debug, Default)]
struct Pairs {
    ours: Vec<(usize, f64)>,
    baseline: Vec<(usize, f64)>,
}

impl Pairs {
    fn entry(&self, name: &str, title: &str, unit: &'static str) -> Result<Entry> {
        let values = |pairs: &[(usize, f64)]| -> Vec<f64> { pairs.iter().map(|(_, value)| *value).collect() };
        let (ours, baseline) = (values(&self.ours), values(&self.baseline));
        let value = median(&ours).context("no values")?;
        let reference = median(&baseline).context("no values to compare with")?;
        let ratio = paired_ratio(&self.ours, &self.baseline).context("no ratio")?;
        Ok(Entry::new(name, title, value, unit)
            .against(reference, ratio)
            .spread(deviation(&ours)))
    }
}

/// Connections of each way that throughput is measured on. One connection can do half of what the next one can, whichever way it
/// goes, so it takes hundreds of them over the rounds to tell the ways apart.
const STREAMS: usize = 24;

/// Who is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Vip,
    Pod,
}

/// Who is called by the connection of this place in a row: in pairs, of which now this one is first and now that one, because the kernel
/// gives ports in a row too.
fn way_of(index: usize) -> Way {
    if (index + index / 2).is_multiple_of(2) {
        Way::Vip
    } else {
        Way::Pod
    }
}

pub(super) fn measure(course: &mut Course<'_>, one: &mut Bed, many: &mut Bed) -> Result<()> {
    let (in_turn_planned, pairs_planned) = (course.plan.in_turn_seconds(), course.plan.pairs_seconds());
    // One backend, so that both ways lead to the same process.
    let service = one.service();
    one.rig.change(service, &[0])?;

    let entry = in_turn(course, one, Task::InTurn, "vip_request_latency_p50");
    course.progress.done(in_turn_planned);
    add(course, "request latency", entry, Goal::Ratio(Bound::AtMost, 1.02))?;

    let entry = connections(course, one);
    course.progress.done(pairs_planned);
    add(
        course,
        "connections per second",
        entry,
        Goal::Ratio(Bound::AtLeast, 0.95),
    )?;

    let entry = in_turn(course, one, Task::StreamsInTurn, "vip_throughput");
    course.progress.done(in_turn_planned);
    add(course, "throughput", entry, Goal::Ratio(Bound::AtLeast, 0.98))?;

    one.rig.change(service, &[0, 1])?;
    let entry = connect(course, one, many);
    course.progress.done(pairs_planned);
    add(course, "time to connect", entry, Goal::Ratio(Bound::AtMost, 1.03))
}

fn add(course: &mut Course<'_>, what: &str, entry: Result<Entry>, goal: Goal) -> Result<()> {
    if let Some(entry) = course.keep(what, entry)? {
        course.add(entry.goal(goal));
    }
    Ok(())
}

/// Both ways at once, from one process, request by request or block by block.
fn in_turn(course: &mut Course<'_>, bed: &mut Bed, task: Task, name: &str) -> Result<Entry> {
    let connections = if task == Task::StreamsInTurn { STREAMS } else { 1 };
    let job = Job {
        task,
        targets: (0..2 * connections).map(|index| target(bed, way_of(index))).collect(),
        milliseconds: course.plan.in_turn_milliseconds,
    };
    let what = if task == Task::InTurn {
        "requests"
    } else {
        "blocks of bytes"
    };
    let mut pairs = Pairs::default();
    for round in 0..course.plan.in_turn {
        interrupt::check()?;
        course
            .progress
            .show(&format!("{what} in turn, through the virtual address and to the pod"));
        bed.passed(Transport::Tcp)?;
        let outcome = bed.rig.client(Mode::CausewaySocket)?.ask(&job)?;
        let passed = bed.passed(Transport::Tcp)?;
        // Every other connection.
        judge(
            Mode::CausewaySocket,
            job.task,
            &Outcome {
                opened: connections as u64,
                ..outcome.clone()
            },
            passed,
        )?;
        // The mean of the connections' medians.
        let value = |way: Way| -> Result<f64> {
            let times = outcome.times_by_target.iter().enumerate();
            let times = times.filter(|(index, _)| way_of(*index) == way);
            let medians: Option<Vec<u64>> = times.map(|(_, times)| quantile(times, 0.5)).collect();
            let medians = medians
                .filter(|medians| medians.len() == connections)
                .context("no times")?;
            let nanoseconds = medians.iter().sum::<u64>() as f64 / connections as f64;
            Ok(match task {
                // Bits in a nanosecond.
                Task::StreamsInTurn => BLOCK_BYTES as f64 * 8.0 / nanoseconds,
                _ => nanoseconds / 1e3,
            })
        };
        pairs.ours.push((round, value(Way::Vip)?));
        pairs.baseline.push((round, value(Way::Pod)?));
    }
    match task {
        Task::StreamsInTurn => pairs.entry(
            name,
            "throughput through the virtual address; baseline: to the pod",
            "Gbit/s",
        ),
        _ => pairs.entry(
            name,
            "request, p50, through the virtual address; baseline: to the pod",
            "µs",
        ),
    }
}

/// Short slices of one way and the other, now this first and now that.
fn connections(course: &mut Course<'_>, bed: &mut Bed) -> Result<Entry> {
    let mut pairs = Pairs::default();
    // The first pair warms up.
    for round in 0..=course.plan.pairs {
        interrupt::check()?;
        course
            .progress
            .show(&format!("connections, pair {round} of {}", course.plan.pairs));
        let mut ways = [Way::Vip, Way::Pod];
        if round % 2 == 1 {
            ways.reverse();
        }
        for way in ways {
            let value = connections_slice(bed, way, course.plan.slice_milliseconds)?;
            let values = match way {
                Way::Vip => &mut pairs.ours,
                Way::Pod => &mut pairs.baseline,
            };
            if round > 0 {
                values.push((round, value));
            }
        }
    }
    pairs.entry(
        "vip_connections_per_second",
        "short connections through the virtual address; baseline: to the pod",
        "1/s",
    )
}

fn connections_slice(bed: &mut Bed, way: Way, milliseconds: u64) -> Result<f64> {
    let job = Job {
        task: Task::Connections,
        targets: vec![target(bed, way)],
        milliseconds,
    };
    let mode = match way {
        Way::Vip => Mode::CausewaySocket,
        Way::Pod => Mode::Direct,
    };
    bed.passed(Transport::Tcp)?;
    let outcome = bed.rig.client(mode)?.ask(&job)?;
    let passed = bed.passed(Transport::Tcp)?;
    judge(mode, job.task, &outcome, passed)?;
    Ok(outcome.done as f64 / (outcome.elapsed_ns as f64 / 1e9))
}

fn judge(mode: Mode, task: Task, outcome: &Outcome, passed: crate::program::Passed) -> Result<()> {
    check::answers(task, outcome)
        .and_then(|()| check::path(mode, task, outcome.opened, passed))
        .map_err(|reason| anyhow::anyhow!(reason))
}

/// The first backend, by either way.
fn target(bed: &Bed, way: Way) -> Target {
    let address = match way {
        Way::Vip => std::net::SocketAddrV4::new(bed.rig.services[bed.service()].vip(), VIP_TCP),
        Way::Pod => std::net::SocketAddrV4::new(bed.rig.site.backends[0].address, POD_TCP),
    };
    Target {
        address,
        servers: vec![1],
    }
}

/// The time of `connect` on a node with many services against one with one.
fn connect(course: &mut Course<'_>, one: &mut Bed, many: &mut Bed) -> Result<Entry> {
    let mut pairs = Pairs::default();
    for round in 0..=course.plan.pairs {
        interrupt::check()?;
        course.progress.show(&format!(
            "connect with many services and one, pair {round} of {}",
            course.plan.pairs
        ));
        for turn in 0..2 {
            let is_many = turn == round % 2;
            let bed = if is_many { &mut *many } else { &mut *one };
            let value = connect_slice(bed, course.plan.slice_milliseconds)?;
            let values = if is_many { &mut pairs.ours } else { &mut pairs.baseline };
            if round > 0 {
                values.push((round, value));
            }
        }
    }
    pairs.entry(
        &format!("connect_latency_p50_{}", many.name()),
        &format!("connect, p50, {}; baseline: one", many.title()),
        "µs",
    )
}

fn connect_slice(bed: &mut Bed, milliseconds: u64) -> Result<f64> {
    let service = bed.service();
    let job = Job {
        task: Task::Connect,
        targets: bed.rig.targets(Some(service), Task::Connect),
        milliseconds,
    };
    bed.passed(Transport::Tcp)?;
    let outcome = bed.rig.client(Mode::CausewaySocket)?.ask(&job)?;
    let passed = bed.passed(Transport::Tcp)?;
    check::check(Mode::CausewaySocket, job.task, &outcome, passed).map_err(|reason| anyhow::anyhow!(reason))?;
    let p50 = quantile(&outcome.times, 0.5).context("no times")?;
    Ok(p50 as f64 / 1e3)
}
