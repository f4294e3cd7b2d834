use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use causeway_abi::{
    backend::{Backend, IN_USE, LOCAL, READY, TERMINATING},
    service::{NO_BACKEND, SERVICE_SOURCE_RANGES, Service, ServiceKey, Slot},
};
use causeway_maps::{MappedArray, MapsError, Protocol};

use super::{
    AdoptedService, Grace, MapWriter, Reason, ServiceSync, SyncReport,
    backends::Held,
    wanted::service_key,
    writer::{Condition, WrittenFlow, adopted_backends, owner},
};
use crate::bpf::{
    BackendId, DesiredBackend, DesiredService, DesiredServices, Frontend, ReadinessHandle, Scope, ServicesOf,
    SourceRange, VipId,
};

const GRACE: Grace = Grace {
    slots: Duration::from_secs(5),
    backends: Duration::from_secs(30),
    hold: Duration::from_mins(2),
};

/// Maps in ordinary memory, and the order in which they were written.
pub(super) struct Maps {
    pub backends: MappedArray<Backend>,
    pub slots: MappedArray<Slot>,
    pub services: BTreeMap<ServiceKey, Service>,
    /// Ranges of the tables in `services`: base → length, and by how many entries.
    live: BTreeMap<u32, (u32, usize)>,
    pub names: HashMap<u32, String>,
    pub source_ranges: HashMap<u32, Vec<SourceRange>>,
    pub direct_flows: Vec<WrittenFlow>,
    readiness: ReadinessHandle,
    services_max: usize,
    log: Vec<&'static str>,
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
            services_max: usize::MAX,
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

    /// What a packet to a VIP can reach: backend → number of slots, as a BPF program would look it up.
    fn reachable(&self, vip: u16) -> BTreeMap<u16, usize> {
        self.reachable_from(vip, Scope::Cluster)
    }

    fn reachable_from(&self, vip: u16, scope: Scope) -> BTreeMap<u16, usize> {
        let service = self.services[&service_key(&vip_id(vip), scope)];
        let mut reachable = BTreeMap::new();
        for index in service.slot_base..service.slot_base + service.slot_count {
            let backend = self.backends.read(self.slots.read(index).unwrap().backend).unwrap();
            let id = owner(&backend).expect("a slot points to a backend in use");
            *reachable.entry(id.port).or_default() += 1;
        }
        reachable
    }

    fn flags(&self, port: u16) -> u32 {
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
        let forgets = slot.backend == present.backend && slot.previous == NO_BACKEND;
        assert!(forgets || !self.is_live(index), "a slot of a live table is written");
        self.slots.write(index, &slot);
    }

    fn put_service(&mut self, key: &ServiceKey, service: &Service) -> Result<(), MapsError> {
        if self.services.len() >= self.services_max && !self.services.contains_key(key) {
            return Err(MapsError::Full {
                map: "SERVICES",
                max_entries: self.services_max as u32,
            });
        }
        self.log("service");
        let old = self.services.insert(*key, *service);
        self.unuse(old);
        if service.slot_count > 0 {
            self.live.entry(service.slot_base).or_insert((service.slot_count, 0)).1 += 1;
        }
        Ok(())
    }

    fn remove_service(&mut self, key: &ServiceKey) -> Result<(), MapsError> {
        self.log("remove");
        let old = self.services.remove(key);
        self.unuse(old);
        Ok(())
    }

    fn put_name(&mut self, service_id: u32, name: &str) -> Result<(), MapsError> {
        self.names.insert(service_id, name.to_owned());
        Ok(())
    }

    fn remove_name(&mut self, service_id: u32) {
        self.names.remove(&service_id);
    }

    fn set_source_ranges(&mut self, service_id: u32, ranges: &[SourceRange]) -> Result<(), MapsError> {
        self.source_ranges.insert(service_id, ranges.to_vec());
        Ok(())
    }

    fn clear_counters(&mut self, _: u32) -> Result<(), MapsError> {
        Ok(())
    }

    fn direct_flows(&self) -> Vec<WrittenFlow> {
        self.direct_flows.clone()
    }
}

pub(super) fn vip_id(port: u16) -> VipId {
    VipId {
        address: "10.96.0.1".parse().unwrap(),
        port,
        protocol: Protocol::TCP,
    }
}

/// Backends are told apart by their ports here.
pub(super) fn backend(port: u16, ready: bool) -> DesiredBackend {
    let id = BackendId {
        address: "10.244.1.2".parse().unwrap(),
        port,
        protocol: Protocol::TCP,
        ready_always: false,
    };
    DesiredBackend {
        id,
        ready,
        terminating: false,
        local: true,
        node: None,
        preferred: true,
    }
}

fn service(vip: u16, backends: &[u16]) -> DesiredService {
    let backends = backends.iter().map(|port| backend(*port, true)).collect();
    DesiredService::cluster_ip(vip_id(vip), format!("default/s:{vip}"), backends)
}

fn desired(services: impl IntoIterator<Item = DesiredService>) -> DesiredServices {
    DesiredServices {
        services: services.into_iter().collect(),
    }
}

fn applied(report: &SyncReport) -> (usize, usize) {
    assert!(report.not_applied.is_empty(), "{:?}", report.not_applied);
    (report.services_written, report.services_removed)
}

#[test]
fn backends_come_before_slots_and_slots_before_the_service() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2, 3])]), now, &mut maps);
    assert_eq!(maps.log, ["backend", "slots", "service"]);
    assert_eq!(maps.reachable(80).keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(maps.names[&1], "default/s:80");

    maps.log.clear();
    planner.sync(&desired([]), now, &mut maps);
    assert_eq!(maps.log, ["remove", "backend"]);
    assert!(maps.services.is_empty() && maps.names.is_empty());
}

#[test]
fn nothing_changed_is_nothing_written() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let want = desired([service(80, &[1, 2, 3]), service(81, &[])]);
    let now = Instant::now();
    assert_eq!(applied(&planner.sync(&want, now, &mut maps)), (2, 0));
    assert!(planner.sync(&want, now, &mut maps).is_unchanged());
}

#[test]
fn readiness_is_a_bit_and_not_a_new_table() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let mut want = desired([service(80, &[1, 2])]);
    let now = Instant::now();
    planner.sync(&want, now, &mut maps);
    want.services[0].backends[1].ready = false;
    let report = planner.sync(&want, now, &mut maps);
    assert_eq!(
        (report.backends_written, report.slots_written, report.services_written),
        (1, 0, 0)
    );
    assert_eq!(maps.flags(1), IN_USE | LOCAL | READY);
    assert_eq!(maps.flags(2), IN_USE | LOCAL);
    assert_eq!(maps.reachable(80).len(), 2, "still in the table");
}

#[test]
fn a_backend_that_leaves_keeps_its_flows_for_a_while() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    planner.sync(&desired([service(80, &[1])]), now, &mut maps);
    assert_eq!(maps.flags(2), IN_USE | TERMINATING);
    assert_eq!(maps.reachable(80).keys().copied().collect::<Vec<_>>(), [1]);
    planner.sync(&desired([service(80, &[1])]), now + GRACE.backends, &mut maps);
    assert_eq!(maps.flags(2), 0);
}

#[test]
fn a_leaver_takes_no_connection_even_before_the_new_table() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    maps.log.clear();
    planner.sync(&desired([service(80, &[1])]), now, &mut maps);
    assert_eq!(maps.log, ["backend", "slots", "service"]);
}

#[test]
fn a_new_owner_of_an_index_has_a_new_generation() {
    let mut maps = Maps::new(4096, 1);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1])]), now, &mut maps);
    let first = maps.backends.read(0).unwrap().generation;

    let report = planner.sync(&desired([service(80, &[2])]), now, &mut maps);
    assert!(
        matches!(report.not_applied[0].reason, Reason::BackendsFull),
        "{report:?}"
    );
    assert_eq!(
        maps.reachable(80),
        BTreeMap::from([(1, 1)]),
        "the old table stays whole"
    );
    assert_eq!(maps.flags(1), IN_USE | TERMINATING, "but nobody is sent there");

    planner.sync(&desired([]), now, &mut maps);
    let later = now + GRACE.backends;
    assert_eq!(
        applied(&planner.sync(&desired([service(80, &[2])]), later, &mut maps)),
        (1, 0)
    );
    assert_eq!(maps.backends.read(0).unwrap().generation, first + 1);
}

#[test]
fn slots_remember_whose_they_were_until_that_backend_is_gone() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2, 3])]), now, &mut maps);
    let index = |maps: &Maps, port: u16| {
        let id = backend(port, true).id;
        (0..64)
            .find(|index| owner(&maps.backends.read(*index).unwrap()) == Some(id))
            .unwrap()
    };
    let three = index(&maps, 3);
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    let slots = table(&maps, 80);
    let orphans = slots.iter().filter(|slot| slot.previous == three).count();
    assert!(
        orphans >= slots.len() / 4,
        "{orphans} of {} slots remember the one that left",
        slots.len()
    );
    assert!(
        slots.iter().any(|slot| slot.previous == NO_BACKEND),
        "slots that did not change hands remember nobody"
    );

    planner.sync(&desired([service(80, &[1, 2])]), now + GRACE.backends, &mut maps);
    assert!(table(&maps, 80).iter().all(|slot| slot.previous != three));
}

fn table(maps: &Maps, vip: u16) -> Vec<Slot> {
    let service = maps.services[&service_key(&vip_id(vip), Scope::Cluster)];
    (service.slot_base..service.slot_base + service.slot_count)
        .map(|slot| maps.read_slot(slot))
        .collect()
}

fn remembering(maps: &Maps, vip: u16) -> usize {
    let slots = table(maps, vip).into_iter();
    slots.filter(|slot| slot.previous != NO_BACKEND).count()
}

#[test]
fn a_slot_remembers_as_long_as_a_flow_of_its_goes_on() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let start = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), start, &mut maps);
    planner.sync(&desired([service(80, &[1, 2, 3])]), start, &mut maps);
    let slots = table(&maps, 80);
    let (place, slot) = slots
        .iter()
        .enumerate()
        .find(|(_, slot)| slot.previous != NO_BACKEND)
        .expect("a slot that changed hands");
    let flow = WrittenFlow {
        service: service_key(&vip_id(80), Scope::Cluster),
        hash: ((place as u64) << 32).div_ceil(slots.len() as u64) as u32,
        backend: slot.previous,
    };
    // One that is where its slot would send it needs nothing.
    let settled = WrittenFlow {
        backend: slot.backend,
        ..flow
    };
    maps.direct_flows = vec![flow];
    let mut now = start;
    for _ in 0..3 {
        now += GRACE.hold;
        planner.settle(now, &mut maps);
        assert_eq!(remembering(&maps, 80), 1);
        assert_eq!(planner.next_due(), Some(now + GRACE.hold));
    }
    maps.direct_flows = vec![settled];
    planner.settle(now + GRACE.hold, &mut maps);
    assert_eq!((planner.next_due(), remembering(&maps, 80)), (None, 0));
}

#[test]
fn slots_forget_whose_they_were_after_the_hold() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let start = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), start, &mut maps);
    assert_eq!((planner.next_due(), remembering(&maps, 80)), (None, 0));
    let mut three = service(80, &[1, 2, 3]);
    planner.sync(&desired([three.clone()]), start, &mut maps);
    let first = remembering(&maps, 80);
    assert!(first > 100, "{first} of 512 slots remember");
    assert_eq!(planner.next_due(), Some(start + GRACE.hold));

    // A later change holds for its own time; what it did not touch, for what is left of the earlier one.
    let half = start + GRACE.hold / 2;
    three.backends[2].preferred = false;
    planner.sync(&desired([three.clone()]), half, &mut maps);
    let both = remembering(&maps, 80);
    planner.settle(start + GRACE.hold, &mut maps);
    let later = remembering(&maps, 80);
    assert!(later > 0 && later < both, "{later} of {both} are left");
    planner.settle(half + GRACE.hold, &mut maps);
    assert_eq!((planner.next_due(), remembering(&maps, 80)), (None, 0));
    assert_eq!(
        maps.reachable(80).keys().copied().collect::<Vec<_>>(),
        [1, 2],
        "backends stay"
    );
}

#[test]
fn every_slot_of_a_larger_table_remembers_its_predecessor() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    let before = table(&maps, 80);
    planner.sync(&desired([service(80, &[1, 2, 3])]), now, &mut maps);
    let after = table(&maps, 80);
    assert_eq!((before.len(), after.len()), (256, 512));
    for (position, slot) in after.iter().enumerate() {
        let old = before[position / 2].backend;
        let expected = if old == slot.backend { NO_BACKEND } else { old };
        assert_eq!(slot.previous, expected, "slot {position}");
    }
}

#[test]
fn what_slots_remember_outlives_the_agent_but_not_the_hold() {
    let mut maps = Maps::new(4096, 64);
    let start = Instant::now();
    let mut planner = maps.planner();
    planner.sync(&desired([service(80, &[1, 2])]), start, &mut maps);
    let want = desired([service(80, &[1, 2, 3])]);
    planner.sync(&want, start, &mut maps);
    let remembered = remembering(&maps, 80);

    let mut planner = maps.adopt();
    assert!(planner.sync(&want, start, &mut maps).is_unchanged());
    assert_eq!(remembering(&maps, 80), remembered);
    // Adoption takes the real time.
    planner.settle(Instant::now() + GRACE.hold, &mut maps);
    assert_eq!(remembering(&maps, 80), 0);
}

#[test]
fn a_single_backend_shrinks_its_table_when_nothing_is_remembered() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    let want = desired([service(80, &[1])]);
    planner.sync(&want, now, &mut maps);
    assert_eq!(table(&maps, 80).len(), 256, "each slot knows whose it was");
    planner.sync(&want, now + GRACE.hold, &mut maps);
    assert_eq!(maps.reachable(80), BTreeMap::from([(1, 1)]));
    assert!(planner.sync(&want, now + GRACE.hold, &mut maps).is_unchanged());
}

#[test]
fn oversized_tables_give_room_to_a_service_that_has_none() {
    let mut maps = Maps::new(2200, 512);
    let mut planner = maps.planner();
    let mut now = Instant::now();
    let eight: Vec<u16> = (1..=8).collect();
    planner.sync(&desired([service(80, &eight)]), now, &mut maps);
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    now += GRACE.hold;
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    assert_eq!(table(&maps, 80).len(), 1024, "nobody needs the room");

    let wide: Vec<u16> = (10..210).collect();
    let want = desired([service(80, &[1, 2]), service(81, &wide), service(82, &wide)]);
    let refused = planner.sync(&want, now, &mut maps).not_applied;
    assert!(matches!(refused[0].reason, Reason::SlotsFull { .. }), "{refused:?}");
    planner.sync(&want, now, &mut maps);
    assert!(table(&maps, 80).len() < 1024);
    now += GRACE.slots;
    assert!(planner.sync(&want, now, &mut maps).not_applied.is_empty());
    assert_eq!(maps.reachable(82).len(), 200);
}

#[test]
fn frontends_that_choose_alike_share_a_table_and_an_id() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    let mut one = service(80, &[1, 2]);
    let external = |port: u16, local_only| Frontend {
        scope: Scope::External,
        local_only,
        ..Frontend::cluster(vip_id(port))
    };
    one.frontends
        .extend([external(80, false), external(30_000, false), external(443, true)]);
    let report = planner.sync(&desired([one.clone()]), now, &mut maps);
    assert_eq!((report.services_written, report.slots_written), (4, 512));
    let entry = |maps: &Maps, port, scope| maps.services[&service_key(&vip_id(port), scope)];
    let cluster = entry(&maps, 80, Scope::Cluster);
    assert_eq!(entry(&maps, 80, Scope::External), cluster);
    assert_eq!(entry(&maps, 30_000, Scope::External), cluster);
    let local = entry(&maps, 443, Scope::External);
    assert!(local.service_id != cluster.service_id && local.slot_base != cluster.slot_base);
    assert_eq!(maps.names.len(), 2);

    // A frontend that goes takes nothing with it, and all follow a new table.
    one.frontends.remove(1);
    one.backends.push(backend(3, true));
    for _ in 0..2 {
        planner = maps.adopt();
        planner.sync(&desired([one.clone()]), now, &mut maps);
        let cluster = entry(&maps, 80, Scope::Cluster);
        assert_eq!(entry(&maps, 30_000, Scope::External), cluster);
        assert_eq!(maps.reachable(80).len(), 3);
        assert_eq!((maps.services.len(), maps.names.len()), (3, 2));
    }
    planner.sync(&desired([]), now, &mut maps);
    assert!(maps.services.is_empty() && maps.names.is_empty() && maps.live.is_empty());
}

#[test]
fn a_frontend_changes_hands_in_one_step() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    let named = |name: &str, backends: &[u16]| DesiredService {
        name: format!("default/{name}:80"),
        ..service(80, backends)
    };
    planner.sync(&desired([named("old", &[1, 2])]), now, &mut maps);
    maps.log.clear();
    let update = [
        ServicesOf {
            owner: "default/new".into(),
            services: vec![named("new", &[3, 4])],
        },
        ServicesOf {
            owner: "default/old".into(),
            services: Vec::new(),
        },
    ];
    assert_eq!(applied(&planner.update(&update, now, &mut maps)), (1, 0));
    assert!(!maps.log.contains(&"remove"), "{:?}", maps.log);
    assert_eq!(maps.reachable(80).keys().copied().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(maps.names.values().collect::<Vec<_>>(), ["default/new:80"]);
    assert_eq!(planner.owners().collect::<Vec<_>>(), ["default/new"]);
}

#[test]
fn a_service_that_does_not_fit_is_named_and_the_others_stay_whole() {
    let mut maps = Maps::new(260, 4096);
    let mut planner = maps.planner();
    let now = Instant::now();
    let many: Vec<u16> = (1..=400).collect();
    let report = planner.sync(&desired([service(80, &[1, 2]), service(81, &many)]), now, &mut maps);
    let [missed] = report.not_applied.as_slice() else {
        panic!("{report:?}")
    };
    assert!(missed.to_string().contains("default/s:81"), "{missed}");
    assert!(matches!(missed.reason, Reason::SlotsFull { backends: 400, .. }));
    assert_eq!(maps.reachable(80).len(), 2);
    assert!(!maps.services.contains_key(&service_key(&vip_id(81), Scope::Cluster)));

    // What it took on the way is given back: after the grace period those backends are free.
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    planner.sync(&desired([service(80, &[1, 2])]), now + GRACE.backends, &mut maps);
    let used = (0..4096)
        .filter(|index| maps.backends.flags(*index).unwrap() & IN_USE != 0)
        .count();
    assert_eq!(used, 2);
}

#[test]
fn a_coarser_table_is_better_than_none() {
    let mut maps = Maps::new(300, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    // 256 slots would be best for each.
    assert_eq!(
        applied(&planner.sync(&desired([service(80, &[1, 2]), service(81, &[3, 4])]), now, &mut maps)),
        (2, 0)
    );
    let lengths: Vec<u32> = maps.services.values().map(|service| service.slot_count).collect();
    assert_eq!(lengths, [256, 32]);
}

#[test]
fn a_full_map_of_services_is_reported_and_leaves_nothing_behind() {
    let mut maps = Maps::new(4096, 64);
    maps.services_max = 1;
    let mut planner = maps.planner();
    let now = Instant::now();
    let report = planner.sync(&desired([service(80, &[1]), service(81, &[2])]), now, &mut maps);
    assert!(
        matches!(report.not_applied[0].reason, Reason::Map(MapsError::Full { .. })),
        "{report:?}"
    );
    assert_eq!(maps.names.len(), 1);
    maps.services_max = 2;
    assert_eq!(
        applied(&planner.sync(&desired([service(80, &[1]), service(81, &[2])]), now, &mut maps)),
        (1, 0)
    );
}

#[test]
fn a_restarted_agent_writes_nothing_and_deletes_only_by_a_list() {
    let mut maps = Maps::new(4096, 64);
    let now = Instant::now();
    let want = desired([service(80, &[1, 2, 3]), service(81, &[2]), service(82, &[])]);
    maps.planner().sync(&want, now, &mut maps);
    let before = maps.services.clone();

    let mut planner = maps.adopt();
    assert!(planner.sync(&want, now, &mut maps).is_unchanged());
    assert_eq!(maps.services, before);

    let mut planner = maps.adopt();
    let report = planner.sync(&desired([service(80, &[1, 2, 3])]), now, &mut maps);
    assert_eq!(applied(&report), (0, 2));
    assert_eq!(maps.services.len(), 1);
}

#[test]
fn new_tables_do_not_overwrite_adopted_ones() {
    let mut maps = Maps::new(4096, 64);
    let now = Instant::now();
    maps.planner().sync(&desired([service(80, &[1, 2, 3])]), now, &mut maps);
    let mut planner = maps.adopt();
    // `Maps::write_slot` refuses writes into live tables.
    planner.sync(&desired([service(80, &[1, 2]), service(81, &[4, 5])]), now, &mut maps);
    assert_eq!(maps.reachable(80).len(), 2);
    assert_eq!(maps.reachable(81).len(), 2);
    let ids: HashSet<u32> = maps.services.values().map(|service| service.service_id).collect();
    assert_eq!(ids.len(), 2);
}

#[test]
fn a_table_that_cannot_be_trusted_is_written_anew() {
    let mut maps = Maps::new(4096, 64);
    let now = Instant::now();
    let want = desired([service(80, &[1, 2, 3]), service(81, &[4, 5])]);
    maps.planner().sync(&want, now, &mut maps);
    // As after a crash: a slot of a backend that nobody has, and a second service over the range and id of the first.
    let first = maps.services[&service_key(&vip_id(80), Scope::Cluster)];
    maps.slots.write(
        first.slot_base,
        &Slot {
            backend: 63,
            previous: NO_BACKEND,
        },
    );
    maps.services.insert(service_key(&vip_id(81), Scope::Cluster), first);

    let mut planner = maps.adopt();
    maps.live.clear(); // Only so that the fake does not take the doubtful ranges for live ones.
    planner.sync(&want, now, &mut maps);
    assert_eq!(maps.reachable(80).keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(maps.reachable(81).keys().copied().collect::<Vec<_>>(), [4, 5]);
    let ids: HashSet<u32> = maps.services.values().map(|service| service.service_id).collect();
    assert_eq!(ids.len(), 2);
}

#[test]
fn a_changed_name_or_affinity_keeps_the_table() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    let renamed = DesiredService {
        name: "default/s:http".into(),
        affinity_seconds: 60,
        ..service(80, &[1, 2])
    };
    let report = planner.sync(&desired([renamed]), now, &mut maps);
    assert_eq!((report.services_written, report.slots_written), (1, 0));
    let service = maps.services[&service_key(&vip_id(80), Scope::Cluster)];
    assert_eq!(
        (service.affinity_seconds, maps.names[&service.service_id].as_str()),
        (60, "default/s:http")
    );
}

#[test]
fn many_services_all_find_room_in_maps_of_the_ordinary_size() {
    let sizes = crate::bpf::MapSizes::default();
    let mut maps = Maps::new(sizes.slots, sizes.backends);
    let mut planner = ServiceSync::new(sizes.slots, sizes.backends, sizes.services, GRACE);
    let address = |prefix: u8, n: u32| std::net::IpAddr::from([prefix, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
    let service = |n: u32| {
        let one = |i| DesiredBackend {
            id: BackendId {
                address: address(11, 3 * n + i),
                ..backend(1, true).id
            },
            ..backend(1, true)
        };
        let vip = VipId {
            address: address(10, n),
            port: 80,
            protocol: Protocol::TCP,
        };
        DesiredService::cluster_ip(vip, format!("default/s{n}:80"), (0..3).map(one).collect())
    };
    let want = desired((0..40_000).map(service));
    let now = Instant::now();
    assert_eq!(applied(&planner.sync(&want, now, &mut maps)), (40_000, 0));
    assert!(planner.sync(&want, now, &mut maps).is_unchanged());
}

#[test]
fn each_frontend_has_a_table_of_the_backends_that_it_may_choose() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    let mut one = service(80, &[1, 2, 3]);
    one.backends[1].local = false;
    one.backends[2].preferred = false;
    one.frontends.push(Frontend {
        scope: Scope::External,
        local_only: true,
        ..one.frontends[0].clone()
    });
    planner.sync(&desired([one.clone()]), now, &mut maps);
    let reached = |maps: &Maps, scope| maps.reachable_from(80, scope).keys().copied().collect::<Vec<_>>();
    assert_eq!(reached(&maps, Scope::Cluster), [1, 2]);
    assert_eq!(reached(&maps, Scope::External), [1, 3]);
    assert!(planner.sync(&desired([one.clone()]), now, &mut maps).is_unchanged());
    assert!(maps.adopt().sync(&desired([one.clone()]), now, &mut maps).slots_written == 0);

    one.frontends.pop();
    assert_eq!(applied(&planner.sync(&desired([one]), now, &mut maps)), (0, 1));
    assert!(!maps.services.contains_key(&service_key(&vip_id(80), Scope::External)));
}

#[test]
fn an_only_backend_that_gives_way_is_retired_after_the_new_table() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1])]), now, &mut maps);
    maps.log.clear();
    planner.sync(&desired([service(80, &[2])]), now, &mut maps);
    assert_eq!(maps.log, ["backend", "slots", "service", "backend"]);
    assert_eq!(
        maps.reachable_from(80, Scope::Cluster)
            .keys()
            .copied()
            .collect::<Vec<_>>(),
        [2]
    );
}

#[test]
fn source_ranges_are_written_before_the_flag_and_go_with_the_service() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    let range = SourceRange {
        address: "192.0.2.0".parse().unwrap(),
        prefix_len: 24,
    };
    let mut one = service(80, &[1]);
    one.frontends[0].scope = Scope::External;
    one.frontends[0].source_ranges = vec![range];
    planner.sync(&desired([one.clone()]), now, &mut maps);
    let key = service_key(&vip_id(80), Scope::External);
    let written = maps.services[&key];
    assert_eq!(written.flags & SERVICE_SOURCE_RANGES, SERVICE_SOURCE_RANGES);
    assert_eq!(maps.source_ranges[&written.service_id], [range]);
    assert!(
        maps.adopt()
            .sync(&desired([one.clone()]), now, &mut maps)
            .is_unchanged()
    );

    one.frontends[0].source_ranges.clear();
    planner.sync(&desired([one]), now, &mut maps);
    assert_eq!(maps.services[&key].flags & SERVICE_SOURCE_RANGES, 0);
    assert!(maps.source_ranges[&written.service_id].is_empty());
}

#[test]
fn who_is_not_preferred_any_more_keeps_its_flows() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let mut now = Instant::now();
    let mut one = service(80, &[1, 2]);
    planner.sync(&desired([one.clone()]), now, &mut maps);
    one.backends[1].preferred = false;
    planner.sync(&desired([one.clone()]), now, &mut maps);
    assert_eq!(maps.reachable(80).keys().copied().collect::<Vec<_>>(), [1]);
    now += GRACE.backends * 2;
    planner.sync(&desired([one.clone()]), now, &mut maps);
    assert_eq!(maps.flags(2), IN_USE | LOCAL | READY, "it is not on its way out");

    // Not in a table, and yet not forgotten by an agent that starts again.
    let mut planner = maps.adopt();
    planner.sync(&desired([one.clone()]), now, &mut maps);
    now += GRACE.backends * 2;
    planner.sync(&desired([one]), now, &mut maps);
    assert_eq!(maps.flags(2), IN_USE | LOCAL | READY);
}
