//! Updates of single owners lead where passes over everything lead.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use causeway_abi::{backend::UNSETTLED, service::SERVICE_SOURCE_RANGES};
use proptest::prelude::*;

use super::{super::writer::owner, backend, maps::Maps, vip_id};
use crate::bpf::{DesiredBackend, DesiredService, DesiredServices, Frontend, Scope, ServicesOf, SourceRange};

const OWNERS: u8 = 4;

/// A change of the cluster.
#[derive(Clone, Debug)]
enum Change {
    /// A service gets these backends: port, and bits of ready, terminating, local, preferred, elsewhere.
    Backends(u8, Vec<(u16, u8)>),
    /// A frontend goes to a service, or to nobody.
    Frontend {
        number: u16,
        external: bool,
        to: Option<u8>,
        bits: u8,
    },
    /// A service gets another name of its port and another affinity.
    Rename(u8, u8),
    /// Time passes.
    Wait(u64),
    /// The agent is replaced by another.
    Restart,
}

fn change() -> impl Strategy<Value = Change> {
    let backends = proptest::collection::btree_map(1_u16..12, 0_u8..32, 0..6);
    prop_oneof![
        4 => (0..OWNERS, backends).prop_map(|(to, backends)| Change::Backends(to, backends.into_iter().collect())),
        4 => (80_u16..88, any::<bool>(), proptest::option::of(0..OWNERS), 0_u8..4)
            .prop_map(|(number, external, to, bits)| Change::Frontend { number, external, to, bits }),
        1 => (0..OWNERS, 0_u8..3).prop_map(|(of, name)| Change::Rename(of, name)),
        2 => (0_u64..100).prop_map(Change::Wait),
        1 => Just(Change::Restart),
    ]
}

/// What is desired, in the form in which it changes.
#[derive(Default)]
struct Cluster {
    backends: BTreeMap<u8, Vec<DesiredBackend>>,
    frontends: BTreeMap<(u16, bool), (u8, u8)>,
    names: BTreeMap<u8, u8>,
}

impl Cluster {
    /// Makes a change and answers the owners that it concerns.
    fn change(&mut self, change: &Change) -> BTreeSet<u8> {
        match change {
            Change::Backends(to, backends) => {
                let backends = backends.iter().map(|(port, bits)| condition(*port, *bits));
                self.backends.insert(*to, backends.collect());
                BTreeSet::from([*to])
            }
            Change::Frontend {
                number,
                external,
                to,
                bits,
            } => {
                let key = (*number, *external);
                let before = match to {
                    Some(to) => self.frontends.insert(key, (*to, *bits)),
                    None => self.frontends.remove(&key),
                };
                before.map(|(of, _)| of).into_iter().chain(*to).collect()
            }
            Change::Rename(of, name) => {
                self.names.insert(*of, *name);
                BTreeSet::from([*of])
            }
            Change::Wait(_) | Change::Restart => BTreeSet::new(),
        }
    }

    fn services(&self, of: u8) -> Vec<DesiredService> {
        let mine = self.frontends.iter().filter(|(_, (owner, _))| *owner == of);
        let frontends: Vec<_> = mine.map(|(key, (_, bits))| frontend(*key, *bits)).collect();
        if frontends.is_empty() {
            return Vec::new();
        }
        let name = self.names.get(&of).copied().unwrap_or_default();
        vec![DesiredService {
            name: format!("default/s{of}:{name}"),
            affinity_seconds: u32::from(name),
            frontends,
            backends: self.backends.get(&of).cloned().unwrap_or_default(),
        }]
    }

    fn complete(&self) -> DesiredServices {
        DesiredServices {
            services: (0..OWNERS).flat_map(|of| self.services(of)).collect(),
        }
    }
}

fn condition(port: u16, bits: u8) -> DesiredBackend {
    let local = bits & 4 != 0;
    DesiredBackend {
        terminating: bits & 2 != 0,
        local,
        node: (!local && bits & 16 != 0).then_some(Ipv4Addr::new(172, 30, 0, 2)),
        preferred: bits & 8 != 0,
        ..backend(port, bits & 1 != 0)
    }
}

fn frontend((number, external): (u16, bool), bits: u8) -> Frontend {
    let range = SourceRange {
        address: Ipv4Addr::new(192, 0, 2, 0).into(),
        prefix_len: 24,
    };
    Frontend {
        scope: if external { Scope::External } else { Scope::Cluster },
        local_only: bits & 1 != 0,
        source_ranges: if external && bits & 2 != 0 {
            vec![range]
        } else {
            Vec::new()
        },
        ..Frontend::cluster(vip_id(number))
    }
}

/// A frontend: name, affinity, source ranges and the backends in its table.
type Shown = (String, u32, Vec<SourceRange>, BTreeSet<u16>);

/// What maps mean, whatever the numbers in them: frontends, and the desired backends with their flags and nodes.
#[derive(PartialEq, Eq, Debug)]
struct Picture {
    services: BTreeMap<(u16, u8), Shown>,
    backends: BTreeMap<u16, (u32, u32)>,
}

fn picture(maps: &Maps, cluster: &Cluster) -> Picture {
    let services = maps.services.iter().map(|(key, service)| {
        let ranges = if service.flags & SERVICE_SOURCE_RANGES == 0 {
            Vec::new()
        } else {
            maps.source_ranges[&service.service_id].clone()
        };
        let slots = service.slot_base..service.slot_base + service.slot_count;
        let backends = slots.map(|slot| {
            let backend = maps.backends.read(maps.slots.read(slot).unwrap().backend).unwrap();
            owner(&backend).expect("a slot points to a backend in use").port
        });
        let name = maps.names[&service.service_id].clone();
        let value = (name, service.affinity_seconds, ranges, backends.collect());
        ((u16::from_be(key.port_be), key.scope), value)
    });
    let desired: BTreeSet<u16> = cluster
        .complete()
        .services
        .iter()
        // Of services with nothing but local frontends, only local backends are held.
        .filter(|service| service.frontends.iter().any(|frontend| !frontend.local_only))
        .flat_map(|service| service.backends.iter().map(|backend| backend.id.port))
        .collect();
    let elements = (0..maps.backends.len()).filter_map(|index| maps.backends.read(index));
    let backends =
        elements.filter_map(|backend| Some((owner(&backend)?.port, (backend.flags & !UNSETTLED, backend.node_v4_be))));
    Picture {
        services: services.collect(),
        backends: backends.filter(|(port, _)| desired.contains(port)).collect(),
    }
}

proptest! {
    // Each step is compared with a pass over everything into fresh maps, which takes its time.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn updates_lead_where_full_passes_lead(changes in proptest::collection::vec(change(), 1..40)) {
        let mut cluster = Cluster::default();
        let mut maps = Maps::new(1 << 14, 256);
        let mut planner = maps.planner();
        let mut now = Instant::now();
        for change in &changes {
            let concerned = cluster.change(change);
            match change {
                Change::Wait(seconds) => now += Duration::from_secs(*seconds),
                Change::Restart => {
                    planner = maps.adopt();
                    planner.all_seen();
                    let all = (0..OWNERS).map(|of| services_of(&cluster, of));
                    let report = planner.update(all, now, &mut maps);
                    prop_assert_eq!(report.services_removed, 0, "all of it was there");
                }
                _ => {}
            }
            let updates = concerned.into_iter().map(|of| services_of(&cluster, of));
            let report = planner.update(updates, now, &mut maps);
            prop_assert!(report.not_applied.is_empty(), "{:?}", report.not_applied);

            let mut fresh = Maps::new(1 << 14, 256);
            fresh.planner().sync(&cluster.complete(), now, &mut fresh);
            prop_assert_eq!(picture(&maps, &cluster), picture(&fresh, &cluster), "after {:?}", change);
        }
        // A pass over everything finds nothing that was missed, but for tables that may shrink.
        let report = planner.sync(&cluster.complete(), now, &mut maps);
        prop_assert_eq!(report.services_removed + report.not_applied.len(), 0);
        planner.sync(&DesiredServices::default(), now, &mut maps);
        now += Duration::from_secs(1000);
        planner.settle(now, &mut maps);
        prop_assert!(maps.services.is_empty() && maps.names.is_empty());
        let used = (0..maps.backends.len()).filter(|index| maps.backends.flags(*index) != Some(0)).count();
        prop_assert_eq!(used, 0, "every backend is free in the end");
    }
}

fn services_of(cluster: &Cluster, of: u8) -> ServicesOf {
    ServicesOf {
        owner: format!("default/s{of}"),
        services: cluster.services(of),
    }
}
