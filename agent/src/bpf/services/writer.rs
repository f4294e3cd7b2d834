//! The one seam between the planner and the kernel.

use std::{collections::HashSet, net::Ipv4Addr};

use causeway_abi::{
    Address,
    backend::{Backend, IN_USE, READY_ALWAYS},
    conntrack::{FlowKey, TCP_ESTABLISHED, timeout_seconds},
    counter::ServiceCounters,
    direct::DirectFlow,
    service::{NO_BACKEND, SCOPE_NODE, Service, ServiceKey, ServiceName, Slot, SourceRangeKey},
};
use causeway_ebpf::flow::hash;
use causeway_maps::{
    AddressExt as _, CounterArray, MappedArray, MapsError, PinnedMaps, Protocol, SourceRanges, Table, view,
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
    /// Writes a service in one step.
    fn put_service(&mut self, key: &ServiceKey, service: &Service) -> Result<(), MapsError>;
    /// Removes a service.
    fn remove_service(&mut self, key: &ServiceKey) -> Result<(), MapsError>;
    /// Sets the name of a service id.
    fn put_name(&mut self, service_id: u32, name: &str) -> Result<(), MapsError>;
    /// Removes the name of a service id; a name left over is overwritten when the id is used again.
    fn remove_name(&mut self, service_id: u32);
    /// Makes these the clients that a service id lets in from the network.
    fn set_source_ranges(&mut self, service_id: u32, ranges: &[SourceRange]) -> Result<(), MapsError>;
    /// Sets the counters of a service id to zero.
    fn clear_counters(&mut self, service_id: u32) -> Result<(), MapsError>;
    /// The flows that `DIRECT_FLOWS` has and that are going on.
    fn direct_flows(&self) -> Vec<WrittenFlow>;
}

/// A flow whose backend is written down, because its slot alone does not tell.
#[derive(Clone, Copy, Debug)]
pub struct WrittenFlow {
    /// The service it is for.
    pub service: ServiceKey,
    /// Its hash, which its slot follows from.
    pub hash: u32,
    /// Index of its backend.
    pub backend: u32,
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
    direct_flows: Table<FlowKey, DirectFlow>,
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
            direct_flows,
            source_ranges,
            ..
        } = maps;
        let let_in = source_ranges.entries()?.into_iter().collect();
        Ok(Self {
            services,
            names: service_names,
            counters: service_counters,
            slots,
            backends,
            direct_flows,
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

    fn put_service(&mut self, key: &ServiceKey, service: &Service) -> Result<(), MapsError> {
        self.services.insert(key, service)
    }

    fn remove_service(&mut self, key: &ServiceKey) -> Result<(), MapsError> {
        self.services.remove(key).map(drop)
    }

    fn put_name(&mut self, service_id: u32, name: &str) -> Result<(), MapsError> {
        self.names.insert(&service_id, &view::name_value(name))
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
                self.source_ranges.insert(key)?;
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

    fn clear_counters(&mut self, service_id: u32) -> Result<(), MapsError> {
        self.counters.clear(service_id)
    }

    fn direct_flows(&self) -> Vec<WrittenFlow> {
        let flows = self.direct_flows.entries().unwrap_or_else(|error| {
            tracing::warn!(%error, "flows that were written down may be forgotten");
            Vec::new()
        });
        let now_ns = view::monotonic_ns();
        let goes_on = |(key, flow): &(FlowKey, DirectFlow)| {
            let timeout_ns = timeout_seconds(key.protocol, TCP_ESTABLISHED) * 1_000_000_000;
            let backend = self.backends.read(flow.backend);
            now_ns < flow.last_seen_ns + timeout_ns
                && backend.is_some_and(|backend| backend.generation == flow.generation)
        };
        let written = |(key, flow): (FlowKey, DirectFlow)| WrittenFlow {
            service: ServiceKey {
                address: key.destination,
                port_be: key.destination_port_be,
                protocol: key.protocol,
                scope: SCOPE_NODE,
            },
            hash: hash(&key),
            backend: flow.backend,
        };
        flows.into_iter().filter(goes_on).map(written).collect()
    }
}
