//! Which plots there are, and what is in them.

use std::collections::BTreeSet;

use super::super::{Entry, grid::last_position, table::thousands};
use crate::{
    mode::{Backends, Measure, Mode},
    run::Results,
};

/// A plot.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Chart {
    /// Of its files.
    pub(super) name: String,
    /// Above it.
    pub(super) title: String,
    /// Below the title.
    pub(super) subtitle: String,
    /// Along the lower edge.
    pub(super) x: Axis,
    /// Along the left edge.
    pub(super) y: Axis,
    /// One for each mode.
    pub(super) lines: Vec<Line>,
    /// Whether the points themselves are shown.
    pub(super) marks: bool,
}

/// An axis.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Axis {
    /// What it says.
    pub(super) title: String,
    /// Equal distances are equal ratios.
    pub(super) is_logarithmic: bool,
    /// Least and greatest value.
    pub(super) range: (f64, f64),
}

/// The values of a mode.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Line {
    pub(super) mode: Mode,
    pub(super) points: Vec<(f64, f64)>,
}

/// All for which there are values.
pub(super) fn charts(results: &Results, entries: &[Entry]) -> Vec<Chart> {
    let over_services = [
        (
            "vip-connect",
            "Time of connect(), median",
            Measure::ConnectLatencyP50,
            false,
        ),
        (
            "vip-cpu",
            "Processor time of a short connection",
            Measure::CpuPerConnection,
            false,
        ),
        (
            "vip-programming",
            "Programming all services from nothing",
            Measure::ProgrammingTime,
            true,
        ),
        (
            "vip-change",
            "One endpoint changed, until a client meets it",
            Measure::EndpointChange,
            true,
        ),
        ("vip-memory", "Kernel memory of maps or rules", Measure::Memory, true),
    ];
    let over_services = over_services
        .into_iter()
        .filter_map(|(name, title, measure, is_logarithmic)| over(entries, name, title, measure, is_logarithmic));
    let mut charts: Vec<Chart> = over_services.chain(distribution(results, entries)).collect();
    if results.plan.backends == Backends::Remote {
        for chart in &mut charts {
            chart.name = chart.name.replacen("vip-", "vip-remote-", 1);
            chart.subtitle.push_str("; backends on another node");
        }
    }
    charts
}

/// A measure over the number of services, the measured one being the last.
fn over(entries: &[Entry], name: &str, title: &str, measure: Measure, is_logarithmic: bool) -> Option<Chart> {
    let shown = |entry: &&Entry| {
        entry.measure == measure
            && (entry.position.is_none() || entry.position == last_position(entries, entry.services))
    };
    let shown: Vec<&Entry> = entries.iter().filter(shown).collect();
    let modes: BTreeSet<Mode> = shown.iter().map(|entry| entry.mode).collect();
    let line = |mode: Mode| Line {
        mode,
        points: shown
            .iter()
            .filter(|entry| entry.mode == mode)
            .map(|entry| (entry.services as f64, entry.value))
            .collect(),
    };
    let lines: Vec<Line> = modes.into_iter().map(line).collect();
    let (x, y) = (bounds(&lines, |point| point.0)?, bounds(&lines, |point| point.1)?);
    let y = if is_logarithmic {
        (y.0 / 1.5, y.1 * 1.5)
    } else {
        (0.0, y.1 * 1.1)
    };
    Some(Chart {
        name: name.to_owned(),
        title: title.to_owned(),
        subtitle: match measure {
            Measure::ConnectLatencyP50 | Measure::CpuPerConnection => "the service is the last of all; lower is better",
            _ => "lower is better",
        }
        .to_owned(),
        x: Axis {
            title: "services".to_owned(),
            is_logarithmic: true,
            range: (x.0 / 1.3, x.1 * 1.3),
        },
        y: Axis {
            title: measure.unit().to_owned(),
            is_logarithmic,
            range: y,
        },
        lines,
        marks: true,
    })
}

/// Shares of connections by time, with as many services as most modes have.
fn distribution(results: &Results, entries: &[Entry]) -> Option<Chart> {
    let modes_with = |services: usize| {
        let keys = results.times.keys().filter(|(count, _, _)| *count == services);
        keys.map(|(_, mode, _)| *mode).collect::<BTreeSet<_>>().len()
    };
    let services = results.times.keys().map(|(services, _, _)| *services);
    let services = services.max_by_key(|services| (modes_with(*services), *services))?;
    let last = last_position(entries, services);
    let mut lines = Vec::new();
    for ((count, mode, position), times) in &results.times {
        if *count != services || !(position.is_none() || *position == last) {
            continue;
        }
        let total = times.values().sum::<u64>() as f64;
        let mut seen = 0;
        let points = times.iter().map(|(nanoseconds, times)| {
            seen += times;
            (*nanoseconds as f64 / 1e3, seen as f64 / total * 100.0)
        });
        lines.push(Line {
            mode: *mode,
            points: points.collect(),
        });
    }
    // From the fastest to what all but one in a thousand stay below.
    let ends = lines.iter().filter_map(|line| {
        let end = line.points.iter().find(|(_, share)| *share >= 99.9)?;
        Some((line.points.first()?.0, end.0))
    });
    let (from, to) = ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
    Some(Chart {
        name: "vip-distribution".to_owned(),
        title: format!("Time of connect() with {} services", thousands(services)),
        subtitle: "share of connections that were made within that time; further left is better".to_owned(),
        x: Axis {
            title: "µs".to_owned(),
            is_logarithmic: true,
            range: (from / 1.1, to * 1.1),
        },
        y: Axis {
            title: "% of connections".to_owned(),
            is_logarithmic: false,
            range: (0.0, 100.0),
        },
        lines,
        marks: false,
    })
}

fn bounds(lines: &[Line], part: impl Fn(&(f64, f64)) -> f64) -> Option<(f64, f64)> {
    let values = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(part)
        .map(|value| (value, value));
    values.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mode::Position, report::grid::tests::entry};

    #[test]
    fn a_line_runs_over_the_numbers_of_services() {
        let p50 = Measure::ConnectLatencyP50;
        let entries = [
            entry(Mode::Iptables, 1, Some(Position::First), p50, 2.0),
            entry(Mode::Iptables, 100, Some(Position::First), p50, 2.5),
            entry(Mode::Iptables, 100, Some(Position::Last), p50, 3.0),
            entry(Mode::Direct, 100, None, p50, 1.0),
        ];
        let chart = over(&entries, "n", "t", p50, false).unwrap();
        assert_eq!(chart.lines.len(), 2);
        assert_eq!(chart.lines[1].points, [(1.0, 2.0), (100.0, 3.0)]);
        assert!(chart.y.range.1 > 3.0 && chart.x.range.0 < 1.0);
        assert_eq!(over(&entries, "n", "t", Measure::Memory, true), None);
    }
}
