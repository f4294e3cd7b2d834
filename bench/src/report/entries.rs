//! Medians, ratios and spread: one entry for each value that is shown.

use serde::Serialize;

use crate::{
    mode::{Backends, Measure, Mode, Position},
    run::{Key, Results},
    stats::{deviation, median, paired_ratio},
};

/// A value, as in the JSON list.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Entry {
    /// Where the backends were.
    pub backends: Backends,
    /// Which way.
    pub mode: Mode,
    /// How many services there were.
    pub services: usize,
    /// Where the measured one stood; null where no single service is meant.
    pub position: Option<Position>,
    /// What was measured.
    pub measure: Measure,
    /// Median over the rounds.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// Against the pods' own addresses over the same pod network: median of the rounds' ratios.
    pub ratio_to_direct: Option<f64>,
    /// Against iptables with as many services and at the same position: median of the rounds' ratios.
    pub ratio_to_iptables: Option<f64>,
    /// Median absolute deviation over the rounds, in the same unit; null for a single value.
    pub spread: Option<f64>,
}

impl Entry {
    /// What it is of.
    pub fn key(&self) -> Key {
        Key {
            services: self.services,
            measure: self.measure,
            mode: self.mode,
            position: self.position,
        }
    }
}

/// An entry for each value.
pub fn entries(results: &Results) -> Vec<Entry> {
    results
        .samples
        .iter()
        .filter_map(|(key, samples)| entry(results, *key, samples))
        .collect()
}

fn entry(results: &Results, key: Key, samples: &[(usize, f64)]) -> Option<Entry> {
    let values: Vec<f64> = samples.iter().map(|(_, value)| *value).collect();
    let ratio_to = |mode: Mode, position: Option<Position>| {
        let reference = results.samples.get(&Key { mode, position, ..key })?;
        paired_ratio(samples, reference)
    };
    Some(Entry {
        backends: results.plan.backends,
        mode: key.mode,
        services: key.services,
        position: key.position,
        measure: key.measure,
        value: median(&values)?,
        unit: key.measure.unit(),
        ratio_to_direct: ratio_to(key.mode.direct(), None),
        ratio_to_iptables: ratio_to(Mode::Iptables, key.position),
        spread: if values.len() > 1 { deviation(&values) } else { None },
    })
}
