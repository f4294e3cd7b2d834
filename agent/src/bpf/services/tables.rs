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
#[derive(Debug)]
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
        return Written {
            holds: Holds::default(),
            remembered: Vec::new(),
        };
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
            let position = ((u64::from(flow.hash) * u64::from(range.len)) >> 32) as u32;
            let elsewhere = writer.read_slot(range.base + position).backend != flow.backend;
            elsewhere.then_some(position)
        })
        .collect();
    due.into_iter().partition(|position| used.contains(position))
}

/// Makes slots forget whose they were, if `which` holds for that backend.
pub fn forget(
    range: Range,
    positions: impl IntoIterator<Item = u32>,
    which: impl Fn(u32) -> bool,
    writer: &mut impl MapWriter,
) {
    for position in positions {
        let slot = writer.read_slot(range.base + position);
        if slot.previous != NO_BACKEND && which(slot.previous) {
            // Eight aligned bytes: programs see the slot as it was or as it is.
            writer.write_slot(
                range.base + position,
                Slot {
                    previous: NO_BACKEND,
                    ..slot
                },
            );
        }
    }
}
