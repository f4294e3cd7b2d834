//! Maps in ordinary memory.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Instant,
};

use causeway_abi::{
    backend::{Backend, IN_USE},
    service::{NO_BACKEND, Service, ServiceKey, Slot},
};
use causeway_maps::{MappedArray, MapsError, Refused};

use super::{
    super::{
        AdoptedService, MapWriter, ServiceSync,
        backends::Held,
        wanted::service_key,
        writer::{Condition, WrittenFlow, adopted_backends, owner},
    },
    GRACE, backend, vip_id,
};
use crate::bpf::{BackendId, ReadinessHandle, Scope, SourceRange};

/// Maps in ordinary memory, and the order in which they were written.
pub struct Maps {
    pub backends: MappedArray<Backend>,
    pub slots: MappedArray<Slot>,
    pub services: BTreeMap<ServiceKey, Service>,
    /// Ranges of the tables in `services`: base → length, and by how many entries.
    pub live: BTreeMap<u32, (u32, usize)>,
    pub names: HashMap<u32, String>,
    pub source_ranges: HashMap<u32, Vec<SourceRange>>,
    pub direct_flows: Vec<WrittenFlow>,
    pub returns_directly: bool,
    readiness: ReadinessHandle,
    pub services_max: usize,
    pub names_max: usize,
    /// Ids whose counters are at zero.
    cleared: HashSet<u32>,
    pub log: Vec<&'static str>,
}

impl Maps {
    pub fn new(slots: u32, backends: u32) -> Self {
        let backends = MappedArray::anonymous(backends).unwrap();
        Self {
            readiness: ReadinessHandle::new(backends.clone()),
            backends,
            slots: MappedArray::anonymous(slots).unwrap(),
            services: BTreeMap::new(),
            live: BTreeMap::new(),
            names: HashMap::new(),
            source_ranges: HashMap::new(),
            direct_flows: Vec::new(),
            returns_directly: true,
            services_max: usize::MAX,
            names_max: usize::MAX,
            cleared: HashSet::new(),
            log: Vec::new(),
        }
    }

    fn is_live(&self, index: u32) -> bool {
        let below = self.live.range(..=index).next_back();
        below.is_some_and(|(base, (len, _))| index < base + len)
    }

    fn unuse(&mut self, service: Option<Service>) {
        let Some(base) = service.map(|service| service.slot_base) else {
            return;
        };
        if let Some((_, entries)) = self.live.get_mut(&base) {
            *entries -= 1;
            if *entries == 0 {
                self.live.remove(&base);
            }
        }
    }

    fn put_service(&mut self, key: ServiceKey, service: Service) -> Result<(), MapsError> {
        if self.services.len() >= self.services_max && !self.services.contains_key(&key) {
            return Err(full("SERVICES", self.services_max));
        }
        let id = service.service_id;
        assert!(
            self.names.contains_key(&id) && self.cleared.contains(&id),
            "what is visible has a name and began at zero"
        );
        if service.slot_count > 0 {
            for index in [service.slot_base, service.slot_base + service.slot_count - 1] {
                let backend = self.backends.flags(self.read_slot(index).backend).unwrap();
                assert!(backend & IN_USE != 0, "a visible slot leads to a backend");
            }
        }
        self.log("service");
        let old = self.services.insert(key, service);
        self.unuse(old);
        if service.slot_count > 0 {
            self.live.entry(service.slot_base).or_insert((service.slot_count, 0)).1 += 1;
        }
        Ok(())
    }

    fn log(&mut self, what: &'static str) {
        if self.log.last() != Some(&what) {
            self.log.push(what);
        }
    }

    pub fn planner(&self) -> ServiceSync {
        ServiceSync::new(self.slots.len(), self.backends.len(), 1000, GRACE)
    }

    /// As a restarted agent would.
    pub fn adopt(&mut self) -> ServiceSync {
        let mut planner = self.planner();
        self.readiness = ReadinessHandle::new(self.backends.clone());
        self.adopt_readiness();
        let services: Vec<_> = self
            .services
            .iter()
            .map(|(key, service)| AdoptedService {
                key: *key,
                service: *service,
                name: self.names[&service.service_id].clone(),
            })
            .collect();
        planner.adopt(adopted_backends(&self.backends), services, Instant::now(), self);
        planner
    }

    fn adopt_readiness(&self) {
        let elements = (0..self.backends.len()).filter_map(|index| Some((index, self.backends.read(index)?)));
        let owners = elements.filter_map(|(index, backend)| Some((index, owner(&backend)?.address)));
        self.readiness.adopt(owners);
    }

    /// What a packet to a VIP can reach: backend → number of slots, as a BPF program would look it up.
    pub fn reachable(&self, vip: u16) -> BTreeMap<u16, usize> {
        self.reachable_from(vip, Scope::Cluster)
    }

    pub fn reachable_from(&self, vip: u16, scope: Scope) -> BTreeMap<u16, usize> {
        let service = self.services[&service_key(&vip_id(vip), scope)];
        let mut reachable = BTreeMap::new();
        for index in service.slot_base..service.slot_base + service.slot_count {
            let backend = self.backends.read(self.slots.read(index).unwrap().backend).unwrap();
            let id = owner(&backend).expect("a slot points to a backend in use");
            *reachable.entry(id.port).or_default() += 1;
        }
        reachable
    }

    /// The index of the backend with a port.
    pub fn index_of(&self, port: u16) -> u32 {
        let id = backend(port, true).id;
        (0..self.backends.len())
            .find(|index| owner(&self.backends.read(*index).unwrap()) == Some(id))
            .unwrap()
    }

    pub fn flags(&self, port: u16) -> u32 {
        let all = (0..self.backends.len()).filter_map(|index| self.backends.read(index));
        all.filter(|backend| backend.port_be == port.to_be())
            .map(|backend| backend.flags)
            .next_back()
            .unwrap()
    }
}

impl MapWriter for Maps {
    fn set_backend(&mut self, held: Held, id: &BackendId, condition: Condition) -> bool {
        let changed = self.readiness.publish(held, id, condition);
        if changed {
            self.log("backend");
        }
        changed
    }

    fn retire_backend(&mut self, held: Held, id: &BackendId, flags: u32) -> bool {
        let changed = self.readiness.retire(held, id, flags);
        if changed {
            self.log("backend");
        }
        changed
    }

    fn withdraw_backend(&mut self, index: u32, id: &BackendId) {
        self.log("withdraw");
        self.readiness.withdraw(index, id);
    }

    fn read_slot(&self, index: u32) -> Slot {
        self.slots.read(index).unwrap()
    }

    fn write_slot(&mut self, index: u32, slot: Slot) {
        self.log("slots");
        let present = self.read_slot(index);
        let forgets = slot.backend == present.backend && [NO_BACKEND, slot.backend].contains(&slot.previous);
        assert!(forgets || !self.is_live(index), "a slot of a live table is written");
        self.slots.write(index, &slot);
    }

    fn put_services(&mut self, keys: &[ServiceKey], services: &[Service]) -> Refused {
        refused(keys.iter().zip(services), |(key, service)| {
            self.put_service(*key, *service)
        })
    }

    fn remove_service(&mut self, key: &ServiceKey) -> Result<(), MapsError> {
        self.log("remove");
        let old = self.services.remove(key);
        self.unuse(old);
        Ok(())
    }

    fn put_names(&mut self, service_ids: &[u32], names: &[&str]) -> Refused {
        refused(service_ids.iter().zip(names), |(id, name)| {
            if self.names.len() >= self.names_max && !self.names.contains_key(id) {
                return Err(full("SERVICE_NAMES", self.names_max));
            }
            self.names.insert(*id, (*name).to_owned());
            Ok(())
        })
    }

    fn remove_name(&mut self, service_id: u32) {
        self.names.remove(&service_id);
        self.cleared.remove(&service_id);
    }

    fn set_source_ranges(&mut self, service_id: u32, ranges: &[SourceRange]) -> Result<(), MapsError> {
        self.source_ranges.insert(service_id, ranges.to_vec());
        Ok(())
    }

    fn clear_counters(&mut self, service_ids: &[u32]) -> Refused {
        self.cleared.extend(service_ids);
        Refused::new()
    }

    fn returns_directly(&self) -> bool {
        self.returns_directly
    }

    fn direct_flows(&self) -> Vec<WrittenFlow> {
        self.direct_flows.clone()
    }

    fn forget_flows(&mut self, flows: &[WrittenFlow]) {
        self.direct_flows.retain(|flow| !flows.contains(flow));
    }

    fn forget_flows_of(&mut self, services: &[ServiceKey]) {
        self.direct_flows.retain(|flow| !services.contains(&flow.service));
    }

    fn take_unsettled(&mut self) -> Vec<u32> {
        self.readiness.take_unsettled()
    }

    fn settle_backend(&mut self, index: u32) {
        self.readiness.settle(index);
    }
}

/// Does a list of writes one by one, as the kernel does.
fn refused<T>(list: impl Iterator<Item = T>, mut write: impl FnMut(T) -> Result<(), MapsError>) -> Refused {
    let results = list.map(|one| write(one).err());
    let numbered = results.enumerate();
    numbered
        .filter_map(|(position, error)| Some((position, error?)))
        .collect()
}

fn full(map: &'static str, max_entries: usize) -> MapsError {
    let max_entries = max_entries as u32;
    MapsError::Full { map, max_entries }
}
