//! The one seam between the planner and the kernel.

use std::{collections::HashSet, net::Ipv4Addr};

use causeway_abi::{
    Address,
    backend::{Backend, IN_USE, READY_ALWAYS},
    conntrack::{DIRECTION_FORWARD, Flow, FlowKey},
    counter::ServiceCounters,
    direct::DirectFlow,
    node::{DIRECT_RETURN, NodeConfig},
    service::{NO_BACKEND, SCOPE_NODE, Service, ServiceKey, ServiceName, Slot, SourceRangeKey},
};
use causeway_ebpf::{
    direct,
    flow::{expired, hash},
};
use causeway_maps::{
    AddressExt as _, CounterArray, Data, Element, MappedArray, MapsError, PinnedMaps, Protocol, Refused, SourceRanges,
    Table, view,
};

use super::backends::Held;
use crate::bpf::{
    desired::{BackendId, SourceRange},
    readiness::ReadinessHandle,
};

/// What the planner does to the maps.
pub trait MapWriter {
    /// Writes the element of a backend, or only what differs of it when the owner stays. Tells whether anything did.
    fn set_backend(&mut self, held: Held, id: &BackendId, condition: Condition) -> bool;
    /// Gives a backend that is no longer desired these flags; where it runs stays known for its flows. Tells whether they
    /// differed.
    fn retire_backend(&mut self, held: Held, id: &BackendId, flags: u32) -> bool;
    /// Frees an element; its generation stays.
    fn withdraw_backend(&mut self, index: u32, id: &BackendId);
    /// A slot as it is.
    fn read_slot(&self, index: u32) -> Slot;
    /// Writes a slot.
    fn write_slot(&mut self, index: u32, slot: Slot);
    /// Writes services, each in one step.
    fn put_services(&mut self, keys: &[ServiceKey], services: &[Service]) -> Refused;
    /// Removes a service.
    fn remove_service(&mut self, key: &ServiceKey) -> Result<(), MapsError>;
    /// Sets the names of service ids.
    fn put_names(&mut self, service_ids: &[u32], names: &[&str]) -> Refused;
    /// Removes the name of a service id; a name left over is overwritten when the id is used again.
    fn remove_name(&mut self, service_id: u32);
    /// Makes these the clients that a service id lets in from the network.
    fn set_source_ranges(&mut self, service_id: u32, ranges: &[SourceRange]) -> Result<(), MapsError>;
    /// Sets the counters of service ids to zero.
    fn clear_counters(&mut self, service_ids: &[u32]) -> Refused;
    /// Whether slots decide alone where flows from the network go: with direct server return.
    fn returns_directly(&self) -> bool;
    /// The flows from the network that go on and are written down, so that their slot need not name their backend; none where
    /// slots do not decide alone, without direct server return.
    fn direct_flows(&self) -> Vec<WrittenFlow>;
    /// Strikes out flows that slots decide on alone, which a later connection from the same port would not do.
    fn forget_flows(&mut self, flows: &[WrittenFlow]);
    /// Strikes out all that is written down for services that are gone.
    fn forget_flows_of(&mut self, services: &[ServiceKey]);
    /// The backends that began to take connections again since the last call, whose slots do not decide alone.
    fn take_unsettled(&mut self) -> Vec<u32>;
    /// Lets the slots of a backend decide alone again.
    fn settle_backend(&mut self, index: u32);
}

/// A flow whose backend is written down, because its slot alone does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrittenFlow {
    /// The service it is for.
    pub service: ServiceKey,
    /// Its hash, which its slot follows from.
    pub hash: u32,
    /// Index of its backend; [`NO_BACKEND`] for one that no slot could send to its backend as it is.
    pub backend: u32,
    /// Its key in `DIRECT_FLOWS`; `None` for one that is translated here, which only the connection table has.
    pub key: Option<FlowKey>,
}

/// What the element of a backend says beside whose it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Condition {
    /// Bits of [`Backend::flags`].
    pub flags: u32,
    /// The other node it runs on; `None` as in [`DesiredBackend::node`](crate::bpf::DesiredBackend::node).
    pub node: Option<Ipv4Addr>,
}

/// An element of `BACKENDS` as found.
#[derive(Clone, Copy, Debug)]
pub struct AdoptedBackend {
    /// Whose it is; `None` when free.
    pub owner: Option<BackendId>,
    /// Its generation.
    pub generation: u32,
}

/// An entry of `SERVICES` as found.
#[derive(Clone, Debug)]
pub struct AdoptedService {
    /// Key.
    pub key: ServiceKey,
    /// Value.
    pub service: Service,
    /// "namespace/name:port"; empty when the name is missing.
    pub name: String,
}

/// Writes pinned maps.
pub(in crate::bpf) struct PinnedWriter {
    services: Table<ServiceKey, Service>,
    names: Table<u32, ServiceName>,
    counters: CounterArray<ServiceCounters>,
    slots: MappedArray<Slot>,
    backends: MappedArray<Backend>,
    node: Element<NodeConfig>,
    direct_flows: Table<FlowKey, DirectFlow>,
    translated: [Table<FlowKey, Flow>; 2],
    source_ranges: SourceRanges,
    /// What `source_ranges` holds.
    let_in: HashSet<SourceRangeKey>,
    readiness: ReadinessHandle,
}

impl PinnedWriter {
    /// Opens further handles on the maps.
    pub(in crate::bpf) fn open(maps: PinnedMaps, readiness: ReadinessHandle) -> Result<Self, MapsError> {
        let PinnedMaps {
            services,
            service_names,
            service_counters,
            slots,
            backends,
            node,
            direct_flows,
            conntrack,
            conntrack_new,
            source_ranges,
            ..
        } = maps;
        let let_in = source_ranges.entries()?.into_iter().map(|(key, _)| key).collect();
        Ok(Self {
            services,
            names: service_names,
            counters: service_counters,
            slots,
            backends,
            node,
            direct_flows,
            translated: [conntrack, conntrack_new],
            source_ranges,
            let_in,
            readiness,
        })
    }

    /// The entries of `SERVICES`.
    pub(in crate::bpf) fn adopted_services(&self) -> Result<Vec<AdoptedService>, MapsError> {
        self.services
            .entries()?
            .into_iter()
            .map(|(key, service)| {
                let name = self
                    .names
                    .get(&service.service_id)?
                    .as_ref()
                    .map(view::name_text)
                    .unwrap_or_default();
                Ok(AdoptedService { key, service, name })
            })
            .collect()
    }
}

/// The elements of `BACKENDS` up to the last that was ever used.
pub(in crate::bpf) fn adopted_backends(backends: &MappedArray<Backend>) -> Vec<AdoptedBackend> {
    let elements: Vec<Backend> = (0..backends.len()).filter_map(|index| backends.read(index)).collect();
    let used = elements
        .iter()
        .rposition(|backend| backend.generation != 0)
        .map_or(0, |last| last + 1);
    let adopted = |backend: &Backend| AdoptedBackend {
        owner: owner(backend),
        generation: backend.generation,
    };
    elements[..used].iter().map(adopted).collect()
}

/// Whose an element is.
pub(in crate::bpf) fn owner(backend: &Backend) -> Option<BackendId> {
    (backend.flags & IN_USE != 0).then(|| BackendId {
        address: backend.address.to_ip(),
        port: u16::from_be(backend.port_be),
        protocol: Protocol(backend.protocol),
        ready_always: backend.flags & READY_ALWAYS != 0,
    })
}

/// The element of a backend.
pub(in crate::bpf) fn element(held: Held, id: &BackendId, condition: Condition) -> Backend {
    Backend {
        address: Address::from_ip(id.address),
        port_be: id.port.to_be(),
        protocol: id.protocol.0,
        reserved: 0,
        flags: condition.flags,
        generation: held.generation,
        weight: 1,
        node_v4_be: condition.node.map_or(0, |node| node.to_bits().to_be()),
    }
}

/// The map's key of a prefix; an IPv4 one is v4-mapped.
fn source_range_key(service_id: u32, range: &SourceRange) -> SourceRangeKey {
    let mapped = if range.address.is_ipv4() { 96 } else { 0 };
    SourceRangeKey {
        prefix_len: 32 + mapped + u32::from(range.prefix_len),
        service_id,
        address: Address::from_ip(range.address),
    }
}

impl MapWriter for PinnedWriter {
    fn set_backend(&mut self, held: Held, id: &BackendId, condition: Condition) -> bool {
        self.readiness.publish(held, id, condition)
    }

    fn retire_backend(&mut self, held: Held, id: &BackendId, flags: u32) -> bool {
        self.readiness.retire(held, id, flags)
    }

    fn withdraw_backend(&mut self, index: u32, id: &BackendId) {
        self.readiness.withdraw(index, id);
    }

    fn read_slot(&self, index: u32) -> Slot {
        self.slots.read(index).unwrap_or(Slot {
            backend: NO_BACKEND,
            previous: NO_BACKEND,
        })
    }

    fn write_slot(&mut self, index: u32, slot: Slot) {
        self.slots.write(index, &slot);
    }

    fn put_services(&mut self, keys: &[ServiceKey], services: &[Service]) -> Refused {
        self.services.insert_all(keys, services)
    }

    fn remove_service(&mut self, key: &ServiceKey) -> Result<(), MapsError> {
        self.services.remove(key).map(drop)
    }

    fn put_names(&mut self, service_ids: &[u32], names: &[&str]) -> Refused {
        let names: Vec<ServiceName> = names.iter().map(|name| view::name_value(name)).collect();
        self.names.insert_all(service_ids, &names)
    }

    fn remove_name(&mut self, service_id: u32) {
        if let Err(error) = self.names.remove(&service_id) {
            tracing::debug!(service_id, %error, "a service's name stays behind");
        }
    }

    fn set_source_ranges(&mut self, service_id: u32, ranges: &[SourceRange]) -> Result<(), MapsError> {
        if ranges.is_empty() && self.let_in.is_empty() {
            return Ok(());
        }
        let wanted: HashSet<_> = ranges.iter().map(|range| source_range_key(service_id, range)).collect();
        for key in &wanted {
            if !self.let_in.contains(key) {
                self.source_ranges.insert(key, &1)?;
                self.let_in.insert(*key);
            }
        }
        let held = self.let_in.iter().filter(|key| key.service_id == service_id);
        let unwanted: Vec<_> = held.filter(|key| !wanted.contains(key)).copied().collect();
        for key in unwanted {
            self.source_ranges.remove(&key)?;
            self.let_in.remove(&key);
        }
        Ok(())
    }

    fn clear_counters(&mut self, service_ids: &[u32]) -> Refused {
        self.counters.clear(service_ids)
    }

    fn returns_directly(&self) -> bool {
        self.node.get().is_ok_and(|node| node.flags & DIRECT_RETURN != 0)
    }

    fn direct_flows(&self) -> Vec<WrittenFlow> {
        if !self.returns_directly() {
            return Vec::new();
        }
        let now_ns = view::monotonic_ns();
        let mut flows = self.written_down(now_ns);
        flows.extend(self.translated_here(now_ns));
        flows
    }

    fn forget_flows(&mut self, flows: &[WrittenFlow]) {
        for key in flows.iter().filter_map(|flow| flow.key) {
            if let Err(error) = self.direct_flows.remove(&key) {
                tracing::warn!(%error, "a flow that was written down stays behind");
            }
        }
    }

    fn forget_flows_of(&mut self, services: &[ServiceKey]) {
        if !self.returns_directly() {
            return;
        }
        let services: HashSet<&ServiceKey> = services.iter().collect();
        let now_ns = view::monotonic_ns();
        let of_them = |flow: &WrittenFlow| services.contains(&flow.service);
        let flows: Vec<_> = self.written_down(now_ns).into_iter().filter(of_them).collect();
        self.forget_flows(&flows);
    }

    fn take_unsettled(&mut self) -> Vec<u32> {
        self.readiness.take_unsettled()
    }

    fn settle_backend(&mut self, index: u32) {
        self.readiness.settle(index);
    }
}

impl PinnedWriter {
    /// Strikes out whatever is written down: of an earlier time of direct server return, nobody knows how those flows went on.
    pub(in crate::bpf) fn forget_all_flows(&mut self) {
        let flows = entries(&self.direct_flows).into_iter();
        let flows: Vec<_> = flows
            .map(|(key, flow)| WrittenFlow {
                key: Some(key),
                ..written(&key, flow.backend)
            })
            .collect();
        self.forget_flows(&flows);
    }

    /// The flows in `DIRECT_FLOWS` that go on.
    fn written_down(&self, now_ns: u64) -> Vec<WrittenFlow> {
        let goes_on = |(key, flow): &(FlowKey, DirectFlow)| {
            !direct::expired(flow, key.protocol, now_ns) && self.is_there(flow.backend, flow.generation)
        };
        let written = |(key, flow): (FlowKey, DirectFlow)| WrittenFlow {
            key: Some(key),
            ..written(&key, flow.backend)
        };
        let flows = entries(&self.direct_flows);
        flows.into_iter().filter(goes_on).map(written).collect()
    }

    /// The flows that are translated here and go on. A slot does not decide alone for a backend that is not on another node; for
    /// others it would send them on untranslated.
    fn translated_here(&self, now_ns: u64) -> Vec<WrittenFlow> {
        let goes_on = |(key, flow): &(FlowKey, Flow)| {
            key.direction == DIRECTION_FORWARD
                && !expired(flow, key.protocol, now_ns)
                && self.is_there(flow.backend, flow.generation)
        };
        let stays = |index: u32| self.backends.read(index).is_some_and(|backend| backend.node_v4_be == 0);
        let backend = |index: u32| if stays(index) { index } else { NO_BACKEND };
        let flows = self.translated.iter().flat_map(entries).filter(goes_on);
        flows.map(|(key, flow)| written(&key, backend(flow.backend))).collect()
    }

    fn is_there(&self, backend: u32, generation: u32) -> bool {
        let backend = self.backends.read(backend);
        backend.is_some_and(|backend| backend.generation == generation)
    }
}

fn entries<V: Data>(flows: &Table<FlowKey, V>) -> Vec<(FlowKey, V)> {
    flows.entries().unwrap_or_else(|error| {
        tracing::warn!(%error, "flows that were written down may be forgotten");
        Vec::new()
    })
}

/// A flow of a client in the network.
fn written(key: &FlowKey, backend: u32) -> WrittenFlow {
    WrittenFlow {
        service: ServiceKey {
            address: key.destination,
            port_be: key.destination_port_be,
            protocol: key.protocol,
            scope: SCOPE_NODE,
        },
        hash: hash(key),
        backend,
        key: None,
    }
}
