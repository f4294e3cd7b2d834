//! The benchmark itself: rounds over modes and positions, and what is kept of them.

mod cell;
mod change;
pub(crate) mod check;
mod machine;
mod results;
mod rig;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

pub use machine::Machine;
pub use results::{Key, Refusal, Results};

use crate::{
    clock::milliseconds,
    interrupt,
    mode::{Measure, Mode, Position, SiteKind},
    options::Plan,
    program::{GaveUp, timed},
    progress::Progress,
    site::leftovers,
    worker::Task,
};
use cell::Cell;
pub(crate) use rig::Rig;

/// Servers behind each measured service.
const BACKENDS: usize = 2;
/// Tasks of a round.
const TASKS: [Task; 6] = [
    Task::Connect,
    Task::Churn,
    Task::Connections,
    Task::KeepAlive,
    Task::Stream,
    Task::Udp,
];
/// Seconds around each single measurement, and for a change of an endpoint: guesses for the time left.
const AROUND: f64 = 0.06;
const CHANGE: f64 = 0.3;
/// More services than this are programmed once only: it takes some a minute.
const FEW: usize = 1_000;
/// Length of the first, unrecorded measurement of each kind.
const WARM_UP_MILLISECONDS: u64 = 30;

/// Measures everything that is planned.
pub fn run(plan: &Plan) -> Result<Results> {
    leftovers::remove();
    let mut progress = Progress::new(plan.services.iter().map(|services| guess(plan, *services)).sum());
    let mut results = Results::new(Machine::look()?, plan);
    for (mode, why) in &plan.unavailable {
        progress.note(&format!("{} is not available: {why}", mode.name()));
    }
    for services in &plan.services {
        let without: Vec<&str> = plan.modes_without(*services).into_iter().map(Mode::name).collect();
        if !without.is_empty() {
            results.note(&format!(
                "not asked to hold {services} services: {}",
                without.join(", ")
            ));
        }
        measure(plan, *services, &mut progress, &mut results).with_context(|| format!("with {services} services"))?;
    }
    progress.clear();
    results.seconds = progress.elapsed().as_secs_f64();
    Ok(results)
}

/// Seconds that so many services will take.
fn guess(plan: &Plan, services: usize) -> f64 {
    let kinds = sites(&plan.modes_with(services));
    let building: f64 = kinds.iter().map(|kind| guess_building(plan, services, *kind)).sum();
    let rounds = plan.rounds as f64;
    building
        + rounds * cells(plan, services).len() as f64 * TASKS.len() as f64 * guess_task(plan.milliseconds)
        + rounds * kinds.len() as f64 * CHANGE
}

fn guess_task(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3 + AROUND
}

fn guess_building(plan: &Plan, services: usize, kind: SiteKind) -> f64 {
    let times = if services > FEW { 1 } else { plan.programmings };
    let thousands = services as f64 / 1e3;
    let programming = match kind {
        SiteKind::Causeway | SiteKind::CausewayXdp | SiteKind::CausewayXdpDirect => thousands / 50.0,
        SiteKind::Plain => 0.0,
        SiteKind::Ipvs => thousands / 5.0,
        SiteKind::Iptables => thousands / 6.0,
        SiteKind::IptablesNft => thousands,
        // The kernel looks at all anonymous maps to name the next.
        SiteKind::Nftables => thousands * thousands / 2.0,
    };
    times as f64 * (0.5 + programming)
}

fn sites(modes: &[Mode]) -> Vec<SiteKind> {
    let mut kinds: Vec<SiteKind> = modes.iter().map(|mode| mode.site()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

fn cells(plan: &Plan, services: usize) -> Vec<Cell> {
    let positions = plan.positions_among(services);
    let of_mode = |mode: Mode| -> Vec<Cell> {
        if mode.is_direct() {
            return vec![Cell { mode, position: None }];
        }
        let cell = |position: &Position| Cell {
            mode,
            position: Some(*position),
        };
        positions.iter().map(cell).collect()
    };
    plan.modes_with(services).into_iter().flat_map(of_mode).collect()
}

fn measure(plan: &Plan, services: usize, progress: &mut Progress, results: &mut Results) -> Result<()> {
    let mut rigs = BTreeMap::new();
    for kind in sites(&plan.modes_with(services)) {
        progress.show(&format!("{services} services: programming {kind:?}"));
        match build(plan, services, kind, results) {
            Ok(rig) => drop(rigs.insert(kind, rig)),
            Err(error) if error.is::<GaveUp>() => {
                let modes = plan.modes_with(services).into_iter().filter(|mode| mode.site() == kind);
                let names: Vec<&str> = modes.map(Mode::name).collect();
                results.note(&format!(
                    "{} with {services} services: left out, {error:#}",
                    names.join(", ")
                ));
            }
            Err(error) => {
                interrupt::check()?;
                for mode in plan.modes_with(services).into_iter().filter(|mode| mode.site() == kind) {
                    results.refuse(mode, services, None, "programming", &format!("{error:#}"));
                }
            }
        }
        progress.done(guess_building(plan, services, kind));
    }
    let cells: Vec<Cell> = cells(plan, services)
        .into_iter()
        .filter(|cell| rigs.contains_key(&cell.mode.site()))
        .collect();
    for task in TASKS {
        for cell in &cells {
            let rig = rigs.get_mut(&cell.mode.site()).context("a node without a rig")?;
            cell.perform(rig, task, WARM_UP_MILLISECONDS)?;
        }
    }
    for round in 0..plan.rounds {
        for task in TASKS {
            // Who begins changes from round to round.
            let start = round % cells.len().max(1);
            for cell in cells[start..].iter().chain(&cells[..start]) {
                interrupt::check()?;
                progress.show(&format!(
                    "{services} services, round {}/{}: {}",
                    round + 1,
                    plan.rounds,
                    cell.title(task)
                ));
                let rig = rigs.get_mut(&cell.mode.site()).context("a node without a rig")?;
                cell.measure(rig, task, plan.milliseconds, (services, round), results)?;
                progress.done(guess_task(plan.milliseconds));
            }
        }
    }
    for round in 0..plan.rounds {
        for (kind, rig) in &mut rigs {
            interrupt::check()?;
            progress.show(&format!(
                "{services} services, round {}/{}: changes",
                round + 1,
                plan.rounds
            ));
            if let Some(mode) = representative(plan, *kind) {
                change::measure(rig, mode, (services, round), results)?;
            }
            progress.done(CHANGE);
        }
    }
    Ok(())
}

/// The mode under which a node's programming is reported: the first of those that share its maps or rules.
fn representative(plan: &Plan, kind: SiteKind) -> Option<Mode> {
    let balances = |mode: &&Mode| mode.site() == kind && !mode.is_direct();
    plan.modes.iter().find(balances).copied()
}

/// Programs everything from nothing, as often as planned; the last of these nodes stays.
fn build(plan: &Plan, services: usize, kind: SiteKind, results: &mut Results) -> Result<Rig> {
    let times = match (representative(plan, kind), services) {
        (None, _) => 1,
        (_, services) if services > FEW => 1,
        _ => plan.programmings,
    };
    let mut time = 0;
    loop {
        interrupt::check()?;
        let mut rig = Rig::build(kind, plan.backends, services, &plan.positions_among(services))?;
        let cost = timed(|| rig.program())?;
        if let Some(mode) = representative(plan, kind) {
            let key = |measure| Key::of_mode(mode, services, measure);
            results.add(key(Measure::ProgrammingTime), time, milliseconds(cost.wall));
            results.add(key(Measure::ProgrammingCpu), time, milliseconds(cost.cpu));
            match rig.memory() {
                Ok(bytes) => results.add(key(Measure::Memory), time, bytes as f64 / f64::from(1 << 20)),
                Err(error) => results.note(&format!("memory of {} is not known: {error:#}", mode.name())),
            }
        }
        time += 1;
        if time >= times {
            rig.start_workers()?;
            return Ok(rig);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Backends;

    fn plan() -> Plan {
        Plan {
            backends: Backends::Local,
            modes: vec![Mode::Direct, Mode::CausewaySocket, Mode::CausewayTc, Mode::Iptables],
            unavailable: Vec::new(),
            services: vec![1, 100],
            positions: vec![Position::First, Position::Last],
            rounds: 3,
            milliseconds: 100,
            programmings: 1,
        }
    }

    #[test]
    fn direct_ways_have_no_position() {
        let cells = cells(&plan(), 100);
        let direct: Vec<_> = cells.iter().filter(|cell| cell.mode == Mode::Direct).collect();
        assert_eq!(direct.len(), 1);
        assert_eq!(cells.len(), 1 + 3 * 2);
        assert!(
            cells
                .iter()
                .all(|cell| cell.mode.is_direct() == cell.position.is_none())
        );
    }

    #[test]
    fn modes_of_one_node_share_it() {
        assert_eq!(sites(&plan().modes), [SiteKind::Causeway, SiteKind::Iptables]);
        assert_eq!(representative(&plan(), SiteKind::Causeway), Some(Mode::CausewaySocket));
        assert_eq!(representative(&plan(), SiteKind::Plain), None);
    }
}
