//! Services, their counters, their backends and whose their slots are.

use causeway_maps::view::{BackendEntry, ServiceBackendView, ServiceView, ShareView, TableView};
use serde_json::json;

use super::{Item, Rows};
use crate::{names::Names, table::or_none};

/// As many backends are shown beside a service, the rest is counted.
const SHOWN_BACKENDS: usize = 3;

const SERVICE_RATES: &[(&str, &str)] = &[
    ("CONN/S", "connectionsPerSecond"),
    ("PACKETS/S", "packetsPerSecond"),
    ("BYTES/S", "bytesPerSecond"),
    ("DROPS/S", "dropsPerSecond"),
];

pub(super) fn services(services: &[ServiceView], names: &Names) -> Rows {
    let row = |service: &ServiceView| {
        let backend = |one: &ServiceBackendView| {
            let address = names.beside(&one.backend.address);
            format!("{address} {}", one.backend.state_text())
        };
        let all: Vec<String> = service.backends.iter().map(backend).collect();
        let mut addresses: Vec<String> = service.backends.iter().map(|one| one.backend.address.clone()).collect();
        let more = addresses.len().saturating_sub(SHOWN_BACKENDS);
        addresses.truncate(SHOWN_BACKENDS);
        let more = if more > 0 {
            format!(" + {more} more...")
        } else {
            String::new()
        };
        let affinity = match service.affinity_seconds {
            0 => String::new(),
            seconds => format!("{seconds}s"),
        };
        let narrow = vec![
            service_name(service),
            service.vip.clone(),
            format!("{}/{}", service.ready(), service.backends.len()),
            format!("{}{more}", or_none(&addresses.join(","))),
        ];
        let wide = vec![
            service.id.to_string(),
            service.scope.clone(),
            or_none(&affinity),
            service.slots.to_string(),
            or_none(&all.join(", ")),
        ];
        Item::new(service, narrow, wide).counting(format!("{} {}", service.vip, service.scope), counts(service))
    };
    Rows {
        narrow: &["SERVICE", "VIP", "READY", "BACKENDS"],
        wide: &["ID", "SCOPE", "AFFINITY", "SLOTS", "STATES"],
        rates: SERVICE_RATES,
        items: services.iter().map(row).collect(),
        ..Rows::default()
    }
}

pub(super) fn counters(services: &[ServiceView]) -> Rows {
    let row = |service: &ServiceView| {
        let mut cells = vec![service_name(service), service.vip.clone()];
        cells.extend(counts(service).iter().map(ToString::to_string));
        let json = json!({
            "name": service.name, "vip": service.vip, "id": service.id,
            "connections": service.connections, "packets": service.packets,
            "bytes": service.bytes, "drops": service.drops,
        });
        Item::new(&json, cells, vec![service.id.to_string(), service.scope.clone()])
            .counting(format!("{} {}", service.vip, service.scope), counts(service))
    };
    Rows {
        narrow: &["SERVICE", "VIP", "CONNECTIONS", "PACKETS", "BYTES", "DROPS"],
        wide: &["ID", "SCOPE"],
        rates: SERVICE_RATES,
        items: services.iter().map(row).collect(),
        ..Rows::default()
    }
}

pub(super) fn backends(backends: &[BackendEntry], names: &Names) -> Rows {
    let row = |entry: &BackendEntry| {
        let backend = &entry.backend;
        let pod = names.pod(&backend.address);
        let narrow = vec![
            backend.index.to_string(),
            backend.address.clone(),
            or_none(pod),
            backend.state_text(),
            or_none(&entry.services.join(",")),
        ];
        Item::new(entry, narrow, vec![backend.generation.to_string()]).with("pod", pod)
    };
    Rows {
        narrow: &["INDEX", "ADDRESS", "POD", "STATE", "SERVICES"],
        wide: &["GENERATION"],
        items: backends.iter().map(row).collect(),
        ..Rows::default()
    }
}

/// Shares; or every slot, where the slots were read.
pub(super) fn slots(tables: &[TableView], names: &Names) -> Rows {
    let shares = |table: &TableView| -> Vec<Item> {
        let one = |share: &ShareView| {
            let narrow = vec![
                table.service.clone(),
                table.vip.clone(),
                share.backend.address.clone(),
                or_none(names.pod(&share.backend.address)),
                share.backend.state_text(),
                format!("{}/{}", share.slots, table.count),
                format!("{:.1}%", share.percent),
            ];
            let wide = vec![slot_list(table, share.backend.index)];
            let json = json!({
                "service": table.service, "vip": table.vip, "base": table.base, "count": table.count,
                "backend": share.backend, "pod": names.pod(&share.backend.address),
                "slots": share.slots, "percent": share.percent,
                "numbers": numbers(table, share.backend.index),
            });
            Item::new(&json, narrow, wide)
        };
        if table.shares.is_empty() {
            let none = || or_none("");
            let narrow = vec![
                table.service.clone(),
                table.vip.clone(),
                none(),
                none(),
                none(),
                "0/0".to_owned(),
                none(),
            ];
            return vec![Item::new(table, narrow, vec![none()])];
        }
        table.shares.iter().map(one).collect()
    };
    Rows {
        narrow: &["SERVICE", "VIP", "BACKEND", "POD", "STATE", "SLOTS", "SHARE"],
        wide: &["NUMBERS"],
        items: tables.iter().flat_map(shares).collect(),
        ..Rows::default()
    }
}

fn numbers(table: &TableView, backend: u32) -> Vec<u32> {
    let of_backend = table.slots.iter().filter(|slot| slot.backend == backend);
    of_backend.map(|slot| slot.slot).collect()
}

/// The numbers of a backend's slots, neighbours joined: "0,3-5".
fn slot_list(table: &TableView, backend: u32) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for slot in numbers(table, backend) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            _ => ranges.push((slot, slot)),
        }
    }
    let text = |(first, last): &(u32, u32)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    or_none(&ranges.iter().map(text).collect::<Vec<_>>().join(","))
}

fn service_name(service: &ServiceView) -> String {
    if service.name.is_empty() {
        format!("<id {}>", service.id)
    } else {
        service.name.clone()
    }
}

fn counts(service: &ServiceView) -> Vec<u64> {
    vec![service.connections, service.packets, service.bytes, service.drops]
}
