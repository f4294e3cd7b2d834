//! What was read, as table cells and JSON. Pure.

use std::time::Duration;

use causeway_maps::{
    advice_by_name,
    view::{
        AffinityView, AttachmentView, BackendEntry, DropView, FlowView, MapView, NodeView, PodView, ProgramView,
        Reading, RouteView, ServiceBackendView, ServiceView, SocketView, TableView,
    },
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{names::Names, table::or_none};

/// As many backends are shown beside a service, the rest is counted.
const SHOWN_BACKENDS: usize = 3;

/// Entries with the columns they have.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rows {
    /// Names of the columns.
    narrow: &'static [&'static str],
    /// Names of the further columns of `-o wide`.
    wide: &'static [&'static str],
    /// Columns and JSON fields of rates, one for each of an entry's counts; those without a column are in JSON alone.
    rates: &'static [(&'static str, &'static str)],
    rated: bool,
    /// The entries.
    pub items: Vec<Item>,
}

/// One entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    narrow: Vec<String>,
    wide: Vec<String>,
    key: String,
    counts: Vec<u64>,
    rates: Vec<String>,
    /// All that is known.
    pub json: Value,
}

impl Rows {
    /// The columns.
    pub fn headers(&self, wide: bool) -> impl Iterator<Item = &'static str> {
        let rates = if self.rated { self.rates } else { &[] };
        let wide = if wide { self.wide } else { &[] };
        let named = rates
            .iter()
            .map(|(header, _)| *header)
            .filter(|header| !header.is_empty());
        self.narrow.iter().copied().chain(named).chain(wide.iter().copied())
    }

    /// The same with what was counted since `before`, per second.
    pub fn with_rates(mut self, before: &Self, time: Duration) -> Self {
        self.rated = true;
        for item in &mut self.items {
            let earlier = before.items.iter().find(|other| other.key == item.key);
            for (at, (header, field)) in self.rates.iter().enumerate() {
                let now = item.counts[at];
                let then = earlier.map_or(now, |earlier| earlier.counts[at]);
                let rate = per_second(now.saturating_sub(then), time);
                if !header.is_empty() {
                    item.rates.push(rate_text(rate));
                }
                if let Value::Object(fields) = &mut item.json {
                    fields.insert((*field).to_owned(), json!(rate));
                }
            }
        }
        self
    }
}

impl Item {
    /// Its cells below the columns.
    pub fn cells(&self, wide: bool) -> impl Iterator<Item = String> {
        let wide = if wide { self.wide.clone() } else { Vec::new() };
        self.narrow.clone().into_iter().chain(self.rates.clone()).chain(wide)
    }

    fn new(view: &impl Serialize, narrow: Vec<String>, wide: Vec<String>) -> Self {
        Self {
            narrow,
            wide,
            key: String::new(),
            counts: Vec::new(),
            rates: Vec::new(),
            json: serde_json::to_value(view).expect("views are plain data"),
        }
    }

    fn counting(self, key: String, counts: Vec<u64>) -> Self {
        Self { key, counts, ..self }
    }

    fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        if let Value::Object(fields) = &mut self.json {
            fields.insert(field.to_owned(), value.into());
        }
        self
    }
}

/// Counted in so much time, per second, to one decimal.
pub fn per_second(count: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown to three digits")]
    let rate = count as f64 / time.as_secs_f64().max(0.001);
    (rate * 10.0).round() / 10.0
}

/// "0", "2.5", "1234", "1.2M".
pub fn rate_text(rate: f64) -> String {
    if rate >= 1_000_000.0 {
        format!("{:.1}M", rate / 1_000_000.0)
    } else if rate >= 100.0 || rate.fract() == 0.0 {
        format!("{rate:.0}")
    } else {
        format!("{rate:.1}")
    }
}

/// "512 B", "5.0 MiB".
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "sizes are shown to one decimal")]
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

/// Rows of what was read; services as their counters alone where these are wanted.
pub fn rows(counters_only: bool, reading: &Reading, names: &Names) -> Rows {
    match reading {
        Reading::Services(all) if counters_only => counters(all),
        Reading::Services(all) => services(all, names),
        Reading::Backends(all) => backends(all, names),
        Reading::Slots(all) => slots(all, names),
        Reading::Conntrack(all) => flows(all, names),
        Reading::Sockets(all) => sockets(all, names),
        Reading::Affinity(all) => affinity(all, names),
        Reading::Pods(all) => pods(all, names),
        Reading::Routes(all) => routes(all, names),
        Reading::Drops(all) => drops(all),
        Reading::Node(node) => the_node(node),
        Reading::Programs(all) => programs(all),
        Reading::Maps(all) => maps(all),
    }
}

fn service_name(service: &ServiceView) -> String {
    if service.name.is_empty() {
        format!("<id {}>", service.id)
    } else {
        service.name.clone()
    }
}

const SERVICE_RATES: &[(&str, &str)] = &[
    ("CONN/S", "connectionsPerSecond"),
    ("PACKETS/S", "packetsPerSecond"),
    ("BYTES/S", "bytesPerSecond"),
    ("DROPS/S", "dropsPerSecond"),
];

fn counts(service: &ServiceView) -> Vec<u64> {
    vec![service.connections, service.packets, service.bytes, service.drops]
}

fn services(services: &[ServiceView], names: &Names) -> Rows {
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

fn counters(services: &[ServiceView]) -> Rows {
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

fn backends(backends: &[BackendEntry], names: &Names) -> Rows {
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
fn slots(tables: &[TableView], names: &Names) -> Rows {
    let shares = |table: &TableView| -> Vec<Item> {
        let one = |share: &causeway_maps::view::ShareView| {
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

fn routes(routes: &[RouteView], names: &Names) -> Rows {
    let row = |route: &RouteView| {
        let peer = names.node(&route.node);
        let narrow = vec![
            route.prefix.clone(),
            route.node.clone(),
            or_none(peer),
            route.mode.clone(),
        ];
        Item::new(route, narrow, vec![route.tunnel_id.to_string()]).with("peer", peer)
    };
    Rows {
        narrow: &["PREFIX", "VIA", "PEER", "MODE"],
        wide: &["TUNNEL-ID"],
        items: routes.iter().map(row).collect(),
        ..Rows::default()
    }
}

fn pods(pods: &[PodView], names: &Names) -> Rows {
    let row = |pod: &PodView| {
        let name = names.pod(&pod.address);
        let narrow = vec![
            pod.address.clone(),
            or_none(name),
            pod.ifindex.to_string(),
            pod.pod_mac.clone(),
        ];
        Item::new(pod, narrow, vec![pod.host_mac.clone()]).with("pod", name)
    };
    Rows {
        narrow: &["ADDRESS", "POD", "IFINDEX", "MAC"],
        wide: &["HOST-MAC"],
        items: pods.iter().map(row).collect(),
        ..Rows::default()
    }
}

fn flows(flows: &[FlowView], names: &Names) -> Rows {
    let row = |flow: &FlowView| {
        let gone = if flow.backend_current { "" } else { " (gone)" };
        let client = if flow.direction == "Reply" {
            &flow.destination
        } else {
            &flow.source
        };
        let narrow = vec![
            flow.protocol.clone(),
            flow.source.clone(),
            flow.destination.clone(),
            flow.vip.clone(),
            format!("{}{gone}", flow.backend),
            flow.state.clone(),
            format!("{}s", flow.idle_seconds),
        ];
        let wide = vec![
            flow.direction.clone(),
            or_none(&flow.service),
            or_none(names.pod(client)),
            or_none(names.pod(&flow.backend)),
        ];
        Item::new(flow, narrow, wide)
            .with("clientPod", names.pod(client))
            .with("backendPod", names.pod(&flow.backend))
    };
    Rows {
        narrow: &["PROTOCOL", "SOURCE", "DESTINATION", "VIP", "BACKEND", "STATE", "IDLE"],
        wide: &["DIRECTION", "SERVICE", "CLIENT-POD", "BACKEND-POD"],
        items: flows.iter().map(row).collect(),
        ..Rows::default()
    }
}

fn sockets(sockets: &[SocketView], names: &Names) -> Rows {
    let row = |socket: &SocketView| {
        let kind = if socket.connected { "connected" } else { "datagrams" };
        let gone = if socket.backend_current { "" } else { " (gone)" };
        let narrow = vec![
            format!("sk:{}", socket.cookie),
            kind.to_owned(),
            or_none(&socket.service),
            socket.vip.clone(),
            format!("{}{gone}", or_none(&socket.backend)),
            or_none(names.pod(&socket.backend)),
        ];
        Item::new(socket, narrow, Vec::new()).with("backendPod", names.pod(&socket.backend))
    };
    Rows {
        narrow: &["SOCKET", "KIND", "SERVICE", "VIP", "BACKEND", "BACKEND-POD"],
        items: sockets.iter().map(row).collect(),
        ..Rows::default()
    }
}

fn affinity(clients: &[AffinityView], names: &Names) -> Rows {
    let row = |client: &AffinityView| {
        let gone = if client.backend_current { "" } else { " (gone)" };
        let narrow = vec![
            client.client.clone(),
            or_none(names.pod(&client.client)),
            or_none(&client.service),
            format!("{}{gone}", client.backend),
            or_none(names.pod(&client.backend)),
            format!("{}s", client.idle_seconds),
        ];
        Item::new(client, narrow, Vec::new())
            .with("clientPod", names.pod(&client.client))
            .with("backendPod", names.pod(&client.backend))
    };
    Rows {
        narrow: &["CLIENT", "CLIENT-POD", "SERVICE", "BACKEND", "BACKEND-POD", "IDLE"],
        items: clients.iter().map(row).collect(),
        ..Rows::default()
    }
}

fn drops(drops: &[DropView]) -> Rows {
    let row = |drop: &DropView| {
        let advice = advice_by_name(&drop.reason);
        let (meaning, remedy) = advice.map_or(("", ""), |advice| (advice.meaning, advice.remedy));
        let narrow = vec![drop.reason.clone(), drop.packets.to_string(), drop.bytes.to_string()];
        Item::new(drop, narrow, vec![or_none(meaning), or_none(remedy)])
            .counting(drop.reason.clone(), vec![drop.packets, drop.bytes])
            .with("meaning", meaning)
            .with("remedy", remedy)
    };
    Rows {
        narrow: &["REASON", "PACKETS", "BYTES"],
        wide: &["MEANING", "REMEDY"],
        rates: &[("PACKETS/S", "packetsPerSecond"), ("", "bytesPerSecond")],
        items: drops.iter().map(row).collect(),
        ..Rows::default()
    }
}

/// Addresses of both families, as far as there are any.
fn both(ipv4: &str, ipv6: &str) -> String {
    let known: Vec<&str> = [ipv4, ipv6].into_iter().filter(|text| !text.is_empty()).collect();
    known.join(",")
}

fn the_node(node: &NodeView) -> Rows {
    let narrow = vec![
        both(&node.address, &node.address6),
        both(&node.router_address, &node.router_address6),
        node.uplink_ifindex.to_string(),
        node.tunnel_ifindex.to_string(),
        node.abi_version.to_string(),
    ];
    Rows {
        narrow: &["ADDRESS", "ROUTER-ADDRESS", "UPLINK-IFINDEX", "TUNNEL-IFINDEX", "ABI"],
        items: vec![Item::new(node, narrow, Vec::new())],
        ..Rows::default()
    }
}

fn programs(programs: &[ProgramView]) -> Rows {
    let row = |program: &ProgramView| {
        let all: Vec<String> = program.attached.iter().map(AttachmentView::text).collect();
        let number = |value: Option<u64>| value.map_or_else(|| or_none(""), |value| value.to_string());
        let narrow = vec![
            program.name.clone(),
            program.id.to_string(),
            attachments(program),
            number(program.runs),
            program.average_ns.map_or_else(|| or_none(""), |ns| format!("{ns} ns")),
            number(program.verified_instructions.map(u64::from)),
            bytes_text(program.jitted_bytes.into()),
        ];
        let wide = vec![bytes_text(program.memory_bytes.into()), or_none(&all.join(", "))];
        Item::new(program, narrow, wide)
    };
    Rows {
        narrow: &["PROGRAM", "ID", "ATTACHED", "RUNS", "AVERAGE", "VERIFIED", "JITTED"],
        wide: &["MEMORY", "PLACES"],
        items: programs.iter().map(row).collect(),
        ..Rows::default()
    }
}

/// "connect4 of causeway/dev/node-1", "tcx-ingress of 3 interfaces".
fn attachments(program: &ProgramView) -> String {
    match &program.attached[..] {
        [] => or_none(""),
        [one] => one.text(),
        [first, ..] => format!("{} of {} interfaces", first.hook, program.attached.len()),
    }
}

fn maps(maps: &[MapView]) -> Rows {
    let row = |map: &MapView| {
        let percent = map
            .percent()
            .map_or_else(|| or_none(""), |percent| format!("{percent:.1}%"));
        let narrow = vec![
            map.name.clone(),
            map.map_type.clone(),
            map.entries.map_or_else(|| or_none(""), |entries| entries.to_string()),
            map.max_entries.to_string(),
            percent,
            bytes_text(map.memory_bytes),
            or_none(&map.flags.join("|")),
        ];
        let wide = vec![
            map.id.to_string(),
            map.key_bytes.to_string(),
            map.value_bytes.to_string(),
        ];
        Item::new(map, narrow, wide)
    };
    Rows {
        narrow: &["MAP", "TYPE", "ENTRIES", "MAX", "USE", "MEMORY", "FLAGS"],
        wide: &["ID", "KEY-BYTES", "VALUE-BYTES"],
        items: maps.iter().map(row).collect(),
        ..Rows::default()
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
