//! Taking over what an earlier agent left in the maps.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use causeway_abi::service::NO_BACKEND;

use super::{
    ServiceSync,
    arena::Range,
    groups::{Group, GroupId},
    holds::Holds,
    writer::{AdoptedBackend, AdoptedService, MapWriter},
};
use crate::bpf::desired::owner_of;

impl ServiceSync {
    /// Takes over what pinned maps hold; to be called once, before the first pass. Nothing is judged yet, and nothing written
    /// but that slots forget backends that are gone.
    pub fn adopt(
        &mut self,
        backends: impl IntoIterator<Item = AdoptedBackend>,
        services: impl IntoIterator<Item = AdoptedService>,
        now: Instant,
        writer: &mut impl MapWriter,
    ) {
        for backend in backends {
            self.backends.recover(backend.owner, backend.generation);
        }
        let mut by_id: HashMap<u32, GroupId> = HashMap::new();
        for adopted in services {
            let (key, service) = (adopted.key, adopted.service);
            let shared = by_id.get(&service.service_id).copied();
            let shared = shared.filter(|group| self.has_table(*group, table(&adopted)));
            let group = shared.unwrap_or_else(|| {
                let group = self.adopt_group(&adopted, now, writer);
                by_id.entry(service.service_id).or_insert(group);
                group
            });
            self.groups.assign(key, group, service);
        }
    }

    fn has_table(&self, group: GroupId, table: Option<Range>) -> bool {
        let group = self.groups.get(group);
        group.is_some_and(|group| !group.stale && group.range == table)
    }

    fn adopt_group(&mut self, adopted: &AdoptedService, now: Instant, writer: &mut impl MapWriter) -> GroupId {
        let wanted = table(adopted);
        let range = wanted.filter(|range| self.arena.claim(*range));
        // A crash between two writes, or a map made anew beside old ones: such a service is written again in full.
        let mut stale = wanted != range;
        let mut members = HashSet::new();
        let mut remembering = Vec::new();
        for position in 0..range.map_or(0, |range| range.len) {
            let slot = writer.read_slot(range.map_or(0, |range| range.base) + position);
            match self.backends.owner(slot.backend) {
                Some(id) => drop(members.insert(id)),
                None => stale = true,
            }
            if slot.previous != NO_BACKEND {
                remembering.push((position, slot.previous));
            }
        }
        let service_id = adopted.service.service_id;
        let owns_id = self.ids.claim(service_id);
        stale |= !owns_id;
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_unstable();
        for id in &members {
            self.backends.acquire(*id);
        }
        let group = self.groups.insert(Group {
            owner: self.groups.shared_name(owner_of(&adopted.name)),
            name: adopted.name.clone(),
            service_id,
            owns_id,
            range,
            holds: Holds::default(),
            choice: members.clone(),
            members,
            source_ranges: None,
            keys: Vec::new(),
            stale,
        });
        if let Some(range) = range {
            self.adopt_memories(group, range, &remembering, now, writer);
        }
        group
    }

    /// What slots remember holds anew for the whole time: when it began is not known.
    fn adopt_memories(
        &mut self,
        group: GroupId,
        range: Range,
        remembering: &[(u32, u32)],
        now: Instant,
        writer: &mut impl MapWriter,
    ) {
        let backends = &self.backends;
        let gone = |backend: u32| backends.owner(backend).is_none();
        let positions: Vec<u32> = remembering.iter().map(|(position, _)| *position).collect();
        super::tables::disown(range, positions.iter().copied(), gone, writer);
        let mut previous: Vec<u32> = remembering.iter().map(|(_, previous)| *previous).collect();
        previous.sort_unstable();
        previous.dedup();
        let mut holds = Holds::default();
        holds.add(now + self.hold, positions);
        self.remember(group, holds, &previous);
    }
}

/// The table an entry points to.
fn table(adopted: &AdoptedService) -> Option<Range> {
    let (base, len) = (adopted.service.slot_base, adopted.service.slot_count);
    (len > 0).then_some(Range { base, len })
}
