//! What changes in a sequence beside its packets: for the model, and in the programs' maps.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use causeway_abi::backend::{IN_USE, LOCAL, READY, TERMINATING, UNSETTLED};
use causeway_abi::conntrack::{FlowKey, timeout_seconds};
use causeway_abi::direct::DirectFlow;
use causeway_abi::service::{
    NO_BACKEND, SCOPE_CLUSTER, SCOPE_NODE, SERVICE_SOURCE_RANGES, ServiceKey, Slot, SourceRangeKey,
};

use super::case::{BackendSpec, ServiceSpec, VipSpec};
use super::compare;
use super::kernel::{BACKENDS, SERVICES, SLOTS, clock};
use super::run::Sequence;
use super::world::{self, mapped};
use crate::model::flows::{Side, Tuple};
use crate::model::tables::{Backend, Scope, Service, Vip};

/// Each service has this many slots to itself.
const SLOTS_EACH: u32 = SLOTS / (SERVICES + 1);

impl Sequence<'_> {
    pub(super) fn backend(&mut self, spec: &BackendSpec) -> Result<()> {
        if spec.index >= BACKENDS {
            bail!("backend {} of {BACKENDS}", spec.index);
        }
        let mut flags = IN_USE;
        if spec.ready {
            flags |= READY;
        }
        if spec.terminating {
            flags |= TERMINATING;
        }
        if self.model.tables.pods.contains_key(&spec.address.ip()) {
            flags |= LOCAL;
        }
        let backend = Backend {
            address: spec.address,
            ready: spec.ready,
            terminating: spec.terminating,
            generation: spec.generation,
        };
        let before = self.model.tables.backends.insert(spec.index, backend);
        let takes = |backend: &Backend| backend.ready && !backend.terminating;
        let took = before.is_some_and(|before| takes(&before) && before.generation == backend.generation);
        let has_slots = self.slots.values().flatten().any(|slot| slot.backend == spec.index);
        if takes(&backend) && !took && has_slots {
            // Flows of its slots began elsewhere meanwhile.
            self.unsettled.insert(spec.index);
        }
        if takes(&backend) && self.unsettled.contains(&spec.index) {
            flags |= UNSETTLED;
        }
        self.runner
            .kernel
            .backends
            .put(spec.index as usize, &value(spec, flags));
        Ok(())
    }

    /// What the agent does when enough time has passed: slots forget whose they were, and decide alone again where nothing that is
    /// written down speaks against it. The agent looks at each slot; here, where no hash is known, at each service.
    pub(super) fn settle(&mut self) -> Result<()> {
        let (keys, values) = self.runner.kernel.direct.all()?;
        let clock = clock()?;
        let backends = &self.model.tables.backends;
        let goes_on = |(key, flow): &(FlowKey, DirectFlow)| {
            let patience = Duration::from_secs(timeout_seconds(key.protocol, flow.tcp_state));
            let is_there = backends
                .get(&flow.backend)
                .is_some_and(|backend| backend.generation == flow.generation);
            is_there && clock <= Duration::from_nanos(flow.last_seen_ns) + patience
        };
        let written: Vec<(FlowKey, DirectFlow)> = keys.into_iter().zip(values).filter(goes_on).collect();
        let mut restless = BTreeSet::new();
        for (spec, slots) in &mut self.slots {
            let Some(service) = self.model.tables.services.get_mut(&vip(spec)) else {
                continue;
            };
            if service.affinity.is_some() {
                // Slots never decide alone there.
                continue;
            }
            let flows: Vec<_> = written.iter().filter(|(key, _)| is_for(key, spec)).collect();
            let now = self.model.tables.now;
            let is_translated = self.model.tables.flows.iter().any(|flow| {
                flow.vip == spec.address && flow.protocol == spec.protocol && flow.is_known_to(Side::Client, now)
            });
            let owners: BTreeSet<u32> = slots.iter().map(|slot| slot.backend).collect();
            let is_elsewhere = |flow: &DirectFlow| owners.len() > 1 || !owners.contains(&flow.backend);
            if is_translated || flows.iter().any(|(_, flow)| is_elsewhere(flow)) {
                restless.extend(owners);
                continue;
            }
            for slot in slots.iter_mut().filter(|slot| slot.previous != NO_BACKEND) {
                slot.previous = NO_BACKEND;
            }
            let base = self.programmed.get(spec).map_or(0, |(_, id, _)| id * SLOTS_EACH);
            for (place, slot) in slots.iter().enumerate() {
                self.runner.kernel.slots.put(base as usize + place, slot);
            }
            for (key, _) in flows {
                self.runner.kernel.direct.remove(key)?;
            }
            // Who was silent since the last change is not known any more.
            let before = service.changes;
            service.changes += 1;
            service.previous.clear();
            if let Some((changes, ..)) = self.programmed.get_mut(spec) {
                *changes = service.changes;
            }
            for (tuple, flow) in &mut self.model.tables.direct {
                if is_of(tuple, spec) && flow.changes == before {
                    flow.changes = service.changes;
                }
            }
        }
        let settled: Vec<u32> = self.unsettled.difference(&restless).copied().collect();
        for index in settled {
            self.unsettled.remove(&index);
            let backends = &self.runner.kernel.backends;
            let present = backends.get(index as usize);
            let flags = present.flags & !UNSETTLED;
            backends.put(index as usize, &causeway_abi::backend::Backend { flags, ..present });
        }
        Ok(())
    }

    /// Whether slots are about to decide alone on flows that began by something else: by another service's, by session affinity, or
    /// before there were no backends or no service for a time. Then the agent makes each name its own backend.
    fn inherits(&self, spec: &ServiceSpec) -> Result<bool> {
        let is_empty = self.slots.get(&spec.vip).is_none_or(Vec::is_empty);
        if spec.vip.scope != Scope::Node || spec.affinity != 0 {
            return Ok(false);
        }
        if !is_empty {
            let before = self.programmed.get(&spec.vip);
            return Ok(before.is_some_and(|(_, id, affinity)| *id != spec.id || *affinity != 0));
        }
        let now = self.model.tables.now;
        let mut translated = self.model.tables.flows.iter();
        let is_translated =
            translated.any(|flow| is_of(&flow.forward(), &spec.vip) && flow.is_known_to(Side::Client, now));
        Ok(is_translated
            || self
                .runner
                .kernel
                .direct
                .all()?
                .0
                .iter()
                .any(|key| is_for(key, &spec.vip)))
    }

    /// Nothing is left of flows of an address that another service may get.
    fn forget_flows_of(&mut self, spec: &VipSpec) -> Result<()> {
        for key in self.runner.kernel.direct.all()?.0 {
            if is_for(&key, spec) {
                self.runner.kernel.direct.remove(&key)?;
            }
        }
        self.model.tables.direct.retain(|tuple, _| !is_of(tuple, spec));
        Ok(())
    }

    pub(super) fn no_backend(&mut self, index: u32) {
        if let Some(backend) = self.model.tables.backends.remove(&index) {
            let value = causeway_abi::backend::Backend {
                address: mapped(backend.address.ip()),
                port_be: backend.address.port().to_be(),
                generation: backend.generation,
                ..causeway_abi::backend::Backend::default()
            };
            self.runner.kernel.backends.put(index as usize, &value);
        }
    }

    pub(super) fn service(&mut self, spec: &ServiceSpec) -> Result<()> {
        if spec.id == 0 || spec.id > SERVICES || spec.slots > SLOTS_EACH {
            bail!("service {} with {} slots", spec.id, spec.slots);
        }
        let base = spec.id * SLOTS_EACH;
        let count = if spec.backends.is_empty() { 0 } else { spec.slots };
        let table: Vec<u32> = spec.backends.iter().copied().cycle().take(count as usize).collect();
        let doubts = self.inherits(spec)?;
        let before = self.slots.remove(&spec.vip).unwrap_or_default();
        let mut slots: Vec<Slot> = (0..)
            .zip(&table)
            .map(|(i, backend)| follow(&before, i, table.len(), *backend))
            .collect();
        for slot in slots.iter_mut().filter(|slot| doubts && slot.previous == NO_BACKEND) {
            slot.previous = slot.backend;
        }
        for (i, slot) in slots.iter().enumerate() {
            self.runner.kernel.slots.put(base as usize + i, slot);
        }
        let previous = slots
            .iter()
            .map(|slot| slot.previous)
            .filter(|previous| *previous != NO_BACKEND);
        let previous = previous.collect();
        self.slots.insert(spec.vip, slots);
        for key in self.ranges.remove(&spec.id).unwrap_or_default() {
            self.runner.kernel.source_ranges.remove(&key)?;
        }
        let ranges = source_ranges(spec);
        for key in &ranges {
            self.runner.kernel.source_ranges.put(key, &1)?;
        }
        self.ranges.insert(spec.id, ranges);
        let value = causeway_abi::service::Service {
            slot_base: base,
            slot_count: count,
            service_id: spec.id,
            flags: if spec.sources.is_some() {
                SERVICE_SOURCE_RANGES
            } else {
                0
            },
            affinity_seconds: spec.affinity,
        };
        self.runner.kernel.services.put(&service_key(&spec.vip), &value)?;
        let before = self.programmed.get(&spec.vip).copied();
        let changes = match before {
            None => 0,
            // Slots remember nothing of use to session affinity.
            Some((changes, _, affinity)) if spec.affinity != affinity && spec.affinity != 0 => changes + 2,
            Some((changes, ..)) => changes + 1,
        };
        self.programmed.insert(spec.vip, (changes, spec.id, spec.affinity));
        let service = Service {
            id: spec.id,
            table,
            previous,
            changes,
            affinity: (spec.affinity != 0).then(|| Duration::from_secs(spec.affinity.into())),
            sources: spec.sources.clone(),
        };
        self.model.tables.services.insert(vip(&spec.vip), service);
        Ok(())
    }

    pub(super) fn no_service(&mut self, spec: &VipSpec) -> Result<()> {
        self.model.tables.services.remove(&vip(spec));
        self.slots.remove(spec);
        self.forget_flows_of(spec)?;
        self.runner.kernel.services.remove(&service_key(spec))
    }

    pub(super) fn wait(&mut self, by: Duration, begun: Duration) -> Result<()> {
        // Stamps cannot be from before the machine was started.
        if self.model.tables.now + by + Duration::from_mins(1) < begun {
            self.runner.kernel.age(by)?;
            self.model.tables.now += by;
        }
        Ok(())
    }

    pub(super) fn collect(&mut self) -> Result<()> {
        let before: Vec<_> = self.model.tables.flows.iter().copied().collect();
        let now = self.model.tables.now;
        self.model.tables.flows.collect(now);
        let mut gone = Vec::new();
        for flow in before {
            if self.model.tables.flows.of_client(&flow.forward()) != Some(&flow) {
                gone.extend(compare::keys(&flow));
            }
        }
        for key in gone {
            self.runner.kernel.flows.remove(&key)?;
        }
        Ok(())
    }
}

/// Whether a flow that is written down is one of clients in the network for this service.
fn is_for(key: &FlowKey, spec: &VipSpec) -> bool {
    let is_it = key.destination == mapped(spec.address.ip()) && key.destination_port_be == spec.address.port().to_be();
    is_it && key.protocol == spec.protocol && spec.scope == Scope::Node
}

/// The same, as the model writes it.
fn is_of(tuple: &Tuple, spec: &VipSpec) -> bool {
    tuple.destination == spec.address && tuple.protocol == spec.protocol && spec.scope == Scope::Node
}

/// The element of a backend.
fn value(spec: &BackendSpec, flags: u32) -> causeway_abi::backend::Backend {
    causeway_abi::backend::Backend {
        address: mapped(spec.address.ip()),
        port_be: spec.address.port().to_be(),
        flags,
        generation: spec.generation,
        node_v4_be: world::node_of(spec.address.ip()).map_or(0, |node| u32::from_ne_bytes(node.octets())),
        ..causeway_abi::backend::Backend::default()
    }
}

/// A slot of a new table: it remembers the backend it had before, as the agent writes it.
fn follow(before: &[Slot], place: usize, length: usize, backend: u32) -> Slot {
    let old = before.get(place * before.len() / length);
    let previous = match old {
        None => NO_BACKEND,
        Some(old) if old.backend == backend => old.previous,
        Some(old) => old.backend,
    };
    Slot { backend, previous }
}

fn vip(spec: &VipSpec) -> Vip {
    Vip {
        scope: spec.scope,
        protocol: spec.protocol,
        address: spec.address,
    }
}

pub(super) fn service_key(spec: &VipSpec) -> ServiceKey {
    ServiceKey {
        address: mapped(spec.address.ip()),
        port_be: spec.address.port().to_be(),
        protocol: spec.protocol,
        scope: match spec.scope {
            Scope::Cluster => SCOPE_CLUSTER,
            Scope::Node => SCOPE_NODE,
        },
    }
}

pub(super) fn source_ranges(spec: &ServiceSpec) -> Vec<SourceRangeKey> {
    let ranges = spec.sources.iter().flatten();
    ranges
        .map(|(prefix, bits)| SourceRangeKey {
            prefix_len: 32 + u32::from(*bits) + if prefix.is_ipv4() { 96 } else { 0 },
            service_id: spec.id,
            address: mapped(*prefix),
        })
        .collect()
}
