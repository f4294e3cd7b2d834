//! What the user asks for.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Measure the data path against its goals: sockets through a virtual address, packets through the programs, changes by the agent.
///
/// Everything runs in network namespaces of its own. What is measured, and what it means, is in docs/benchmarks.md.
#[derive(Clone, Args, Debug)]
pub struct Options {
    /// A first impression: fewer and shorter rounds.
    #[arg(long)]
    pub quick: bool,
    /// Which parts.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,…")]
    pub parts: Vec<Part>,
    /// Rounds over the packets; the first warms up.
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub rounds: Option<u16>,
    /// The larger number of services; goals are of the default.
    #[arg(long, default_value_t = 100_000, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(10..=500_000))]
    pub services: u32,
    /// Also write all results as a JSON list to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also put the results into this document, in the place of those that are in it.
    #[arg(long, value_name = "FILE")]
    pub document: Option<PathBuf>,
    /// Directory for results.
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    pub output: PathBuf,
}

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    /// Through a virtual address against straight to the pod, and with many services against one.
    Sockets,
    /// Nanoseconds of the programs for one packet.
    Packets,
    /// What changes cost the agent.
    Programming,
}

/// How much is measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    parts: Vec<Part>,
    /// The larger number of services.
    pub(super) many: usize,
    /// Pairs of measurements of each kind through sockets.
    pub(super) pairs: usize,
    /// Length of each of them.
    pub(super) slice_milliseconds: u64,
    /// Rounds of what is done by both ways in turn.
    pub(super) in_turn: usize,
    /// Length of each of them.
    pub(super) in_turn_milliseconds: u64,
    /// Rounds over the packets.
    pub(super) packet_rounds: usize,
    /// Packets of a case in each.
    pub(super) packets: u32,
    /// Changes of an endpoint.
    pub(super) changes: usize,
    /// Flips of readiness.
    pub(super) flips: usize,
}

impl Plan {
    /// Two nodes, one of them with many services.
    pub(super) const BUILDING_SECONDS: f64 = 4.0;

    pub(super) fn new(options: &Options) -> Self {
        let parts = match options.parts.as_slice() {
            [] => Part::value_variants().to_vec(),
            given => given.to_vec(),
        };
        let rounds = |usual: usize| options.rounds.map_or(usual, usize::from);
        if options.quick {
            Self {
                parts,
                many: options.services as usize,
                pairs: 30,
                slice_milliseconds: 25,
                in_turn: 3,
                in_turn_milliseconds: 500,
                packet_rounds: rounds(10),
                packets: 8_192,
                changes: 10,
                flips: 500,
            }
        } else {
            Self {
                parts,
                many: options.services as usize,
                pairs: 240,
                slice_milliseconds: 25,
                in_turn: 20,
                in_turn_milliseconds: 1_000,
                packet_rounds: rounds(40),
                packets: 16_384,
                changes: 50,
                flips: 5_000,
            }
        }
    }

    pub(super) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// A guess at the whole.
    pub(super) fn seconds(&self) -> f64 {
        let mut seconds = Self::BUILDING_SECONDS;
        if self.has(Part::Sockets) {
            seconds += self.sockets_seconds();
        }
        if self.has(Part::Packets) {
            seconds += self.packets_seconds();
        }
        if self.has(Part::Programming) {
            seconds += self.programming_seconds();
        }
        seconds
    }

    /// Two kinds of pairs, and two of what is done in turn.
    pub(super) fn sockets_seconds(&self) -> f64 {
        2.0 * (self.pairs_seconds() + self.in_turn_seconds())
    }

    /// Pairs of one kind.
    pub(super) fn pairs_seconds(&self) -> f64 {
        self.pairs as f64 * 2.0 * (self.slice_milliseconds as f64 / 1e3 + 0.02)
    }

    /// One kind of what is done in turn.
    pub(super) fn in_turn_seconds(&self) -> f64 {
        self.in_turn as f64 * self.in_turn_milliseconds as f64 / 1e3
    }

    pub(super) fn packets_seconds(&self) -> f64 {
        self.packet_rounds as f64 * 2.0
    }

    pub(super) fn programming_seconds(&self) -> f64 {
        self.changes as f64 * 0.6
    }
}
