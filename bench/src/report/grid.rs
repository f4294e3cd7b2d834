//! Entries side by side: measures down, modes across.

use std::collections::BTreeSet;

use super::Entry;
use crate::mode::{Measure, Mode, Position};

/// What was measured with so many services, with the measured service at its last place.
#[derive(Debug)]
pub(super) struct Grid<'a> {
    /// How many services.
    pub(super) services: usize,
    /// Columns.
    pub(super) modes: Vec<Mode>,
    /// Rows: an entry, or none, for each column.
    pub(super) rows: Vec<(Measure, Vec<Option<&'a Entry>>)>,
}

/// One for each number of services.
pub(super) fn grids(entries: &[Entry]) -> Vec<Grid<'_>> {
    let counts: BTreeSet<usize> = entries.iter().map(|entry| entry.services).collect();
    counts.into_iter().map(|services| grid(entries, services)).collect()
}

fn grid(entries: &[Entry], services: usize) -> Grid<'_> {
    let shown: Vec<&Entry> = entries.iter().filter(|entry| entry.services == services).collect();
    let last = shown.iter().filter_map(|entry| entry.position).max();
    let is_shown = |entry: &&&Entry| entry.position.is_none() || entry.position == last;
    let modes: BTreeSet<Mode> = shown.iter().map(|entry| entry.mode).collect();
    let measures: BTreeSet<Measure> = shown.iter().map(|entry| entry.measure).collect();
    let find = |measure: Measure, mode: Mode| {
        let of_both = |entry: &&&Entry| entry.measure == measure && entry.mode == mode;
        shown.iter().filter(is_shown).find(of_both).copied()
    };
    let row = |measure: Measure| (measure, modes.iter().map(|mode| find(measure, *mode)).collect());
    Grid {
        services,
        rows: measures.into_iter().map(row).collect(),
        modes: modes.into_iter().collect(),
    }
}

/// The last place of the measured service among so many, as far as it was measured.
pub(super) fn last_position(entries: &[Entry], services: usize) -> Option<Position> {
    let positions = entries.iter().filter(|entry| entry.services == services);
    positions.filter_map(|entry| entry.position).max()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mode::Backends;

    /// An entry with no ratios.
    pub(in super::super) fn entry(
        mode: Mode,
        services: usize,
        position: Option<Position>,
        measure: Measure,
        value: f64,
    ) -> Entry {
        Entry {
            backends: Backends::Local,
            mode,
            services,
            position,
            measure,
            value,
            unit: measure.unit(),
            ratio_to_direct: None,
            ratio_to_iptables: None,
            spread: None,
        }
    }

    #[test]
    fn the_last_position_and_what_has_none_are_shown() {
        let p50 = Measure::ConnectLatencyP50;
        let entries = [
            entry(Mode::Direct, 100, None, p50, 1.0),
            entry(Mode::Iptables, 100, Some(Position::First), p50, 2.0),
            entry(Mode::Iptables, 100, Some(Position::Last), p50, 3.0),
            entry(Mode::Iptables, 100, None, Measure::Memory, 4.0),
            entry(Mode::Iptables, 1, Some(Position::First), p50, 5.0),
        ];
        let grids = grids(&entries);
        assert_eq!(grids.len(), 2);
        assert_eq!(grids[1].modes, [Mode::Direct, Mode::Iptables]);
        let values: Vec<Vec<Option<f64>>> = grids[1]
            .rows
            .iter()
            .map(|(_, row)| row.iter().map(|entry| entry.map(|entry| entry.value)).collect())
            .collect();
        assert_eq!(values, [vec![Some(1.0), Some(3.0)], vec![None, Some(4.0)]]);
    }
}
