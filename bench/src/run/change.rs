//! How long one change among all services takes until a client meets it.

use anyhow::Result;

use super::{
    results::{Key, Results},
    rig::Rig,
};
use crate::{
    clock::now_ns,
    mode::{Measure, Mode},
    worker::{Job, Task},
};

/// No change takes longer.
const LONGEST_MILLISECONDS: u64 = 60_000;

/// Moves the measured service from one backend to the other, and flips readiness where that is something else.
pub(super) fn measure(
    rig: &mut Rig,
    mode: Mode,
    (services, round): (usize, usize),
    results: &mut Results,
) -> Result<()> {
    // The one in the middle of those that are measured; where it stands does not matter to a change.
    let measured = rig.measured();
    let service = measured[measured.len() / 2];
    let [from, to] = if round.is_multiple_of(2) { [0, 1] } else { [1, 0] };

    rig.change(service, &[from])?;
    match watch(rig, mode, service, to, |rig| rig.change(service, &[to])) {
        Ok(milliseconds) => {
            results.add(
                Key::of_mode(mode, services, Measure::EndpointChange),
                round,
                milliseconds,
            );
        }
        Err(error) => results.refuse(mode, services, None, "endpoint change", &format!("{error:#}")),
    }

    rig.change(service, &[0, 1])?;
    if rig.flip(to, false)? {
        let flip = |rig: &mut Rig| {
            rig.flip(to, true)?;
            rig.flip(from, false).map(drop)
        };
        match watch(rig, mode, service, to, flip) {
            Ok(milliseconds) => {
                results.add(
                    Key::of_mode(mode, services, Measure::ReadinessFlip),
                    round,
                    milliseconds,
                );
            }
            Err(error) => results.refuse(mode, services, None, "readiness", &format!("{error:#}")),
        }
        rig.flip(from, true)?;
    }
    Ok(())
}

/// Milliseconds from the beginning of `change` to the beginning of the first connection that goes to backend `to`, after
/// which none goes elsewhere.
fn watch(
    rig: &mut Rig,
    mode: Mode,
    service: usize,
    to: usize,
    change: impl FnOnce(&mut Rig) -> Result<()>,
) -> Result<f64> {
    let task = Task::WatchFor(to as u8 + 1);
    let job = Job {
        task,
        targets: rig.targets(Some(service), task),
        milliseconds: LONGEST_MILLISECONDS,
    };
    rig.client(mode)?.begin_watch(&job)?;
    let begun = now_ns();
    let changed = change(rig);
    let outcome = rig.client(mode)?.outcome()?;
    changed?;
    if outcome.errors > 0 || outcome.wrong > 0 {
        anyhow::bail!(
            "{} requests failed during the change; the first: {}",
            outcome.errors + outcome.wrong,
            outcome.first_error.unwrap_or_default()
        );
    }
    let Some(at) = outcome.changed_at_ns else {
        anyhow::bail!("the change did not show within {LONGEST_MILLISECONDS} ms");
    };
    let milliseconds = at.saturating_sub(begun) as f64 / 1e6;
    Ok(milliseconds)
}
