//! What passes leave for later: freed things that rest, slots that remember, backends that are unsettled.

use std::time::Instant;

use causeway_abi::service::SCOPE_NODE;
use causeway_ebpf::select::slot;
use causeway_maps::Protocol;

use super::{
    ServiceSync, SyncReport,
    groups::{Group, GroupId},
    holds::Holds,
    sync::Pass,
    tables, unsettled,
    writer::{MapWriter, WrittenFlow},
};

/// Slots that one pass makes forget at most, so that no pass takes long. It is about a millisecond.
pub(super) const FORGET_AT_ONCE: usize = 65_536;

impl ServiceSync {
    /// When [`settle`](Self::settle) has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        let forgetting = self.expiring.front().map(|(until, _)| *until);
        let others = [self.backends.next_due(), self.unsettled.next_due()];
        forgetting.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Frees what has rested long enough, a bounded part of it at once.
    pub fn settle(&mut self, now: Instant, writer: &mut impl MapWriter) -> SyncReport {
        let mut pass = Pass::new(now, writer);
        let mut budget = FORGET_AT_ONCE;
        self.free(&mut pass, &mut budget);
        self.forget(&mut pass, &mut budget);
        self.settle_backends(&mut pass);
        pass.report
    }

    /// Prepares for direct server return, before programs know of it: until now flows from the network were translated.
    pub fn doubt_all(&mut self, now: Instant, writer: &mut impl MapWriter) {
        let from_network = |group: &Group| group.keys.iter().any(|key| key.scope == SCOPE_NODE);
        let concerned: Vec<GroupId> = self
            .groups
            .ids()
            .filter(|id| self.groups.get(*id).is_some_and(from_network))
            .collect();
        for group in concerned {
            self.doubt(group, now, writer);
        }
    }

    /// Lets no slot of a group decide alone until no flow is known that is elsewhere: they are about to get flows that went by something
    /// else until now.
    pub(super) fn doubt(&mut self, group: GroupId, now: Instant, writer: &mut impl MapWriter) {
        let Some(range) = self.groups.get(group).and_then(|group| group.range) else {
            return;
        };
        tables::doubt(range, writer);
        let mut holds = Holds::default();
        holds.add(now + self.hold, (0..range.len).collect());
        self.remember(group, holds, &[]);
    }

    /// Notes what the slots of a group remember, and until when.
    pub(super) fn remember(&mut self, group: GroupId, holds: Holds, backends: &[u32]) {
        if holds.is_empty() {
            return;
        }
        if let Some(until) = holds.last_due() {
            self.expiring.push_back((until, group));
        }
        for backend in backends {
            self.remembered.entry(*backend).or_default().insert(group);
        }
        if let Some(group) = self.groups.get_mut(group) {
            group.holds = holds;
        }
    }

    /// Frees slots and backends; what is freed can be used in this very pass.
    pub(super) fn free(&mut self, pass: &mut Pass<'_, impl MapWriter>, budget: &mut usize) {
        self.arena.settle(pass.now);
        while *budget > 0
            && let Some((id, held)) = self.backends.settle(pass.now)
        {
            pass.writer.withdraw_backend(held.index, &id);
            pass.report.backends_written += 1;
            if id.protocol == Protocol::TCP {
                pass.report.gone.push(id);
            }
            *budget -= 1;
            // Before the index can get another owner, which slots would send old flows to.
            for group in self.remembered.remove(&held.index).unwrap_or_default() {
                let Some(group) = self.groups.get(group) else { continue };
                let Some(range) = group.range else { continue };
                *budget = budget.saturating_sub(group.holds.positions().count());
                let is_it = |backend| backend == held.index;
                tables::disown(range, group.holds.positions(), is_it, pass.writer);
            }
        }
    }

    /// Makes slots forget whose they were when their time is over, unless a flow still needs it. That takes a look at all flows that
    /// are written down, for which no change should have to wait.
    fn forget(&mut self, pass: &mut Pass<'_, impl MapWriter>, budget: &mut usize) {
        let mut flows = None;
        while *budget > 0
            && let Some((until, id)) = self.expiring.front().copied()
            && until <= pass.now
        {
            // With session affinity, slots never decide alone, and no flow needs to be asked for.
            let key = self.groups.get(id).and_then(|group| group.keys.first());
            let entry = key.and_then(|key| self.groups.entry(key));
            let decides = entry.is_some_and(|entry| entry.service.affinity_seconds == 0);
            if let Some(group) = self.groups.get_mut(id)
                && let Some(range) = group.range
            {
                let due = group.holds.take_due(pass.now, budget);
                let flows = if decides {
                    flows.get_or_insert_with(|| pass.writer.direct_flows()).as_slice()
                } else {
                    &[]
                };
                let (needed, over) = tables::needed(range, &group.keys, due, flows, pass.writer);
                let settled = tables::forget(range, &group.keys, &over, flows, pass.writer);
                pass.writer.forget_flows(&settled);
                if !needed.is_empty() {
                    group.holds.add(pass.now + self.hold, needed);
                    self.expiring.push_back((pass.now + self.hold, id));
                }
                if group.holds.next_due().is_some_and(|next| next <= pass.now) {
                    break;
                }
            }
            self.expiring.pop_front();
        }
        if self.expiring.is_empty() {
            self.remembered.clear();
        }
    }

    /// Lets the slots of backends decide alone that took no connections for a time, once no flow that began meanwhile is with others.
    fn settle_backends(&mut self, pass: &mut Pass<'_, impl MapWriter>) {
        let due = self.unsettled.take_due(pass.now);
        if due.is_empty() {
            return;
        }
        let slot_of = |flow: &WrittenFlow| {
            let service = self.groups.entry(&flow.service)?.service;
            // As in `forget`.
            let decides = service.slot_count > 0 && service.affinity_seconds == 0;
            decides.then(|| pass.writer.read_slot(slot(&service, flow.hash)))
        };
        let flows = pass.writer.direct_flows().into_iter();
        let flows: Vec<_> = flows.filter_map(|flow| Some((flow, slot_of(&flow)?))).collect();
        let missed = unsettled::missed(&flows);
        let (later, settled): (Vec<u32>, _) = due.into_iter().partition(|index| missed.contains(index));
        for index in later {
            self.unsettled.put(index, pass.now + self.hold);
        }
        for index in &settled {
            pass.writer.settle_backend(*index);
        }
        let decided = unsettled::settled_with(&settled.into_iter().collect(), flows);
        pass.writer.forget_flows(&decided);
    }
}
