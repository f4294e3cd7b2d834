//! What was read, as table cells and JSON. Pure: one file for each group of maps.

mod flows;
mod kernel;
mod network;
mod services;
mod units;

use std::time::Duration;

use causeway_maps::view::Reading;
use serde::Serialize;
use serde_json::{Value, json};

pub use self::units::{per_second, rate_text};
use crate::names::Names;

/// Entries with the columns they have.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rows {
    /// Names of the columns.
    narrow: &'static [&'static str],
    /// Names of the further columns of `-o wide`.
    wide: &'static [&'static str],
    /// Columns and JSON fields of rates, one for each of an entry's counts; those without a column are in JSON alone.
    rates: &'static [(&'static str, &'static str)],
    rated: bool,
    /// The entries.
    pub items: Vec<Item>,
}

/// One entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    narrow: Vec<String>,
    wide: Vec<String>,
    key: String,
    counts: Vec<u64>,
    rates: Vec<String>,
    /// All that is known.
    pub json: Value,
}

impl Rows {
    /// The columns.
    pub fn headers(&self, wide: bool) -> impl Iterator<Item = &'static str> {
        let rates = if self.rated { self.rates } else { &[] };
        let wide = if wide { self.wide } else { &[] };
        let named = rates
            .iter()
            .map(|(header, _)| *header)
            .filter(|header| !header.is_empty());
        self.narrow.iter().copied().chain(named).chain(wide.iter().copied())
    }

    /// The same with what was counted since `before`, per second.
    pub fn with_rates(mut self, before: &Self, time: Duration) -> Self {
        self.rated = true;
        for item in &mut self.items {
            let earlier = before.items.iter().find(|other| other.key == item.key);
            for (at, (header, field)) in self.rates.iter().enumerate() {
                let now = item.counts[at];
                let then = earlier.map_or(now, |earlier| earlier.counts[at]);
                let rate = per_second(now.saturating_sub(then), time);
                if !header.is_empty() {
                    item.rates.push(rate_text(rate));
                }
                if let Value::Object(fields) = &mut item.json {
                    fields.insert((*field).to_owned(), json!(rate));
                }
            }
        }
        self
    }
}

impl Item {
    /// Its cells below the columns.
    pub fn cells(&self, wide: bool) -> impl Iterator<Item = String> {
        let wide = if wide { self.wide.clone() } else { Vec::new() };
        self.narrow.clone().into_iter().chain(self.rates.clone()).chain(wide)
    }

    fn new(view: &impl Serialize, narrow: Vec<String>, wide: Vec<String>) -> Self {
        Self {
            narrow,
            wide,
            key: String::new(),
            counts: Vec::new(),
            rates: Vec::new(),
            json: serde_json::to_value(view).expect("views are plain data"),
        }
    }

    fn counting(self, key: String, counts: Vec<u64>) -> Self {
        Self { key, counts, ..self }
    }

    fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        if let Value::Object(fields) = &mut self.json {
            fields.insert(field.to_owned(), value.into());
        }
        self
    }
}

/// Rows of what was read; services as their counters alone where these are wanted.
pub fn rows(counters_only: bool, reading: &Reading, names: &Names) -> Rows {
    match reading {
        Reading::Services(all) if counters_only => services::counters(all),
        Reading::Services(all) => services::services(all, names),
        Reading::Backends(all) => services::backends(all, names),
        Reading::Slots(all) => services::slots(all, names),
        Reading::Conntrack(all) => flows::flows(all, names),
        Reading::Sockets(all) => flows::sockets(all, names),
        Reading::Affinity(all) => flows::affinity(all, names),
        Reading::Pods(all) => network::pods(all, names),
        Reading::Routes(all) => network::routes(all, names),
        Reading::Drops(all) => kernel::drops(all),
        Reading::Node(node) => network::the_node(node),
        Reading::Programs(all) => kernel::programs(all),
        Reading::Maps(all) => kernel::maps(all),
    }
}

#[cfg(test)]
mod tests;
