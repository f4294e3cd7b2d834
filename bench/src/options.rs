//! What the user asks for.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::mode::{Backends, Mode, Position};

/// Compare ways of balancing virtual addresses: latency, rates, processor time, programming time, memory.
///
/// Everything runs in network namespaces of its own. What is measured, and what it means, is in docs/benchmarks.md.
#[derive(Clone, Args, Debug)]
pub struct Options {
    /// A first impression within a minute: 1 and 1,000 services, four modes.
    #[arg(long)]
    pub quick: bool,
    /// Which modes; the direct way that each compares with is added.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODE,…")]
    pub modes: Vec<Mode>,
    /// Where the backends are: on the node that balances, or on another, with the client outside the cluster.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "local,remote")]
    pub backends: Vec<Backends>,
    /// How many services, one run after the other.
    #[arg(long, value_delimiter = ',', value_name = "NUMBER,…")]
    pub services: Vec<usize>,
    /// Where the measured service stands among all.
    #[arg(long, value_delimiter = ',', value_parser = parse_position, value_name = "first,middle,last")]
    pub positions: Vec<Position>,
    /// Rounds; in each, every mode is measured once.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// Length of each single measurement.
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub milliseconds: Option<u64>,
    /// Also write all results as a JSON list to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also put the results into this document, in the place of those that are in it.
    #[arg(long, value_name = "FILE")]
    pub document: Option<PathBuf>,
    /// Directory for results, plots and the page.
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    pub output: PathBuf,
}

fn parse_position(text: &str) -> Result<Position, String> {
    match text {
        "first" => Ok(Position::First),
        "middle" => Ok(Position::Middle),
        "last" => Ok(Position::Last),
        _ => Err("neither first nor middle nor last".to_owned()),
    }
}

/// What will be measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Where the backends are.
    pub backends: Backends,
    /// Modes that can be measured here, direct ones first.
    pub modes: Vec<Mode>,
    /// Modes that were asked for and cannot be, and why.
    pub unavailable: Vec<(Mode, String)>,
    /// Numbers of services, rising.
    pub services: Vec<usize>,
    /// Positions that were asked for.
    pub positions: Vec<Position>,
    /// Rounds.
    pub rounds: usize,
    /// Length of each single measurement.
    pub milliseconds: u64,
    /// How often everything is programmed from nothing.
    pub programmings: usize,
}

impl Plan {
    /// From options and what this machine has: one for each place of the backends.
    pub fn all(options: &Options) -> Result<Vec<Self>> {
        let places = match (options.backends.as_slice(), options.quick) {
            ([], true) => vec![Backends::Local],
            ([], false) => vec![Backends::Local, Backends::Remote],
            (given, _) => given.to_vec(),
        };
        let mut plans = Vec::new();
        let mut refused = None;
        for backends in places {
            match Self::with(options, backends, |mode| mode.unavailable(backends)) {
                Ok(plan) => plans.push(plan),
                // Of modes that are asked for by name, some are only for one place.
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if plans.is_empty() => Err(error),
            _ => Ok(plans),
        }
    }

    fn with(options: &Options, backends: Backends, why_not: impl Fn(Mode) -> Option<String>) -> Result<Self> {
        let quick = options.quick;
        let asked = match (options.modes.as_slice(), quick, backends) {
            ([], true, Backends::Local) => vec![Mode::Direct, Mode::CausewaySocket, Mode::Iptables, Mode::Nftables],
            ([], true, Backends::Remote) => vec![
                Mode::Direct,
                Mode::CausewayTc,
                Mode::CausewayXdpDirect,
                Mode::Iptables,
                Mode::Nftables,
            ],
            // What is only for the other place needs no excuse.
            ([], false, _) => Mode::value_variants()
                .iter()
                .copied()
                .filter(|mode| mode.is_for(backends))
                .collect(),
            (given, ..) => given.to_vec(),
        };
        let mut modes: Vec<Mode> = asked.iter().flat_map(|mode| [mode.direct(), *mode]).collect();
        modes.sort_unstable();
        modes.dedup();
        let reasons = modes.iter().filter_map(|mode| Some((*mode, why_not(*mode)?)));
        let unavailable: Vec<(Mode, String)> = reasons.collect();
        modes.retain(|mode| unavailable.iter().all(|(other, _)| other != mode));
        // A direct way that nothing compares with any more.
        modes
            .retain(|mode| asked.contains(mode) || modes_of(&asked, &unavailable).any(|other| other.direct() == *mode));
        if modes.is_empty() {
            bail!("no mode can be measured here: {}", reasons_text(&unavailable));
        }

        let mut services = match (options.services.as_slice(), quick) {
            ([], true) => vec![1, 1_000],
            ([], false) if backends == Backends::Remote => vec![1, 1_000, 10_000],
            ([], false) => vec![1, 100, 1_000, 10_000, 100_000],
            (given, _) => given.to_vec(),
        };
        services.sort_unstable();
        services.dedup();
        if services.first() == Some(&0) || services.last() > Some(&500_000) {
            bail!("from 1 to 500,000 services can be measured");
        }
        let positions = match (options.positions.as_slice(), quick) {
            ([], true) => vec![Position::Last],
            ([], false) if backends == Backends::Remote => vec![Position::Last],
            ([], false) => vec![Position::First, Position::Middle, Position::Last],
            (given, _) => given.to_vec(),
        };
        Ok(Self {
            backends,
            modes,
            unavailable,
            services,
            positions,
            rounds: options.rounds.map_or(if quick { 3 } else { 5 }, usize::from),
            milliseconds: options.milliseconds.unwrap_or(if quick { 150 } else { 500 }),
            programmings: if quick { 1 } else { 3 },
        })
    }

    /// The positions that are measured among so many services.
    pub fn positions_among(&self, services: usize) -> Vec<Position> {
        let there = Position::among(services);
        let wanted: Vec<Position> = there.iter().copied().filter(|p| self.positions.contains(p)).collect();
        if wanted.is_empty() { vec![there[0]] } else { wanted }
    }

    /// The modes that are measured with so many services: those that can hold them, and what they compare with.
    pub fn modes_with(&self, services: usize) -> Vec<Mode> {
        let holds = |mode: &Mode| mode.most_services() >= services;
        let is_compared_with = |mode: &Mode| {
            let others = self
                .modes
                .iter()
                .filter(|other| other.direct() == *mode && *other != mode);
            others.clone().any(holds) || others.count() == 0
        };
        let modes = self.modes.iter().copied();
        modes
            .filter(|mode| {
                if mode.is_direct() {
                    is_compared_with(mode)
                } else {
                    holds(mode)
                }
            })
            .collect()
    }

    /// The modes that are left out with so many services.
    pub fn modes_without(&self, services: usize) -> Vec<Mode> {
        let with = self.modes_with(services);
        let modes = self.modes.iter().copied();
        modes.filter(|mode| !mode.is_direct() && !with.contains(mode)).collect()
    }
}

fn modes_of<'a>(asked: &'a [Mode], unavailable: &'a [(Mode, String)]) -> impl Iterator<Item = Mode> + 'a {
    let is_there = |mode: &&Mode| unavailable.iter().all(|(other, _)| other != *mode);
    asked.iter().filter(is_there).copied()
}

fn reasons_text(unavailable: &[(Mode, String)]) -> String {
    let texts: Vec<String> = unavailable
        .iter()
        .map(|(mode, why)| format!("{}: {why}", mode.name()))
        .collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn plan(arguments: &[&str], why_not: impl Fn(Mode) -> Option<String>) -> Result<Plan> {
        let options = Command::parse_from(["bench"].iter().chain(arguments)).options;
        Plan::with(&options, Backends::Local, why_not)
    }

    #[test]
    fn quick_is_four_modes_and_what_they_compare_with() {
        let plan = plan(&["--quick"], |_| None).unwrap();
        let expected = [
            Mode::Direct,
            Mode::DirectRouted,
            Mode::CausewaySocket,
            Mode::Iptables,
            Mode::Nftables,
        ];
        assert_eq!(plan.modes, expected);
        assert_eq!(plan.services, [1, 1_000]);
        assert_eq!(plan.positions_among(1_000), [Position::Last]);
        assert_eq!(plan.positions_among(1), [Position::First]);
    }

    #[test]
    fn what_the_machine_lacks_is_left_out_and_named() {
        let without = |mode| (mode == Mode::Nftables).then(|| "no nft".to_owned());
        let plan = plan(&["--modes", "nftables,causeway-tc"], without).unwrap();
        assert_eq!(plan.modes, [Mode::Direct, Mode::CausewayTc]);
        assert_eq!(plan.unavailable, [(Mode::Nftables, "no nft".to_owned())]);
    }

    #[test]
    fn nothing_to_measure_is_an_error_with_the_reason() {
        let error = plan(&["--modes", "ipvs"], |mode| {
            (!mode.is_direct()).then(|| "no module".to_owned())
        });
        assert!(error.unwrap_err().to_string().contains("ipvs: no module"));
    }

    #[test]
    fn rules_in_a_list_are_not_asked_for_a_hundred_thousand() {
        let plan = plan(&[], |_| None).unwrap();
        assert!(plan.modes_with(10_000).contains(&Mode::Iptables));
        assert!(!plan.modes_with(100_000).contains(&Mode::Iptables));
        assert!(plan.modes_with(100_000).contains(&Mode::CausewayTc));
    }

    #[test]
    fn everything_is_measured_in_both_places_and_each_has_its_own_modes() {
        let options = Command::parse_from(["bench"]).options;
        let remote = Plan::with(&options, Backends::Remote, |_| None).unwrap();
        assert!(remote.modes.contains(&Mode::CausewayXdp) && !remote.modes.contains(&Mode::CausewaySocket));
        let local = Plan::with(&options, Backends::Local, |_| None).unwrap();
        assert!(local.modes.contains(&Mode::CausewaySocket) && !local.modes.contains(&Mode::CausewayXdp));
    }

    #[test]
    fn impossible_numbers_are_refused() {
        assert!(plan(&["--services", "0"], |_| None).is_err());
        assert!(plan(&["--services", "1000000"], |_| None).is_err());
    }
}
