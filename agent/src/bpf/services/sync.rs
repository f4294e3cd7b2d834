//! One level-triggered pass: what is desired against what was applied.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use causeway_abi::{
    backend::{IN_USE, LOCAL, READY, READY_ALWAYS, TERMINATING},
    service::{
        NO_BACKEND, SCOPE_CLUSTER, SCOPE_NODE, SERVICE_PREFER_LOCAL, SERVICE_SOURCE_RANGES, Service, ServiceKey, Slot,
    },
};
use causeway_maps::{AddressExt as _, Protocol};

use super::{
    arena::{Arena, Range},
    backends::{BackendIndexes, Held},
    ids::ServiceIds,
    maglev,
    report::{NotApplied, Reason, SyncReport},
    writer::{AdoptedBackend, AdoptedService, Condition, MapWriter},
};
use crate::bpf::desired::{
    BackendId, DesiredBackend, DesiredService, DesiredServices, Frontend, Scope, SourceRange, VipId,
};

/// How long freed things rest.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    /// Slots and service ids: longer than any BPF program runs.
    pub slots: Duration,
    /// Backends: long enough for connections to end gracefully.
    pub backends: Duration,
}

impl Default for Grace {
    fn default() -> Self {
        Self {
            slots: Duration::from_secs(5),
            backends: Duration::from_secs(30),
        }
    }
}

/// What the maps hold, as far as services go, and who owns what in them.
#[derive(Debug)]
pub struct ServiceSync {
    applied: HashMap<ServiceKey, Applied>,
    arena: Arena,
    backends: BackendIndexes,
    ids: ServiceIds,
}

/// A frontend of a service in the maps.
#[derive(Debug)]
struct Applied {
    vip: VipId,
    name: String,
    service: Service,
    /// Its range of `SLOTS`; `None` when empty or, after adoption, not trustworthy.
    range: Option<Range>,
    /// Whether `service.service_id` is this service's alone; not so only after a botched adoption.
    owns_id: bool,
    /// Backends that are kept for its flows; sorted.
    members: Vec<BackendId>,
    /// Those of them that its table points to; sorted.
    choice: Vec<BackendId>,
    /// Clients that are let in; `None` after adoption, when it is not known.
    source_ranges: Option<Vec<SourceRange>>,
    /// Adopted in a state that must be written anew whatever is desired.
    stale: bool,
}

impl ServiceSync {
    /// Nothing applied yet; sizes are those of the maps.
    pub fn new(slots: u32, backends: u32, ids: u32, grace: Grace) -> Self {
        Self {
            applied: HashMap::new(),
            arena: Arena::new(slots, grace.slots),
            backends: BackendIndexes::new(backends, grace.backends),
            ids: ServiceIds::new(ids, grace.slots),
        }
    }

    /// Takes over what pinned maps hold; to be called once, before the first pass. Nothing is written or judged yet.
    pub fn adopt(
        &mut self,
        backends: impl IntoIterator<Item = AdoptedBackend>,
        services: impl IntoIterator<Item = AdoptedService>,
        writer: &impl MapWriter,
    ) {
        for backend in backends {
            self.backends.recover(backend.owner, backend.generation);
        }
        for adopted in services {
            let applied = self.adopt_service(adopted, writer);
            self.applied.insert(applied.0, applied.1);
        }
    }

    fn adopt_service(&mut self, adopted: AdoptedService, writer: &impl MapWriter) -> (ServiceKey, Applied) {
        let AdoptedService { key, service, name } = adopted;
        let wanted = Range {
            base: service.slot_base,
            len: service.slot_count,
        };
        let range = (wanted.len > 0 && self.arena.claim(wanted)).then_some(wanted);
        // A crash between two writes, or a map made anew beside old ones: such a service is written again in full.
        let mut stale = (wanted.len > 0) != range.is_some();
        let mut members = HashSet::new();
        for index in range.into_iter().flat_map(|range| range.base..range.base + range.len) {
            match self.backends.owner(writer.read_slot(index).backend) {
                Some(id) => drop(members.insert(id)),
                None => stale = true,
            }
        }
        let owns_id = self.ids.claim(service.service_id);
        stale |= !owns_id;
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_unstable();
        for id in &members {
            self.backends.acquire(*id);
        }
        let vip = VipId {
            address: key.address.to_ip(),
            port: u16::from_be(key.port_be),
            protocol: Protocol(key.protocol),
        };
        (
            key,
            Applied {
                vip,
                name,
                service,
                range,
                owns_id,
                choice: members.clone(),
                members,
                source_ranges: None,
                stale,
            },
        )
    }

    /// Brings the maps to what is desired, which must be the complete list.
    pub fn sync(&mut self, desired: &DesiredServices, now: Instant, writer: &mut impl MapWriter) -> SyncReport {
        let mut report = SyncReport::default();
        self.settle(now, writer, &mut report);
        self.remove_services(desired, now, writer, &mut report);

        let conditions = conditions(desired);
        let postponed = self.update_backends(&conditions, writer, &mut report);
        for (service, frontend) in frontends(desired) {
            if let Err(reason) = self.apply(service, frontend, &conditions, now, writer, &mut report) {
                report.not_applied.push(NotApplied {
                    name: service.name.clone(),
                    vip: frontend.vip,
                    reason,
                });
            }
        }
        // Also where a table that points to one could not be replaced.
        retire(&postponed, writer, &mut report);
        self.retire_backends(now, writer, &mut report);
        report
    }

    /// Frees what has rested long enough.
    fn settle(&mut self, now: Instant, writer: &mut impl MapWriter, report: &mut SyncReport) {
        self.arena.settle(now);
        let mut gone = HashSet::new();
        for (id, held) in self.backends.settle(now) {
            writer.withdraw_backend(held.index, &id);
            report.backends_written += 1;
            gone.insert(held.index);
        }
        if !gone.is_empty() {
            for range in self.applied.values().filter_map(|applied| applied.range) {
                writer.forget_previous(range, &gone);
            }
        }
    }

    /// Deletion, in reverse of creation: the entry of `SERVICES` first.
    fn remove_services(
        &mut self,
        desired: &DesiredServices,
        now: Instant,
        writer: &mut impl MapWriter,
        report: &mut SyncReport,
    ) {
        let wanted: HashSet<ServiceKey> = frontends(desired).map(|(_, frontend)| frontend_key(frontend)).collect();
        let unwanted: Vec<ServiceKey> = self
            .applied
            .keys()
            .filter(|key| !wanted.contains(key))
            .copied()
            .collect();
        for key in unwanted {
            if let Err(error) = writer.remove_service(&key) {
                if let Some(applied) = self.applied.get(&key) {
                    let (name, vip) = (applied.name.clone(), applied.vip);
                    report.not_applied.push(NotApplied {
                        name,
                        vip,
                        reason: error.into(),
                    });
                }
                continue;
            }
            report.services_removed += 1;
            if let Some(applied) = self.applied.remove(&key) {
                if applied.owns_id {
                    writer.remove_name(applied.service.service_id);
                    if let Err(error) = writer.set_source_ranges(applied.service.service_id, &[]) {
                        tracing::warn!(name = applied.name, %error, "source ranges stay behind");
                    }
                    self.ids.release(applied.service.service_id, now);
                }
                self.let_go(applied.range, &applied.members, now);
            }
        }
    }

    /// The bits of backends that tables point to already, before any table is rebuilt: who is no longer desired takes no
    /// new connection from here on, unless a service would be left without any until its new table is there. Those are
    /// returned.
    fn update_backends(
        &self,
        conditions: &HashMap<BackendId, Condition>,
        writer: &mut impl MapWriter,
        report: &mut SyncReport,
    ) -> Vec<(BackendId, Held)> {
        let mut leaving = HashMap::new();
        for (id, held) in self.backends.referenced() {
            match conditions.get(&id) {
                Some(condition) => report.backends_written += usize::from(writer.set_backend(held, &id, *condition)),
                None => drop(leaving.insert(id, held)),
            }
        }
        let needed = self.needed(&leaving, conditions);
        let (postponed, retired): (Vec<_>, Vec<_>) = leaving.into_iter().partition(|(id, _)| needed.contains(id));
        retire(&retired, writer, report);
        postponed
    }

    /// Those of the leaving backends beside which a service has no other that takes connections.
    fn needed(
        &self,
        leaving: &HashMap<BackendId, Held>,
        conditions: &HashMap<BackendId, Condition>,
    ) -> HashSet<BackendId> {
        if leaving.is_empty() {
            return HashSet::new();
        }
        let takes_connections =
            |id: &BackendId| conditions.get(id).is_some_and(|condition| condition.flags & READY != 0);
        self.applied
            .values()
            .filter(|applied| !applied.choice.iter().any(takes_connections))
            .flat_map(|applied| applied.choice.iter().copied())
            .filter(|id| leaving.contains_key(id))
            .collect()
    }

    fn apply(
        &mut self,
        desired: &DesiredService,
        frontend: &Frontend,
        conditions: &HashMap<BackendId, Condition>,
        now: Instant,
        writer: &mut impl MapWriter,
        report: &mut SyncReport,
    ) -> Result<(), Reason> {
        let wanted = Wanted::of(desired, frontend);
        let current = self.applied.get(&wanted.key).filter(|applied| !applied.stale);
        let same_table = current.filter(|applied| applied.choice == wanted.choice);
        let Some(applied) = same_table else {
            return self.replace(&wanted, conditions, now, writer, report);
        };
        if applied.members != wanted.members {
            self.hold(&wanted, conditions, writer, report)?;
        }
        self.adjust(&wanted, writer, report)
    }

    /// Holds other backends than before; the table stays.
    fn hold(
        &mut self,
        wanted: &Wanted<'_>,
        conditions: &HashMap<BackendId, Condition>,
        writer: &mut impl MapWriter,
        report: &mut SyncReport,
    ) -> Result<(), Reason> {
        self.take(&wanted.members, conditions, writer, report)?;
        if let Some(applied) = self.applied.get_mut(&wanted.key) {
            let before = std::mem::replace(&mut applied.members, wanted.members.clone());
            for id in &before {
                self.backends.release(id);
            }
        }
        Ok(())
    }

    /// Sets what a service is beside its table.
    fn adjust(
        &mut self,
        wanted: &Wanted<'_>,
        writer: &mut impl MapWriter,
        report: &mut SyncReport,
    ) -> Result<(), Reason> {
        let Some(applied) = self.applied.get_mut(&wanted.key) else {
            return Ok(());
        };
        let service = Service {
            affinity_seconds: wanted.desired.affinity_seconds,
            flags: wanted.flags(),
            ..applied.service
        };
        let renamed = applied.name != wanted.desired.name;
        if applied.source_ranges.as_deref() != Some(wanted.source_ranges) {
            // Before the flag that asks for them.
            writer.set_source_ranges(service.service_id, wanted.source_ranges)?;
            applied.source_ranges = Some(wanted.source_ranges.to_vec());
        }
        if !renamed && applied.service == service {
            return Ok(());
        }
        if renamed {
            writer.put_name(service.service_id, &wanted.desired.name)?;
        }
        writer.put_service(&wanted.key, &service)?;
        report.services_written += 1;
        applied.service = service;
        applied.name.clone_from(&wanted.desired.name);
        Ok(())
    }

    /// Writes a service with a new table.
    fn replace(
        &mut self,
        wanted: &Wanted<'_>,
        conditions: &HashMap<BackendId, Condition>,
        now: Instant,
        writer: &mut impl MapWriter,
        report: &mut SyncReport,
    ) -> Result<(), Reason> {
        let held = self.take(&wanted.members, conditions, writer, report)?;
        let current = self.applied.get(&wanted.key).and_then(|applied| applied.range);
        let range = match self.allocate(wanted.choice.len(), current.map_or(0, |range| range.len)) {
            Ok(range) => range,
            Err(reason) => {
                self.let_go(None, &wanted.members, now);
                return Err(reason);
            }
        };
        let result = self.publish(wanted, &held, range, now, writer, report);
        if result.is_err() {
            // Never visible to a program, but resting costs nothing.
            self.let_go(range, &wanted.members, now);
        }
        result
    }

    /// References backends and writes their elements.
    fn take(
        &mut self,
        members: &[BackendId],
        conditions: &HashMap<BackendId, Condition>,
        writer: &mut impl MapWriter,
        report: &mut SyncReport,
    ) -> Result<Vec<Held>, Reason> {
        let held = self.acquire(members)?;
        for (id, held) in members.iter().zip(&held) {
            let unknown = Condition {
                flags: IN_USE,
                node: None,
            };
            let condition = conditions.get(id).copied().unwrap_or(unknown);
            report.backends_written += usize::from(writer.set_backend(*held, id, condition));
        }
        Ok(held)
    }

    /// Writes slots, name and at last the entry of `SERVICES`.
    fn publish(
        &mut self,
        wanted: &Wanted<'_>,
        held: &[Held],
        range: Option<Range>,
        now: Instant,
        writer: &mut impl MapWriter,
        report: &mut SyncReport,
    ) -> Result<(), Reason> {
        let (key, desired) = (wanted.key, wanted.desired);
        let old = self.applied.get(&key);
        let old_range = old.filter(|old| !old.stale).and_then(|old| old.range);
        if let Some(range) = range {
            let held = wanted.held_by_choice(held);
            report.slots_written += write_table(range, old_range, &wanted.choice, &held, writer);
        }
        let kept_id = old.filter(|old| old.owns_id).map(|old| old.service.service_id);
        let service_id = match kept_id {
            Some(id) => id,
            None => self.ids.allocate(now).ok_or(Reason::IdsFull)?,
        };
        let service = Service {
            slot_base: range.map_or(0, |range| range.base),
            slot_count: range.map_or(0, |range| range.len),
            service_id,
            flags: wanted.flags(),
            affinity_seconds: desired.affinity_seconds,
        };
        let written = (|| {
            if kept_id.is_none() {
                writer.clear_counters(service_id)?;
            }
            if kept_id.is_none() || old.is_none_or(|old| old.name != desired.name) {
                writer.put_name(service_id, &desired.name)?;
            }
            if kept_id.is_none() || old.is_none_or(|old| old.source_ranges.as_deref() != Some(wanted.source_ranges)) {
                writer.set_source_ranges(service_id, wanted.source_ranges)?;
            }
            writer.put_service(&key, &service)
        })();
        if let Err(error) = written {
            if kept_id.is_none() {
                writer.remove_name(service_id);
                self.ids.release(service_id, now);
            }
            return Err(error.into());
        }
        report.services_written += 1;
        let applied = Applied {
            vip: wanted.vip,
            name: desired.name.clone(),
            service,
            range,
            owns_id: true,
            members: wanted.members.clone(),
            choice: wanted.choice.clone(),
            source_ranges: Some(wanted.source_ranges.to_vec()),
            stale: false,
        };
        if let Some(old) = self.applied.insert(key, applied) {
            self.let_go(old.range, &old.members, now);
        }
        Ok(())
    }

    fn acquire(&mut self, members: &[BackendId]) -> Result<Vec<Held>, Reason> {
        let mut held = Vec::with_capacity(members.len());
        for id in members {
            if let Some(one) = self.backends.acquire(*id) {
                held.push(one);
            } else {
                for id in &members[..held.len()] {
                    self.backends.release(id);
                }
                return Err(Reason::BackendsFull);
            }
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

    fn let_go(&mut self, range: Option<Range>, members: &[BackendId], now: Instant) {
        if let Some(range) = range {
            self.arena.release(range, now);
        }
        for id in members {
            self.backends.release(id);
        }
    }

    /// Starts the grace period of backends that no table points to any more.
    fn retire_backends(&mut self, now: Instant, writer: &mut impl MapWriter, report: &mut SyncReport) {
        retire(&self.backends.retire_unreferenced(now), writer, report);
    }
}

/// Writes a table into its range; answers the number of slots.
fn write_table(
    range: Range,
    old: Option<Range>,
    members: &[BackendId],
    held: &[Held],
    writer: &mut impl MapWriter,
) -> usize {
    let table = maglev::table(members, range.len);
    for (position, member) in table.iter().enumerate() {
        let position = position as u32;
        let backend = held[*member as usize].index;
        let previous = old.map_or(NO_BACKEND, |old| previous(position, range.len, old, backend, writer));
        writer.write_slot(range.base + position, Slot { backend, previous });
    }
    table.len()
}

/// Whom the flows of a slot belonged to before: the slots of the old table that cover the same hashes (`hash × count >>
/// 32`), of which one with another backend counts; if all had this backend already, whom they remember.
fn previous(position: u32, len: u32, old: Range, backend: u32, writer: &impl MapWriter) -> u32 {
    let (position, len, old_len) = (u64::from(position), u64::from(len), u64::from(old.len));
    let first = position * old_len / len;
    let last = ((position + 1) * old_len - 1) / len;
    let covered = (first..=last).map(|slot| writer.read_slot(old.base + slot as u32));
    let mut remembered = NO_BACKEND;
    for slot in covered {
        if slot.backend != backend {
            return slot.backend;
        }
        if slot.previous != backend {
            remembered = slot.previous;
        }
    }
    remembered
}

/// What a frontend should be in the maps.
struct Wanted<'a> {
    desired: &'a DesiredService,
    source_ranges: &'a [SourceRange],
    key: ServiceKey,
    vip: VipId,
    /// Sorted.
    members: Vec<BackendId>,
    /// Sorted.
    choice: Vec<BackendId>,
}

impl<'a> Wanted<'a> {
    fn of(desired: &'a DesiredService, frontend: &'a Frontend) -> Self {
        let choice = sorted(desired.choice(frontend).map(|backend| backend.id));
        let members = if frontend.local_only {
            choice.clone()
        } else {
            sorted(desired.backends.iter().map(|backend| backend.id))
        };
        Self {
            desired,
            source_ranges: &frontend.source_ranges,
            key: frontend_key(frontend),
            vip: frontend.vip,
            members,
            choice,
        }
    }

    fn flags(&self) -> u32 {
        let prefer_local = if self.desired.prefer_local {
            SERVICE_PREFER_LOCAL
        } else {
            0
        };
        let source_ranges = if self.source_ranges.is_empty() {
            0
        } else {
            SERVICE_SOURCE_RANGES
        };
        prefer_local | source_ranges
    }

    /// Where the choice is held, of where the members are.
    fn held_by_choice(&self, held: &[Held]) -> Vec<Held> {
        let index = |id| self.members.binary_search(id).ok();
        self.choice
            .iter()
            .filter_map(|id| held.get(index(id)?).copied())
            .collect()
    }
}

fn sorted(ids: impl Iterator<Item = BackendId>) -> Vec<BackendId> {
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn frontends(desired: &DesiredServices) -> impl Iterator<Item = (&DesiredService, &Frontend)> {
    desired
        .services
        .iter()
        .flat_map(|service| service.frontends.iter().map(move |frontend| (service, frontend)))
}

/// The map's key of a frontend.
fn frontend_key(frontend: &Frontend) -> ServiceKey {
    service_key(&frontend.vip, frontend.scope)
}

/// The map's key of an address as seen from one side.
pub(super) fn service_key(vip: &VipId, scope: Scope) -> ServiceKey {
    ServiceKey {
        address: causeway_abi::Address::from_ip(vip.address),
        port_be: vip.port.to_be(),
        protocol: vip.protocol.0,
        scope: match scope {
            Scope::Cluster => SCOPE_CLUSTER,
            Scope::External => SCOPE_NODE,
        },
    }
}

/// The condition of every desired backend. One that several services name is ready when all say so, terminating when any does.
fn conditions(desired: &DesiredServices) -> HashMap<BackendId, Condition> {
    let mut conditions = HashMap::<BackendId, Condition>::new();
    for backend in desired.services.iter().flat_map(|service| &service.backends) {
        let flags = own_flags(backend);
        let own = Condition {
            flags,
            node: backend.node,
        };
        conditions
            .entry(backend.id)
            .and_modify(|merged| {
                merged.flags = (merged.flags | flags) & (merged.flags & flags | !READY);
                merged.node = merged.node.max(own.node);
            })
            .or_insert(own);
    }
    conditions
}

fn own_flags(backend: &DesiredBackend) -> u32 {
    let bit = |is: bool, bit: u32| if is { bit } else { 0 };
    IN_USE
        | bit(backend.ready || backend.id.ready_always, READY)
        | bit(backend.terminating, TERMINATING)
        | bit(backend.local, LOCAL)
        | bit(backend.id.ready_always, READY_ALWAYS)
}

/// Takes new connections from backends.
fn retire(backends: &[(BackendId, Held)], writer: &mut impl MapWriter, report: &mut SyncReport) {
    for (id, held) in backends {
        report.backends_written += usize::from(writer.retire_backend(*held, id, retired_flags(id)));
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
