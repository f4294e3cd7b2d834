//! One group of frontends into the maps.

use causeway_abi::{
    backend::IN_USE,
    service::{Service, ServiceKey},
};

use super::{
    ServiceSync,
    arena::Range,
    backends::Held,
    groups::{Group, GroupId},
    holds::{Holds, Predecessor},
    maglev,
    report::{NotApplied, Reason},
    sync::Pass,
    tables,
    wanted::{Wanted, frontend_flags, vip},
    writer::{Condition, MapWriter},
};
use crate::bpf::desired::{BackendId, VipId};

/// A frontend that is not as desired, and why.
type Refusal = (VipId, Reason);

/// A group's table and id as `SERVICES` is to show them.
#[derive(Clone, Copy)]
struct Target {
    group: GroupId,
    range: Option<Range>,
    service_id: u32,
}

impl ServiceSync {
    /// Brings one group to what is wanted; `None` for one that is new. What cannot be done is in the pass's report.
    pub(super) fn apply(
        &mut self,
        owner: &str,
        wanted: &Wanted<'_>,
        group: Option<GroupId>,
        pass: &mut Pass<'_, impl MapWriter>,
    ) {
        let refusal = match self.try_apply(owner, wanted, group, pass) {
            Ok(refusal) => refusal,
            Err(reason) => Some((wanted.frontends[0].1.vip, reason)),
        };
        if let Some((vip, reason)) = refusal {
            let name = wanted.desired.name.clone();
            pass.report.not_applied.push(NotApplied { name, vip, reason });
        }
    }

    fn try_apply(
        &mut self,
        owner: &str,
        wanted: &Wanted<'_>,
        group: Option<GroupId>,
        pass: &mut Pass<'_, impl MapWriter>,
    ) -> Result<Option<Refusal>, Reason> {
        let Some((id, current)) = group.and_then(|id| Some((id, self.groups.get(id)?))) else {
            return self.replace(owner, wanted, None, pass);
        };
        if current.stale || current.choice != wanted.choice || self.may_shrink(current) {
            return self.replace(owner, wanted, group, pass);
        }
        let target = Target {
            group: id,
            range: current.range,
            service_id: current.service_id,
        };
        if current.members != wanted.members {
            self.hold_members(wanted, id, pass)?;
        }
        self.describe(wanted, target, pass)?;
        Ok(self.point(wanted, target, pass))
    }

    /// Whether a table may shrink: one of a single backend loses nothing by that; others only do so where another service found
    /// no room.
    fn may_shrink(&self, group: &Group) -> bool {
        let Some(range) = group.range.filter(|_| group.holds.is_empty()) else {
            return false;
        };
        (group.choice.len() == 1 || self.short_of_slots)
            && maglev::oversized(group.choice.len(), self.slots_per_backend(), range.len)
    }

    /// Holds other backends than before; the table stays.
    fn hold_members(
        &mut self,
        wanted: &Wanted<'_>,
        group: GroupId,
        pass: &mut Pass<'_, impl MapWriter>,
    ) -> Result<(), Reason> {
        self.take(&wanted.members, pass)?;
        if let Some(group) = self.groups.get_mut(group) {
            let before = std::mem::replace(&mut group.members, wanted.members.clone());
            for id in &before {
                self.backends.release(id);
            }
        }
        Ok(())
    }

    /// Writes a group with a new table.
    fn replace(
        &mut self,
        owner: &str,
        wanted: &Wanted<'_>,
        group: Option<GroupId>,
        pass: &mut Pass<'_, impl MapWriter>,
    ) -> Result<Option<Refusal>, Reason> {
        let held = self.take(&wanted.members, pass)?;
        let before = group.and_then(|id| self.groups.get(id)).filter(|group| !group.stale);
        let current = before.and_then(|group| group.range).map_or(0, |range| range.len);
        // A table that is too large stays as it is while its backends come and go.
        let shrinks = before.is_some_and(|group| group.choice == wanted.choice && self.may_shrink(group));
        let range = match self.allocate(wanted.choice.len(), if shrinks { 0 } else { current }) {
            Ok(range) => range,
            Err(reason) => {
                self.let_go(None, &wanted.members, pass.now);
                return Err(reason);
            }
        };
        let written = range.map(|range| self.write_table(range, wanted, &held, group, pass));
        let target = match self.identify(owner, wanted, group, range, pass) {
            Ok(target) => target,
            Err(reason) => {
                // Never visible to a program, but resting costs nothing.
                self.let_go(range, &wanted.members, pass.now);
                return Err(reason);
            }
        };
        // New slots in place of the old ones: whatever still points there is sent on below.
        let (old_range, old_members) = self.groups.get_mut(target.group).map_or((None, Vec::new()), |group| {
            let old = std::mem::replace(&mut group.members, wanted.members.clone());
            group.choice.clone_from(&wanted.choice);
            group.holds = Holds::default();
            group.stale = false;
            (std::mem::replace(&mut group.range, range), old)
        });
        if let Some(written) = written {
            self.remember(target.group, written.holds, &written.remembered);
        }
        let refusal = self.point(wanted, target, pass);
        let strays = self.strays(target);
        if strays {
            tracing::error!(
                service = wanted.desired.name,
                "an entry could not be changed; its old table stays"
            );
        }
        self.let_go(old_range.filter(|_| !strays), &old_members, pass.now);
        if self.groups.get(target.group).is_some_and(|group| group.keys.is_empty()) {
            self.drop_group(target.group, pass);
        }
        Ok(refusal)
    }

    fn write_table(
        &self,
        range: Range,
        wanted: &Wanted<'_>,
        held: &[Held],
        group: Option<GroupId>,
        pass: &mut Pass<'_, impl MapWriter>,
    ) -> tables::Written {
        let before = group.and_then(|id| self.groups.get(id)).filter(|group| !group.stale);
        let before = before.and_then(|group| {
            let (range, holds) = (group.range?, &group.holds);
            Some(Predecessor { range, holds })
        });
        let held = wanted.held_by_choice(held);
        pass.report.slots_written += range.len as usize;
        tables::write(range, &wanted.choice, &held, before, pass.now + self.hold, pass.writer)
    }

    /// Gives a group its id, name and source ranges, and makes it if it is new.
    fn identify(
        &mut self,
        owner: &str,
        wanted: &Wanted<'_>,
        group: Option<GroupId>,
        range: Option<Range>,
        pass: &mut Pass<'_, impl MapWriter>,
    ) -> Result<Target, Reason> {
        let kept = group.and_then(|id| Some((id, self.groups.get(id)?)));
        if let Some((group, kept)) = kept.filter(|(_, kept)| kept.owns_id) {
            let service_id = kept.service_id;
            let target = Target {
                group,
                range,
                service_id,
            };
            self.describe(wanted, target, pass)?;
            return Ok(target);
        }
        let service_id = self.ids.allocate(pass.now).ok_or(Reason::IdsFull)?;
        let described = (|| {
            pass.writer.clear_counters(service_id)?;
            pass.writer.put_name(service_id, &wanted.desired.name)?;
            pass.writer.set_source_ranges(service_id, wanted.source_ranges)
        })();
        if let Err(error) = described {
            pass.writer.remove_name(service_id);
            self.ids.release(service_id, pass.now);
            return Err(error.into());
        }
        let identity = |group: &mut Group| {
            group.service_id = service_id;
            group.owns_id = true;
            group.name.clone_from(&wanted.desired.name);
            group.source_ranges = Some(wanted.source_ranges.to_vec());
        };
        let group = group.filter(|id| self.groups.get(*id).is_some()).unwrap_or_else(|| {
            let owner = self.groups.shared_name(owner);
            self.groups.insert(Group::empty(owner))
        });
        self.groups.get_mut(group).map(identity);
        Ok(Target {
            group,
            range,
            service_id,
        })
    }

    /// Name and source ranges of a group that has its id; before the entries that ask for them.
    fn describe(
        &mut self,
        wanted: &Wanted<'_>,
        target: Target,
        pass: &mut Pass<'_, impl MapWriter>,
    ) -> Result<(), Reason> {
        let Some(group) = self.groups.get_mut(target.group) else {
            return Ok(());
        };
        if group.source_ranges.as_deref() != Some(wanted.source_ranges) {
            pass.writer.set_source_ranges(target.service_id, wanted.source_ranges)?;
            group.source_ranges = Some(wanted.source_ranges.to_vec());
        }
        if group.name != wanted.desired.name {
            pass.writer.put_name(target.service_id, &wanted.desired.name)?;
            group.name.clone_from(&wanted.desired.name);
        }
        Ok(())
    }

    /// Points the entries of `SERVICES` to a group's table: those that are there already first, so that no old one is left when
    /// there is no room for new ones. Answers the first that could not be written.
    fn point(&mut self, wanted: &Wanted<'_>, target: Target, pass: &mut Pass<'_, impl MapWriter>) -> Option<Refusal> {
        let flagged = wanted
            .frontends
            .iter()
            .map(|(key, frontend)| (*key, frontend_flags(frontend)));
        // Also those that should have gone and could not be removed.
        let group = self.groups.get(target.group);
        let left_over: Vec<(ServiceKey, u32)> = group
            .map_or(&[][..], |group| &group.keys)
            .iter()
            .filter(|key| wanted.keys().all(|wanted| wanted != **key))
            .filter_map(|key| Some((*key, self.groups.entry(key)?.service.flags)))
            .collect();
        let mut entries: Vec<(ServiceKey, u32)> = flagged.chain(left_over).collect();
        entries.sort_by_key(|(key, _)| self.groups.entry(key).is_none());
        let mut refusal = None;
        for (key, flags) in entries {
            let service = Service {
                slot_base: target.range.map_or(0, |range| range.base),
                slot_count: target.range.map_or(0, |range| range.len),
                service_id: target.service_id,
                flags,
                affinity_seconds: wanted.desired.affinity_seconds,
            };
            let present = self.groups.entry(&key);
            if present.is_some_and(|entry| entry.group == target.group && entry.service == service) {
                continue;
            }
            match pass.writer.put_service(&key, &service) {
                Ok(()) => {
                    pass.report.services_written += 1;
                    if let Some(emptied) = self.groups.assign(key, target.group, service) {
                        self.drop_group(emptied, pass);
                    }
                }
                Err(error) => {
                    refusal.get_or_insert((vip(&key), error.into()));
                }
            }
        }
        refusal
    }

    /// Whether an entry of a group points elsewhere than to its table.
    fn strays(&self, target: Target) -> bool {
        let keys = self.groups.get(target.group).map_or(&[][..], |group| &group.keys);
        let entries = keys.iter().filter_map(|key| self.groups.entry(key));
        let base = target.range.map_or(0, |range| range.base);
        entries.into_iter().any(|entry| entry.service.slot_base != base)
    }

    /// References backends and writes their elements.
    fn take(&mut self, members: &[BackendId], pass: &mut Pass<'_, impl MapWriter>) -> Result<Vec<Held>, Reason> {
        let mut held = Vec::with_capacity(members.len());
        for id in members {
            let Some(one) = self.backends.acquire(*id) else {
                for id in &members[..held.len()] {
                    self.backends.release(id);
                }
                return Err(Reason::BackendsFull);
            };
            held.push(one);
        }
        for (id, held) in members.iter().zip(&held) {
            let condition = self.claims.condition(id).unwrap_or(Condition {
                flags: IN_USE,
                node: None,
            });
            pass.report.backends_written += usize::from(pass.writer.set_backend(*held, id, condition));
        }
        Ok(held)
    }

    /// A range for so many backends: the best size that fits. `None` for no backends.
    fn allocate(&mut self, backends: usize, current: u32) -> Result<Option<Range>, Reason> {
        let sizes = maglev::sizes(backends, self.slots_per_backend(), current);
        if sizes.is_empty() {
            return Err(Reason::TooManyBackends { backends });
        }
        if sizes == [0] {
            return Ok(None);
        }
        let range = sizes.into_iter().find_map(|size| self.arena.allocate(size));
        self.short_of_slots = range.is_none() || self.short_of_slots && self.slots_per_backend() <= 10;
        range.map(Some).ok_or(Reason::SlotsFull {
            backends,
            free: self.arena.free_slots(),
        })
    }

    /// How fine tables are, by how much room is left: so that the first services do not leave the last without a table.
    fn slots_per_backend(&self) -> u32 {
        let (free, all) = (u64::from(self.arena.free_slots()), u64::from(self.arena.len()));
        match free * 100 / all.max(1) {
            50.. => maglev::SLOTS_PER_BACKEND,
            25..50 => 30,
            10..25 => 10,
            0..10 => 1,
        }
    }

    /// Gives back a range and references.
    pub(super) fn let_go(&mut self, range: Option<Range>, members: &[BackendId], now: std::time::Instant) {
        if let Some(range) = range {
            self.arena.release(range, now);
        }
        for id in members {
            self.backends.release(id);
        }
    }
}
