//! The planner against maps in ordinary memory: one file for each thing that it must get right.

mod adoption;
mod doubt;
mod frontends;
mod maps;
mod memory;
mod room;
mod updates;
mod writes;

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use causeway_abi::{
    backend::{IN_USE, LOCAL, READY, TERMINATING, UNSETTLED},
    service::{NO_BACKEND, SERVICE_SOURCE_RANGES, Slot},
};
use causeway_maps::{MapsError, Protocol};
use maps::Maps;

use super::{Grace, MapWriter, Reason, ServiceSync, SyncReport, wanted::service_key, writer::WrittenFlow};
use crate::bpf::{
    BackendId, DesiredBackend, DesiredService, DesiredServices, Frontend, Scope, ServicesOf, SourceRange, VipId,
};

const GRACE: Grace = Grace {
    slots: Duration::from_secs(5),
    backends: Duration::from_secs(30),
    hold: Duration::from_mins(2),
};

fn vip_id(port: u16) -> VipId {
    VipId {
        address: "10.96.0.1".parse().unwrap(),
        port,
        protocol: Protocol::TCP,
    }
}

/// Backends are told apart by their ports here.
fn backend(port: u16, ready: bool) -> DesiredBackend {
    DesiredBackend {
        ready,
        local: true,
        ..DesiredBackend::ready(BackendId::new("10.244.1.2".parse().unwrap(), port, Protocol::TCP))
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
