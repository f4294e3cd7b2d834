//! Passes over services: what is desired of some owners, or of all, against what was applied.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use causeway_abi::{
    backend::{IN_USE, READY, TERMINATING},
    service::ServiceKey,
};
use causeway_maps::Protocol;

use super::{
    arena::Arena,
    backends::{BackendIndexes, Held},
    claims::{self, Claim, Claims},
    groups::{GroupId, Groups},
    holds::Holds,
    ids::ServiceIds,
    report::{NotApplied, SyncReport},
    tables,
    wanted::{Wanted, vip},
    writer::MapWriter,
};
use crate::bpf::desired::{BackendId, DesiredService, DesiredServices, ServicesOf};

/// How long freed things rest.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    /// Slots and service ids: longer than any BPF program runs.
    pub slots: Duration,
    /// Backends: long enough for connections to end gracefully.
    pub backends: Duration,
    /// How long a slot that changed hands remembers whose it was.
    pub hold: Duration,
}

impl Default for Grace {
    fn default() -> Self {
        Self {
            slots: Duration::from_secs(5),
            backends: Duration::from_secs(30),
            hold: Duration::from_mins(2),
        }
    }
}

/// Slots that one pass makes forget at most, so that no pass takes long. It is about a millisecond.
const FORGET_AT_ONCE: usize = 65_536;

/// What the maps hold, as far as services go, and who owns what in them.
#[derive(Debug)]
pub struct ServiceSync {
    pub(super) groups: Groups,
    pub(super) arena: Arena,
    pub(super) backends: BackendIndexes,
    pub(super) ids: ServiceIds,
    pub(super) claims: Claims,
    pub(super) hold: Duration,
    /// A service found no room in `SLOTS`, and not much has become free since.
    pub(super) short_of_slots: bool,
    /// When slots of a group are to forget, soonest first. Groups may be gone or have other slots by then.
    expiring: VecDeque<(Instant, GroupId)>,
    /// The groups whose slots remember a backend index. Some may have forgotten it.
    remembered: HashMap<u32, BTreeSet<GroupId>>,
}

/// One pass.
pub(super) struct Pass<'w, W> {
    pub now: Instant,
    pub writer: &'w mut W,
    pub report: SyncReport,
}

/// What a pass is to do for one owner.
struct Plan<'a> {
    owner: &'a str,
    /// Each with the group that becomes it, if there is one.
    wanted: Vec<(Wanted<'a>, Option<GroupId>)>,
    /// Groups that nothing desired continues.
    obsolete: Vec<GroupId>,
    claims: Vec<Claim>,
}

impl ServiceSync {
    /// Nothing applied yet; sizes are those of the maps.
    pub fn new(slots: u32, backends: u32, ids: u32, grace: Grace) -> Self {
        Self {
            groups: Groups::default(),
            arena: Arena::new(slots, grace.slots),
            backends: BackendIndexes::new(backends, grace.backends),
            ids: ServiceIds::new(ids, grace.slots),
            claims: Claims::default(),
            hold: grace.hold,
            short_of_slots: false,
            expiring: VecDeque::new(),
            remembered: HashMap::new(),
        }
    }

    /// Brings the maps to what is desired, which must be the complete list.
    pub fn sync(&mut self, desired: &DesiredServices, now: Instant, writer: &mut impl MapWriter) -> SyncReport {
        let mut by_owner: BTreeMap<&str, Vec<&DesiredService>> = BTreeMap::new();
        for service in &desired.services {
            by_owner.entry(service.owner()).or_default().push(service);
        }
        let known: Vec<_> = self.groups.owners().cloned().collect();
        for owner in &known {
            by_owner.entry(owner).or_default();
        }
        self.backends.all_seen();
        let settled = self.settle(now, writer);
        let mut report = self.apply_all(&by_owner, now, writer);
        report.backends_written += settled.backends_written;
        report.gone.extend(settled.gone);
        report
    }

    /// Brings the maps to what is desired of some owners; each with all of its services, none for one that is gone. Others stay
    /// as they are, but for frontends that one of these takes over.
    pub fn update(&mut self, owners: &[ServicesOf], now: Instant, writer: &mut impl MapWriter) -> SyncReport {
        let by_owner = owners
            .iter()
            .map(|of| (of.owner.as_str(), of.services.iter().collect()));
        self.apply_all(&by_owner.collect(), now, writer)
    }

    /// Says that the next update is about every owner that there is and that there was: backends in adopted maps that nobody wants
    /// after it are not wanted any more.
    pub fn all_seen(&mut self) {
        self.backends.all_seen();
    }

    /// The owners of what is in the maps.
    pub fn owners(&self) -> impl Iterator<Item = &str> {
        self.groups.owners().map(|name| &**name)
    }

    /// When [`settle`](Self::settle) has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        let forgetting = self.expiring.front().map(|(until, _)| *until);
        forgetting.into_iter().chain(self.backends.next_due()).min()
    }

    /// Frees what has rested long enough, a bounded part of it at once.
    pub fn settle(&mut self, now: Instant, writer: &mut impl MapWriter) -> SyncReport {
        let mut pass = Pass {
            now,
            writer,
            report: SyncReport::default(),
        };
        let mut budget = FORGET_AT_ONCE;
        self.free(&mut pass, &mut budget);
        self.forget(&mut pass, &mut budget);
        pass.report
    }

    fn apply_all(
        &mut self,
        by_owner: &BTreeMap<&str, Vec<&DesiredService>>,
        now: Instant,
        writer: &mut impl MapWriter,
    ) -> SyncReport {
        let mut pass = Pass {
            now,
            writer,
            report: SyncReport::default(),
        };
        let mut budget = FORGET_AT_ONCE;
        self.free(&mut pass, &mut budget);
        let mut plans: Vec<_> = by_owner
            .iter()
            .map(|(owner, services)| self.plan(owner, services))
            .collect();
        self.remove_frontends(&plans, &mut pass);
        let postponed = self.claim(&mut plans, &mut pass);
        for plan in &plans {
            for (wanted, group) in &plan.wanted {
                self.apply(plan.owner, wanted, *group, &mut pass);
            }
        }
        // Also where a table that points to one could not be replaced.
        retire(&postponed, &mut pass);
        let retired = self.backends.retire_unreferenced(now);
        retire(&retired, &mut pass);
        pass.report
    }

    /// Which group becomes what: the one that has a frontend of it already.
    fn plan<'a>(&self, owner: &'a str, services: &[&'a DesiredService]) -> Plan<'a> {
        let mut obsolete = self
            .groups
            .owner(owner)
            .map_or_else(Vec::new, |owner| owner.groups.clone());
        let mut wanted = Vec::new();
        let mut claims: Vec<Claim> = Vec::new();
        for service in services {
            claims.extend(service.backends.iter().map(claims::claim));
            for one in Wanted::of(service) {
                let entries = one.keys().filter_map(|key| self.groups.entry(&key));
                let group = entries.map(|entry| entry.group).find(|group| obsolete.contains(group));
                obsolete.retain(|other| Some(*other) != group);
                wanted.push((one, group));
            }
        }
        claims.sort_unstable();
        Plan {
            owner,
            wanted,
            obsolete,
            claims,
        }
    }

    /// Removes the frontends that nobody wants, and groups that lose their last one so. What another group is about to take over
    /// stays until then.
    fn remove_frontends(&mut self, plans: &[Plan<'_>], pass: &mut Pass<'_, impl MapWriter>) {
        let held: Vec<ServiceKey> = plans
            .iter()
            .flat_map(Plan::groups)
            .filter_map(|group| Some(&self.groups.get(group)?.keys))
            .flatten()
            .copied()
            .collect();
        if held.is_empty() {
            return;
        }
        let all_wanted = plans.iter().flat_map(|plan| &plan.wanted);
        let wanted: HashSet<ServiceKey> = all_wanted.flat_map(|(wanted, _)| wanted.keys()).collect();
        for key in held.into_iter().filter(|key| !wanted.contains(key)) {
            if let Err(error) = pass.writer.remove_service(&key) {
                let group = self.groups.entry(&key).and_then(|entry| self.groups.get(entry.group));
                let name = group.map(|group| group.name.clone()).unwrap_or_default();
                pass.report.not_applied.push(NotApplied {
                    name,
                    vip: vip(&key),
                    reason: error.into(),
                });
                continue;
            }
            pass.report.services_removed += 1;
            if let Some(emptied) = self.groups.unassign(&key) {
                self.drop_group(emptied, pass);
            }
        }
    }

    /// Brings the bits of backends that tables point to already up to date, before any table is rebuilt: who is no longer desired
    /// takes no new connection from here on, unless a service would be left without any until its new table is there. Those are
    /// returned.
    fn claim(&mut self, plans: &mut [Plan<'_>], pass: &mut Pass<'_, impl MapWriter>) -> Vec<(BackendId, Held)> {
        let mut concerned = Vec::new();
        for plan in plans.iter_mut() {
            let claims = std::mem::take(&mut plan.claims);
            concerned.extend(claims.iter().map(|(id, _)| *id));
            let before = self.groups.set_claims(plan.owner, claims);
            let now = self.groups.owner(plan.owner).map_or(&[][..], |owner| &owner.claims);
            concerned.extend(self.claims.replace(&before, now));
            // What was adopted was claimed by nobody yet.
            let groups = plan.groups().filter_map(|group| self.groups.get(group));
            concerned.extend(groups.flat_map(|group| group.members.iter().copied()));
        }
        concerned.sort_unstable();
        concerned.dedup();
        let mut leaving = HashMap::new();
        for id in concerned {
            // A backend without references comes back into service with the table that is written next.
            let Some(held) = self.backends.referenced(&id) else {
                continue;
            };
            match self.claims.condition(&id) {
                Some(condition) => {
                    pass.report.backends_written += usize::from(pass.writer.set_backend(held, &id, condition));
                }
                None => drop(leaving.insert(id, held)),
            }
        }
        if leaving.is_empty() {
            return Vec::new();
        }
        let needed = self.needed(plans, &leaving);
        let (postponed, retired): (Vec<_>, Vec<_>) = leaving.into_iter().partition(|(id, _)| needed.contains(id));
        retire(&retired, pass);
        postponed
    }

    /// Those of the leaving backends beside which a service has no other that takes connections.
    fn needed(&self, plans: &[Plan<'_>], leaving: &HashMap<BackendId, Held>) -> HashSet<BackendId> {
        let takes_connections = |id: &BackendId| {
            let condition = self.claims.condition(id);
            condition.is_some_and(|condition| condition.flags & READY != 0)
        };
        let groups = plans
            .iter()
            .flat_map(Plan::groups)
            .filter_map(|group| self.groups.get(group));
        groups
            .filter(|group| !group.choice.iter().any(takes_connections))
            .flat_map(|group| group.choice.iter().copied())
            .filter(|id| leaving.contains_key(id))
            .collect()
    }

    /// Drops a group of which no frontend is left.
    pub(super) fn drop_group(&mut self, group: GroupId, pass: &mut Pass<'_, impl MapWriter>) {
        let Some(group) = self.groups.remove(group) else {
            return;
        };
        if group.owns_id {
            pass.writer.remove_name(group.service_id);
            if let Err(error) = pass.writer.set_source_ranges(group.service_id, &[]) {
                tracing::warn!(group.name, %error, "source ranges stay behind");
            }
            self.ids.release(group.service_id, pass.now);
        }
        self.let_go(group.range, &group.members, pass.now);
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
    fn free(&mut self, pass: &mut Pass<'_, impl MapWriter>, budget: &mut usize) {
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
                tables::forget(
                    range,
                    group.holds.positions(),
                    |backend| backend == held.index,
                    pass.writer,
                );
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
            if let Some(group) = self.groups.get_mut(id)
                && let Some(range) = group.range
            {
                let due = group.holds.take_due(pass.now, budget);
                let flows = flows.get_or_insert_with(|| pass.writer.direct_flows());
                let (needed, over) = tables::needed(range, &group.keys, due, flows, pass.writer);
                tables::forget(range, over, |_| true, pass.writer);
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
}

impl Plan<'_> {
    /// The groups of its owner, as it was.
    fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        let continued = self.wanted.iter().filter_map(|(_, group)| *group);
        continued.chain(self.obsolete.iter().copied())
    }
}

/// Takes new connections from backends.
fn retire(backends: &[(BackendId, Held)], pass: &mut Pass<'_, impl MapWriter>) {
    for (id, held) in backends {
        let changed = pass.writer.retire_backend(*held, id, retired_flags(id));
        pass.report.backends_written += usize::from(changed);
        if changed && id.protocol != Protocol::TCP {
            pass.report.gone.push(*id);
        }
    }
}

/// A backend that is no longer desired keeps its TCP flows for a grace period, and gets no new ones. Datagrams have no end
/// to wait for, so a UDP backend stops at once.
fn retired_flags(id: &BackendId) -> u32 {
    if id.protocol == Protocol::TCP {
        IN_USE | TERMINATING
    } else {
        0
    }
}
