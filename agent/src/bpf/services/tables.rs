//! Maglev tables in `SLOTS`.

use std::{collections::BTreeSet, time::Instant};

use causeway_abi::service::{NO_BACKEND, ServiceKey, Slot};

use super::{
    arena::Range,
    backends::Held,
    holds::{Holds, Predecessor, predecessor},
    maglev,
    writer::{MapWriter, WrittenFlow},
};
use crate::bpf::desired::BackendId;

/// A table that was written, though nothing points to it yet.
#[derive(Debug, Default)]
pub struct Written {
    /// Slots that remember whose they were.
    pub holds: Holds,
    /// The backends they remember, each once.
    pub remembered: Vec<u32>,
}

/// Writes the table of these backends, held where `held` says, into its range. Slots that change hands remember until
/// `until` whose they were before.
pub fn write(
    range: Range,
    members: &[BackendId],
    held: &[Held],
    before: Option<Predecessor<'_>>,
    until: Instant,
    writer: &mut impl MapWriter,
) -> Written {
    let table = maglev::table(members, range.len);
    let backend = |member: u32| held[member as usize].index;
    let Some(before) = before else {
        for (position, member) in (0..).zip(table) {
            let slot = Slot {
                backend: backend(member),
                previous: NO_BACKEND,
            };
            writer.write_slot(range.base + position, slot);
        }
        return Written::default();
    };
    let (mut changed, mut carried, mut remembered) = (Vec::new(), Vec::new(), Vec::new());
    for (position, member) in (0..).zip(table) {
        let old = writer.read_slot(before.range.base + predecessor(position, before.range.len, range.len));
        let backend = backend(member);
        let previous = if old.backend == backend {
            old.previous
        } else {
            old.backend
        };
        if previous != NO_BACKEND {
            let places = if old.backend == backend {
                &mut carried
            } else {
                &mut changed
            };
            places.push(position);
            remembered.push(previous);
        }
        writer.write_slot(range.base + position, Slot { backend, previous });
    }
    remembered.sort_unstable();
    remembered.dedup();
    let mut holds = before.holds.carry(before.range.len, range.len, &carried);
    holds.add(until, changed);
    Written { holds, remembered }
}

/// Parts places whose hold is over: those of slots that flows still meet whose backend is another than the slot's, and the rest.
/// `due` may be in any order; both parts are ascending.
pub fn needed(
    range: Range,
    keys: &[ServiceKey],
    mut due: Vec<u32>,
    flows: &[WrittenFlow],
    writer: &impl MapWriter,
) -> (Vec<u32>, Vec<u32>) {
    due.sort_unstable();
    let used: BTreeSet<u32> = flows
        .iter()
        .filter(|flow| keys.contains(&flow.service))
        .filter_map(|flow| {
            let position = place(range, flow);
            let elsewhere = writer.read_slot(range.base + position).backend != flow.backend;
            elsewhere.then_some(position)
        })
        .collect();
    due.into_iter().partition(|position| used.contains(position))
}

/// The place in a table that a flow's hash points to.
fn place(range: Range, flow: &WrittenFlow) -> u32 {
    ((u64::from(flow.hash) * u64::from(range.len)) >> 32) as u32
}

/// Makes slots forget whose they were, and answers the flows, of those that are written down for `keys`, that these slots decide on
/// alone from here on. `positions` are ascending.
pub fn forget(
    range: Range,
    keys: &[ServiceKey],
    positions: &[u32],
    flows: &[WrittenFlow],
    writer: &mut impl MapWriter,
) -> Vec<WrittenFlow> {
    for position in positions {
        let slot = writer.read_slot(range.base + position);
        if slot.previous != NO_BACKEND {
            // Eight aligned bytes: programs see the slot as it was or as it is.
            let previous = NO_BACKEND;
            writer.write_slot(range.base + position, Slot { previous, ..slot });
        }
    }
    let decided =
        |flow: &&WrittenFlow| keys.contains(&flow.service) && positions.binary_search(&place(range, flow)).is_ok();
    flows.iter().filter(decided).copied().collect()
}

/// Makes slots that remember nobody name their own backend as the one before it, so that flows with others that are known are looked up.
pub fn doubt(range: Range, writer: &mut impl MapWriter) {
    for position in 0..range.len {
        let slot = writer.read_slot(range.base + position);
        if slot.previous == NO_BACKEND {
            // As in `forget`.
            let previous = slot.backend;
            writer.write_slot(range.base + position, Slot { previous, ..slot });
        }
    }
}

/// Makes slots name their own backend in place of one before it, if `which` holds for that one: nobody is remembered any more, but
/// flows with others that are written down still are looked up.
pub fn disown(
    range: Range,
    positions: impl IntoIterator<Item = u32>,
    which: impl Fn(u32) -> bool,
    writer: &mut impl MapWriter,
) {
    for position in positions {
        let slot = writer.read_slot(range.base + position);
        if slot.previous != NO_BACKEND && slot.previous != slot.backend && which(slot.previous) {
            // As in `forget`.
            let previous = slot.backend;
            writer.write_slot(range.base + position, Slot { previous, ..slot });
        }
    }
}
