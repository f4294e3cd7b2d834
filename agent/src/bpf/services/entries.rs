//! Entries of `SERVICES`, what new groups have before the first of them, and what old tables are good for after the last.

use std::collections::HashMap;

use causeway_abi::service::{SCOPE_NODE, Service, ServiceKey};
use causeway_maps::{MapsError, Refused};

use super::{
    ServiceSync,
    apply::Table,
    arena::Range,
    groups::{Group, GroupId},
    sync::Pass,
    wanted::{Wanted, frontend_flags, vip},
    writer::MapWriter,
};
use crate::bpf::desired::BackendId;

/// A group that is to get an id of its own, which nothing shows yet.
#[derive(Debug)]
pub(super) struct Newcomer<'a> {
    pub owner: &'a str,
    pub wanted: Wanted<'a>,
    /// The group that becomes it, if there is one.
    pub group: Option<GroupId>,
    pub table: Table,
    pub service_id: u32,
}

/// A group with everything that its entries point to.
#[derive(Debug)]
pub(super) struct Ready<'a> {
    pub wanted: Wanted<'a>,
    pub group: GroupId,
    pub old: Old,
}

/// What a group gives back when its entries point elsewhere; nothing where its table stays.
#[derive(Debug, Default)]
pub(super) struct Old {
    pub range: Option<Range>,
    pub members: Vec<BackendId>,
}

impl ServiceSync {
    /// Gives newcomers counters at zero, their names and source ranges, and then their entries: many at once, because each call of
    /// the kernel has its price.
    pub(super) fn admit(&mut self, newcomers: Vec<Newcomer<'_>>, pass: &mut Pass<'_, impl MapWriter>) {
        let ids: Vec<u32> = newcomers.iter().map(|newcomer| newcomer.service_id).collect();
        let names = newcomers.iter().map(|newcomer| newcomer.wanted.desired.name.as_str());
        let mut refused: HashMap<usize, MapsError> = pass.writer.clear_counters(&ids).into_iter().collect();
        refused.extend(pass.writer.put_names(&ids, &names.collect::<Vec<_>>()));
        let mut ready = Vec::with_capacity(newcomers.len());
        for (number, newcomer) in newcomers.into_iter().enumerate() {
            let (id, wanted) = (newcomer.service_id, &newcomer.wanted);
            let described = match refused.remove(&number) {
                Some(error) => Err(error),
                None => pass.writer.set_source_ranges(id, wanted.source_ranges),
            };
            if let Err(error) = described {
                pass.writer.remove_name(id);
                self.ids.release_unused(id);
                self.let_go(newcomer.table.range, &wanted.members, pass.now);
                pass.refuse(wanted, wanted.vip(), error.into());
            } else {
                ready.push(self.found(newcomer));
            }
        }
        self.point(ready, pass);
    }

    /// Makes a group of a newcomer.
    fn found<'a>(&mut self, newcomer: Newcomer<'a>) -> Ready<'a> {
        let mut wanted = newcomer.wanted;
        let group = newcomer.group.unwrap_or_else(|| {
            let owner = self.groups.shared_name(newcomer.owner);
            self.groups.insert(Group::empty(owner))
        });
        if let Some(group) = self.groups.get_mut(group) {
            group.service_id = newcomer.service_id;
            group.owns_id = true;
            group.name.clone_from(&wanted.desired.name);
            group.source_ranges = Some(wanted.source_ranges.to_vec());
            group.keys.reserve_exact(wanted.frontends.len());
        }
        let old = self.replace(&mut wanted, group, newcomer.table);
        Ready { wanted, group, old }
    }

    /// Points the entries of `SERVICES` to their groups' tables, and gives back what nothing points to any more.
    pub(super) fn point(&mut self, ready: Vec<Ready<'_>>, pass: &mut Pass<'_, impl MapWriter>) {
        let (mut whose, mut keys, mut services) = (Vec::new(), Vec::new(), Vec::new());
        for (number, one) in ready.iter().enumerate() {
            let entries = self.entries(one);
            if entries.iter().any(|entry| self.inherits(one.group, entry, pass)) {
                self.doubt(one.group, pass.now, pass.writer);
            }
            for (key, service) in entries {
                whose.push(number);
                keys.push(key);
                services.push(service);
            }
        }
        let mut refused = pass.writer.put_services(&keys, &services).into_iter().peekable();
        let mut refused_last = None;
        for (position, number) in whose.into_iter().enumerate() {
            let (one, key) = (&ready[number], keys[position]);
            if let Some((_, error)) = refused.next_if(|(at, _)| *at == position) {
                // The first of each is told.
                if refused_last.replace(number) != Some(number) {
                    pass.refuse(&one.wanted, vip(&key), error.into());
                }
                continue;
            }
            pass.report.services_written += 1;
            if let Some(emptied) = self.groups.assign(key, one.group, services[position]) {
                self.drop_group(emptied, pass);
            }
        }
        for one in ready {
            self.leave(&one, pass);
        }
    }

    /// The entries of a group that are to be written: those that are there already first, so that no old one is left when there is
    /// no room for new ones.
    fn entries(&self, ready: &Ready<'_>) -> Vec<(ServiceKey, Service)> {
        let Some(group) = self.groups.get(ready.group) else {
            return Vec::new();
        };
        let wanted = &ready.wanted;
        let flagged = wanted
            .frontends
            .iter()
            .map(|(key, frontend)| (*key, frontend_flags(frontend)));
        // Also those that should have gone and could not be removed.
        let left_over = group
            .keys
            .iter()
            .filter(|key| wanted.keys().all(|wanted| wanted != **key))
            .filter_map(|key| Some((*key, self.groups.entry(key)?.service.flags)));
        let entry = |(key, flags)| {
            let service = Service {
                slot_base: group.range.map_or(0, |range| range.base),
                slot_count: group.range.map_or(0, |range| range.len),
                service_id: group.service_id,
                flags,
                affinity_seconds: wanted.desired.affinity_seconds,
            };
            (key, service)
        };
        let is_there = |(key, service): &(ServiceKey, Service)| {
            // Of a new group, none is there.
            group.keys.contains(key) && self.groups.entry(key).is_some_and(|entry| entry.service == *service)
        };
        let mut entries: Vec<_> = flagged.chain(left_over).map(entry).collect();
        entries.retain(|entry| !is_there(entry));
        entries.sort_by_key(|(key, _)| self.groups.entry(key).is_none());
        entries
    }

    /// Whether slots are about to decide alone on flows from the network that are not where they would have them, because those began
    /// by something else: by another group's slots, by session affinity, or before there were no backends or no service for a time.
    fn inherits(
        &self,
        group: GroupId,
        (key, service): &(ServiceKey, Service),
        pass: &mut Pass<'_, impl MapWriter>,
    ) -> bool {
        let decides = service.slot_count > 0 && service.affinity_seconds == 0;
        if key.scope != SCOPE_NODE || !decides || !pass.writer.returns_directly() {
            return false;
        }
        match self.groups.entry(key) {
            Some(before) if before.service.slot_count > 0 => {
                before.group != group || before.service.affinity_seconds != 0
            }
            // No flow can begin meanwhile, so one look is enough.
            _ => pass.has_flows_elsewhere(key, service),
        }
    }

    /// Gives back what a group had before, and drops a group that got no entry.
    fn leave(&mut self, ready: &Ready<'_>, pass: &mut Pass<'_, impl MapWriter>) {
        let strays = ready.old.range.is_some() && self.strays(ready.group);
        if strays {
            tracing::error!(
                service = ready.wanted.desired.name,
                "an entry could not be changed; its old table stays"
            );
        }
        self.let_go(ready.old.range.filter(|_| !strays), &ready.old.members, pass.now);
        if self.groups.get(ready.group).is_some_and(|group| group.keys.is_empty()) {
            // It never had an entry, so no program knows its number.
            if let Some(id) = self.forget_group(ready.group, pass) {
                self.ids.release_unused(id);
            }
        }
    }

    /// Whether an entry of a group points elsewhere than to its table.
    fn strays(&self, group: GroupId) -> bool {
        let Some(group) = self.groups.get(group) else {
            return false;
        };
        let mut entries = group.keys.iter().filter_map(|key| self.groups.entry(key));
        let base = group.range.map_or(0, |range| range.base);
        entries.any(|entry| entry.service.slot_base != base)
    }
}

/// Tells of the first that was refused.
pub(super) fn all_written(refused: Refused) -> Result<(), MapsError> {
    refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}
