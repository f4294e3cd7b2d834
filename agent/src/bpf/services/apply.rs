//! One group of frontends into the maps: its backends and its table, up to where entries can point to them.

use causeway_abi::{backend::IN_USE, service::SCOPE_NODE};

use super::{
    ServiceSync,
    arena::Range,
    backends::Held,
    entries::{Newcomer, Old, Ready, all_written},
    groups::{Group, GroupId},
    holds::{Holds, Predecessor},
    maglev,
    report::Reason,
    sync::Pass,
    tables::{self, Written},
    wanted::Wanted,
    writer::{Condition, MapWriter},
};
use crate::bpf::desired::BackendId;

/// A table to which nothing points yet. Its backends are referenced.
#[derive(Debug)]
pub(super) struct Table {
    /// `None` without backends.
    pub range: Option<Range>,
    pub written: Written,
}

impl ServiceSync {
    /// Brings one group to what is wanted; `None` for one that is new, which joins the newcomers. What cannot be done is in the
    /// pass's report.
    pub(super) fn apply<'a>(
        &mut self,
        owner: &'a str,
        mut wanted: Wanted<'a>,
        group: Option<GroupId>,
        newcomers: &mut Vec<Newcomer<'a>>,
        pass: &mut Pass<'_, impl MapWriter>,
    ) {
        let current = group.and_then(|id| Some((id, self.groups.get(id)?)));
        if let Some((group, Group { owns_id: true, .. })) = current {
            match self.change(&mut wanted, group, pass) {
                Ok(old) => self.point(vec![Ready { wanted, group, old }], pass),
                Err(reason) => pass.refuse(&wanted, wanted.vip(), reason),
            }
            return;
        }
        let group = current.map(|(id, _)| id);
        match self.prepare(&wanted, group, pass) {
            Ok((table, service_id)) => newcomers.push(Newcomer {
                owner,
                wanted,
                group,
                table,
                service_id,
            }),
            Err(reason) => pass.refuse(&wanted, wanted.vip(), reason),
        }
        if group.is_some() {
            // At once, while its number is its.
            self.admit(std::mem::take(newcomers), pass);
        }
    }

    /// Brings a group that is there to what is wanted, up to its entries. Answers what it had before.
    fn change(
        &mut self,
        wanted: &mut Wanted<'_>,
        group: GroupId,
        pass: &mut Pass<'_, impl MapWriter>,
    ) -> Result<Old, Reason> {
        let Some(current) = self.groups.get(group) else {
            return Ok(Old::default());
        };
        if !current.stale && current.choice == wanted.choice && !self.may_shrink(current) {
            if current.members != wanted.members {
                self.hold_members(wanted, group, pass)?;
            }
            self.describe(wanted, group, pass)?;
            return Ok(Old::default());
        }
        let table = self.build(wanted, Some(group), pass)?;
        self.describe(wanted, group, pass)
            .inspect_err(|_| self.let_go(table.range, &wanted.members, pass.now))?;
        Ok(self.replace(wanted, group, table))
    }

    /// Makes a table, and finds an id, for a group that has none of its own.
    fn prepare(
        &mut self,
        wanted: &Wanted<'_>,
        group: Option<GroupId>,
        pass: &mut Pass<'_, impl MapWriter>,
    ) -> Result<(Table, u32), Reason> {
        let table = self.build(wanted, group, pass)?;
        let Some(service_id) = self.ids.allocate(pass.now) else {
            // Never visible to a program, but resting costs nothing.
            self.let_go(table.range, &wanted.members, pass.now);
            return Err(Reason::IdsFull);
        };
        Ok((table, service_id))
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

    /// Writes a new table, beside the one that the group has.
    fn build(
        &mut self,
        wanted: &Wanted<'_>,
        group: Option<GroupId>,
        pass: &mut Pass<'_, impl MapWriter>,
    ) -> Result<Table, Reason> {
        let held = self.take(&wanted.members, pass)?;
        let before = group.or_else(|| self.whose_flows(wanted));
        let current = self.sound(before);
        // A table that is too large stays as it is while its backends come and go.
        let shrinks = current.is_some_and(|group| group.choice == wanted.choice && self.may_shrink(group));
        let size = current.filter(|_| !shrinks).and_then(|group| group.range);
        let range = self
            .allocate(wanted.choice.len(), size.map_or(0, |range| range.len))
            .inspect_err(|_| self.let_go(None, &wanted.members, pass.now))?;
        let Some(new) = range else {
            let written = Written::default();
            return Ok(Table { range, written });
        };
        let before = self.sound(before).and_then(|group| {
            let (range, holds) = (group.range?, &group.holds);
            Some(Predecessor { range, holds })
        });
        let held = wanted.held_by_choice(&held);
        pass.report.slots_written += new.len as usize;
        let written = tables::write(new, &wanted.choice, &held, before, pass.now + self.hold, pass.writer);
        Ok(Table { range, written })
    }

    /// A group whose table is what it should be.
    fn sound(&self, group: Option<GroupId>) -> Option<&Group> {
        self.groups.get(group?).filter(|group| !group.stale)
    }

    /// The group that a service's clients in the network go by until now, where another is about to take its place.
    fn whose_flows(&self, wanted: &Wanted<'_>) -> Option<GroupId> {
        let mut keys = wanted.keys().filter(|key| key.scope == SCOPE_NODE);
        let group = keys.find_map(|key| self.groups.entry(&key))?.group;
        let is_its = |group: &Group| *group.owner == *wanted.desired.owner();
        self.groups.get(group).is_some_and(is_its).then_some(group)
    }

    /// New slots, and the wanted backends, in place of a group's old ones: whatever still points there is to be sent on.
    pub(super) fn replace(&mut self, wanted: &mut Wanted<'_>, group: GroupId, table: Table) -> Old {
        let mut old = Old::default();
        if let Some(group) = self.groups.get_mut(group) {
            old.range = std::mem::replace(&mut group.range, table.range);
            old.members = std::mem::replace(&mut group.members, std::mem::take(&mut wanted.members));
            group.choice = std::mem::take(&mut wanted.choice);
            group.holds = Holds::default();
            group.stale = false;
        }
        self.remember(group, table.written.holds, &table.written.remembered);
        old
    }

    /// Name and source ranges of a group that has its id; before the entries that ask for them.
    fn describe(
        &mut self,
        wanted: &Wanted<'_>,
        group: GroupId,
        pass: &mut Pass<'_, impl MapWriter>,
    ) -> Result<(), Reason> {
        let Some(group) = self.groups.get_mut(group) else {
            return Ok(());
        };
        if group.source_ranges.as_deref() != Some(wanted.source_ranges) {
            pass.writer.set_source_ranges(group.service_id, wanted.source_ranges)?;
            group.source_ranges = Some(wanted.source_ranges.to_vec());
        }
        if group.name != wanted.desired.name {
            all_written(pass.writer.put_names(&[group.service_id], &[&wanted.desired.name]))?;
            group.name.clone_from(&wanted.desired.name);
        }
        Ok(())
    }

    /// References backends and writes their elements.
    fn take(&mut self, members: &[BackendId], pass: &mut Pass<'_, impl MapWriter>) -> Result<Vec<Held>, Reason> {
        let mut held = Vec::with_capacity(members.len());
        for id in members {
            let Some(one) = self.backends.acquire(*id) else {
                self.let_go(None, &members[..held.len()], pass.now);
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
