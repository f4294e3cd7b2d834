//! Passes over services: what is desired of some owners, or of all, against what was applied.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use causeway_abi::{
    backend::{IN_USE, READY, TERMINATING},
    service::{SCOPE_NODE, Service, ServiceKey},
};
use causeway_ebpf::select::slot;
use causeway_maps::Protocol;

use super::{
    arena::Arena,
    backends::{BackendIndexes, Held},
    claims::{self, Claim, Claims},
    groups::{GroupId, Groups},
    ids::ServiceIds,
    report::{NotApplied, Reason, SyncReport},
    settle::FORGET_AT_ONCE,
    unsettled::Unsettled,
    wanted::{Wanted, service_key, vip},
    writer::{MapWriter, WrittenFlow},
};
use crate::bpf::desired::{BackendId, DesiredService, DesiredServices, ServicesOf, VipId};

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

/// So many new services are dealt with together, and become visible together: few calls of the kernel, and still soon.
const TOGETHER: usize = 256;

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
    pub(super) expiring: VecDeque<(Instant, GroupId)>,
    /// The groups whose slots remember a backend index. Some may have forgotten it.
    pub(super) remembered: HashMap<u32, BTreeSet<GroupId>>,
    /// Backends whose slots do not decide alone.
    pub(super) unsettled: Unsettled,
    /// How long they are left so at least: longer than any BPF program runs.
    pub(super) rest: Duration,
}

/// One pass.
pub(super) struct Pass<'w, W> {
    pub now: Instant,
    pub writer: &'w mut W,
    pub report: SyncReport,
    /// The flows that are known, once somebody has asked.
    pub flows: Option<HashMap<ServiceKey, Vec<WrittenFlow>>>,
}

impl<'w, W: MapWriter> Pass<'w, W> {
    pub fn new(now: Instant, writer: &'w mut W) -> Self {
        Self {
            now,
            writer,
            report: SyncReport::default(),
            flows: None,
        }
    }

    /// Whether there are flows that a service's slots would have elsewhere.
    pub fn has_flows_elsewhere(&mut self, key: &ServiceKey, service: &Service) -> bool {
        let flows = self.flows.get_or_insert_with(|| {
            let mut by_service: HashMap<_, Vec<_>> = HashMap::new();
            for flow in self.writer.direct_flows() {
                by_service.entry(flow.service).or_default().push(flow);
            }
            by_service
        });
        let mut flows = flows.get(key).into_iter().flatten();
        flows.any(|flow| self.writer.read_slot(slot(service, flow.hash)).backend != flow.backend)
    }

    /// Notes that something wanted cannot be.
    pub fn refuse(&mut self, wanted: &Wanted<'_>, vip: VipId, reason: Reason) {
        let name = wanted.desired.name.clone();
        self.report.not_applied.push(NotApplied { name, vip, reason });
    }
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
            unsettled: Unsettled::default(),
            rest: grace.slots,
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
        let mut pass = self.begin(now, writer);
        pass.report.backends_written += settled.backends_written;
        pass.report.gone.extend(settled.gone);
        let plans = by_owner
            .iter()
            .map(|(owner, services)| self.plan(owner, services.iter().copied()));
        self.apply_all(plans.collect(), &mut pass);
        self.end(pass)
    }

    /// Brings the maps to what is desired of some owners, each once and with all of its services, none for one that is gone. Others
    /// stay as they are, but for frontends that one of these takes over.
    ///
    /// Of very many, those that nothing in the maps has to do with are dealt with as they come, and forgotten.
    pub fn update(
        &mut self,
        owners: impl IntoIterator<Item = ServicesOf>,
        now: Instant,
        writer: &mut impl MapWriter,
    ) -> SyncReport {
        let owners = owners.into_iter();
        self.reserve(owners.size_hint().0);
        let mut pass = self.begin(now, writer);
        let (mut apart, mut entangled) = (Vec::new(), Vec::new());
        for of in owners {
            let side = if self.is_apart(&of) { &mut apart } else { &mut entangled };
            side.push(of);
            if apart.len() >= TOGETHER {
                self.update_part(&apart, &mut pass);
                apart.clear();
            }
        }
        entangled.append(&mut apart);
        self.update_part(&entangled, &mut pass);
        self.end(pass)
    }

    /// Whether no other owner can have a frontend that this one wants, nor it one that another wants.
    fn is_apart(&self, of: &ServicesOf) -> bool {
        let mut frontends = of.services.iter().flat_map(|service| &service.frontends);
        self.groups.owner(&of.owner).is_none()
            && frontends.all(|frontend| self.groups.entry(&service_key(&frontend.vip, frontend.scope)).is_none())
    }

    fn update_part(&mut self, owners: &[ServicesOf], pass: &mut Pass<'_, impl MapWriter>) {
        let plans = owners.iter().map(|of| self.plan(&of.owner, of.services.iter()));
        self.apply_all(plans.collect(), pass);
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

    /// Makes room for so many services with a backend or more each.
    fn reserve(&mut self, services: usize) {
        self.groups.reserve(services);
        self.claims.reserve(services);
        self.backends.reserve(services);
    }

    fn begin<'w, W: MapWriter>(&mut self, now: Instant, writer: &'w mut W) -> Pass<'w, W> {
        let mut pass = Pass::new(now, writer);
        self.free(&mut pass, &mut { FORGET_AT_ONCE });
        pass
    }

    fn end(&mut self, mut pass: Pass<'_, impl MapWriter>) -> SyncReport {
        let retired = self.backends.retire_unreferenced(pass.now);
        retire(&retired, &mut pass);
        for index in pass.writer.take_unsettled() {
            self.unsettled.put(index, pass.now + self.rest);
        }
        pass.report
    }

    fn apply_all(&mut self, mut plans: Vec<Plan<'_>>, pass: &mut Pass<'_, impl MapWriter>) {
        self.remove_frontends(&plans, pass);
        let postponed = self.claim(&mut plans, pass);
        let mut newcomers = Vec::new();
        for plan in plans {
            for (wanted, group) in plan.wanted {
                self.apply(plan.owner, wanted, group, &mut newcomers, pass);
            }
            if newcomers.len() >= TOGETHER {
                self.admit(std::mem::take(&mut newcomers), pass);
            }
        }
        self.admit(newcomers, pass);
        // Also where a table that points to one could not be replaced.
        retire(&postponed, pass);
    }

    /// Which group becomes what: the one that has a frontend of it already.
    fn plan<'a>(&self, owner: &'a str, services: impl ExactSizeIterator<Item = &'a DesiredService>) -> Plan<'a> {
        let mut obsolete = self
            .groups
            .owner(owner)
            .map_or_else(Vec::new, |owner| owner.groups.clone());
        let mut wanted = Vec::with_capacity(services.len());
        let services = services.collect::<Vec<_>>();
        let mut claims: Vec<Claim> = Vec::with_capacity(services.iter().map(|service| service.backends.len()).sum());
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
        let mut removed = Vec::new();
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
            if key.scope == SCOPE_NODE {
                removed.push(key);
            }
            if let Some(emptied) = self.groups.unassign(&key) {
                self.drop_group(emptied, pass);
            }
        }
        // Another service that has such an address later has nothing to do with these flows.
        if !removed.is_empty() {
            pass.writer.forget_flows_of(&removed);
        }
    }

    /// Brings the bits of backends that tables point to already up to date, before any table is rebuilt: who is no longer desired
    /// takes no new connection from here on, unless a service would be left without any until its new table is there. Those are
    /// returned.
    fn claim(&mut self, plans: &mut [Plan<'_>], pass: &mut Pass<'_, impl MapWriter>) -> Vec<(BackendId, Held)> {
        let mut concerned = Vec::new();
        for plan in plans.iter_mut() {
            let claims = std::mem::take(&mut plan.claims);
            // A backend without references comes back into service with the table that is written next.
            let mut concern = |id| concerned.extend(self.backends.referenced(&id).map(|held| (id, held)));
            let (before, now) = self.groups.set_claims(plan.owner, claims);
            for (id, _) in now {
                concern(*id);
            }
            self.claims.replace(&before, now, |id| {
                if now.binary_search_by_key(&id, |(id, _)| *id).is_err() {
                    concern(id);
                }
            });
            // What was adopted was claimed by nobody yet.
            let groups = plan.groups().filter_map(|group| self.groups.get(group));
            groups.flat_map(|group| &group.members).for_each(|id| concern(*id));
        }
        concerned.sort_unstable_by_key(|(id, _)| *id);
        concerned.dedup();
        let mut leaving = HashMap::new();
        for (id, held) in concerned {
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
        if let Some(id) = self.forget_group(group, pass) {
            self.ids.release(id, pass.now);
        }
    }

    /// The same, but for its id, which is answered if it had its own.
    pub(super) fn forget_group(&mut self, group: GroupId, pass: &mut Pass<'_, impl MapWriter>) -> Option<u32> {
        let group = self.groups.remove(group)?;
        if group.owns_id {
            pass.writer.remove_name(group.service_id);
            if let Err(error) = pass.writer.set_source_ranges(group.service_id, &[]) {
                tracing::warn!(group.name, %error, "source ranges stay behind");
            }
        }
        self.let_go(group.range, &group.members, pass.now);
        group.owns_id.then_some(group.service_id)
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
