//! What the maps hold, as table cells and JSON. Reading apart, pure.

use causeway_maps::{
    MapsError, PinnedMaps,
    view::{self, BackendView, DropView, FlowView, PodView, RouteView, ServiceBackendView, ServiceView},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::What;
use crate::table::or_none;

/// As many backends are shown beside a service, the rest is counted.
const SHOWN_BACKENDS: usize = 3;

/// Entries with the columns they have.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rows {
    /// Names of the columns.
    pub narrow: &'static [&'static str],
    /// Names of the further columns of `-o wide`.
    pub wide: &'static [&'static str],
    /// The entries.
    pub items: Vec<Item>,
}

/// One entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    /// Cells below the columns.
    pub narrow: Vec<String>,
    /// Cells below the further columns.
    pub wide: Vec<String>,
    /// All that is known.
    pub json: Value,
}

/// Reads what was asked for.
pub fn read(what: What, maps: &PinnedMaps) -> Result<Rows, MapsError> {
    Ok(match what {
        What::Services => services(&view::services(maps)?),
        What::Counters => counters(&view::services(maps)?),
        What::Backends => backends(&view::backends(maps), &view::services(maps)?),
        What::Routes => routes(&view::routes(maps)?),
        What::Pods => pods(&view::pods(maps)?),
        What::Conntrack => flows(&view::flows(maps)?),
        What::Drops => drops(&view::drops(maps)?),
    })
}

fn item(view: &impl Serialize, narrow: Vec<String>, wide: Vec<String>) -> Item {
    Item {
        narrow,
        wide,
        json: serde_json::to_value(view).expect("views are plain data"),
    }
}

fn service_name(service: &ServiceView) -> String {
    if service.name.is_empty() {
        format!("<id {}>", service.id)
    } else {
        service.name.clone()
    }
}

/// `SERVICES`.
pub fn services(services: &[ServiceView]) -> Rows {
    let row = |service: &ServiceView| {
        let backend = |one: &ServiceBackendView| format!("{} {}", one.backend.address, one.backend.state_text());
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
        item(
            service,
            vec![
                service_name(service),
                service.vip.clone(),
                format!("{}/{}", service.ready(), service.backends.len()),
                format!("{}{more}", or_none(&addresses.join(","))),
            ],
            vec![
                service.id.to_string(),
                service.scope.to_owned(),
                or_none(&affinity),
                service.slots.to_string(),
                or_none(&all.join(", ")),
            ],
        )
    };
    Rows {
        narrow: &["SERVICE", "VIP", "READY", "BACKENDS"],
        wide: &["ID", "SCOPE", "AFFINITY", "SLOTS", "STATES"],
        items: services.iter().map(row).collect(),
    }
}

/// `SERVICE_COUNTERS`.
pub fn counters(services: &[ServiceView]) -> Rows {
    let row = |service: &ServiceView| {
        let counts = [service.connections, service.packets, service.bytes, service.drops];
        let mut cells = vec![service_name(service), service.vip.clone()];
        cells.extend(counts.iter().map(ToString::to_string));
        let [connections, packets, bytes, drops] = counts;
        let json = json!({
            "name": service.name, "vip": service.vip, "id": service.id,
            "connections": connections, "packets": packets, "bytes": bytes, "drops": drops,
        });
        Item {
            narrow: cells,
            wide: vec![service.id.to_string()],
            json,
        }
    };
    Rows {
        narrow: &["SERVICE", "VIP", "CONNECTIONS", "PACKETS", "BYTES", "DROPS"],
        wide: &["ID"],
        items: services.iter().map(row).collect(),
    }
}

/// `BACKENDS`, with the services that point to each.
pub fn backends(backends: &[BackendView], services: &[ServiceView]) -> Rows {
    let row = |backend: &BackendView| {
        let serves = |service: &&ServiceView| service.backends.iter().any(|one| one.backend.index == backend.index);
        let names: Vec<String> = services.iter().filter(serves).map(service_name).collect();
        let mut item = item(
            backend,
            vec![
                backend.index.to_string(),
                backend.address.clone(),
                backend.state_text(),
                or_none(&names.join(",")),
            ],
            vec![backend.generation.to_string()],
        );
        if let Value::Object(fields) = &mut item.json {
            fields.insert("services".to_owned(), names.into());
        }
        item
    };
    Rows {
        narrow: &["INDEX", "ADDRESS", "STATE", "SERVICES"],
        wide: &["GENERATION"],
        items: backends.iter().map(row).collect(),
    }
}

/// `ROUTES`.
pub fn routes(routes: &[RouteView]) -> Rows {
    let row = |route: &RouteView| {
        let cells = vec![route.prefix.clone(), route.node.clone(), route.mode.to_owned()];
        item(route, cells, vec![route.tunnel_id.to_string()])
    };
    Rows {
        narrow: &["PREFIX", "VIA", "MODE"],
        wide: &["TUNNEL-ID"],
        items: routes.iter().map(row).collect(),
    }
}

/// `PODS`.
pub fn pods(pods: &[PodView]) -> Rows {
    let row = |pod: &PodView| {
        let cells = vec![pod.address.clone(), pod.ifindex.to_string(), pod.pod_mac.clone()];
        item(pod, cells, vec![pod.host_mac.clone()])
    };
    Rows {
        narrow: &["ADDRESS", "IFINDEX", "MAC"],
        wide: &["HOST-MAC"],
        items: pods.iter().map(row).collect(),
    }
}

/// `CONNTRACK` and `CONNTRACK_NEW`.
pub fn flows(flows: &[FlowView]) -> Rows {
    let row = |flow: &FlowView| {
        let gone = if flow.backend_current { "" } else { " (gone)" };
        item(
            flow,
            vec![
                flow.protocol.clone(),
                flow.source.clone(),
                flow.destination.clone(),
                flow.vip.clone(),
                format!("{}{gone}", flow.backend),
                flow.state.to_owned(),
                format!("{}s", flow.idle_seconds),
            ],
            vec![flow.direction.to_owned()],
        )
    };
    Rows {
        narrow: &["PROTOCOL", "SOURCE", "DESTINATION", "VIP", "BACKEND", "STATE", "IDLE"],
        wide: &["DIRECTION"],
        items: flows.iter().map(row).collect(),
    }
}

/// `DROPS`.
pub fn drops(drops: &[DropView]) -> Rows {
    let row = |drop: &DropView| {
        item(
            drop,
            vec![drop.reason.to_owned(), drop.packets.to_string(), drop.bytes.to_string()],
            Vec::new(),
        )
    };
    Rows {
        narrow: &["REASON", "PACKETS", "BYTES"],
        wide: &[],
        items: drops.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use causeway_maps::view::BackendState::{Local, Ready, Terminating};

    use super::*;

    fn backend(index: u32, state: &[view::BackendState]) -> BackendView {
        BackendView {
            index,
            address: format!("10.244.1.{index}:8080/TCP"),
            state: state.to_vec(),
            generation: 1,
        }
    }

    fn service() -> ServiceView {
        let backends = vec![
            backend(1, &[Ready, Local]),
            backend(2, &[Ready, Terminating]),
            backend(3, &[]),
            backend(4, &[]),
        ];
        ServiceView {
            name: "default/web:http".into(),
            vip: "10.96.0.10:80/TCP".into(),
            scope: "Cluster",
            id: 3,
            affinity_seconds: 0,
            prefer_local: false,
            slots: 251,
            backends: backends
                .into_iter()
                .map(|backend| ServiceBackendView { backend, slots: 60 })
                .collect(),
            connections: 7,
            packets: 20,
            bytes: 4_000,
            drops: 1,
        }
    }

    fn text(rows: &Rows, wide: bool) -> String {
        let mut columns = rows.narrow.to_vec();
        columns.extend(if wide { rows.wide } else { &[] });
        let mut table = crate::table::Table::new(columns);
        for item in &rows.items {
            let mut cells = item.narrow.clone();
            cells.extend(if wide { item.wide.clone() } else { Vec::new() });
            table.push(cells);
        }
        table.render(true)
    }

    #[test]
    fn services_in_words() {
        insta::assert_snapshot!(text(&services(&[service()]), false), @r"
        SERVICE            VIP                 READY   BACKENDS
        default/web:http   10.96.0.10:80/TCP   1/4     10.244.1.1:8080/TCP,10.244.1.2:8080/TCP,10.244.1.3:8080/TCP + 1 more...
        ");
        insta::assert_snapshot!(text(&services(&[service()]), true), @r"
        SERVICE            VIP                 READY   BACKENDS                                                                  ID   SCOPE     AFFINITY   SLOTS   STATES
        default/web:http   10.96.0.10:80/TCP   1/4     10.244.1.1:8080/TCP,10.244.1.2:8080/TCP,10.244.1.3:8080/TCP + 1 more...   3    Cluster   <none>     251     10.244.1.1:8080/TCP READY|LOCAL, 10.244.1.2:8080/TCP READY|TERMINATING, 10.244.1.3:8080/TCP NOT_READY, 10.244.1.4:8080/TCP NOT_READY
        ");
        insta::assert_snapshot!(text(&counters(&[service()]), false), @r"
        SERVICE            VIP                 CONNECTIONS   PACKETS   BYTES   DROPS
        default/web:http   10.96.0.10:80/TCP   7             20        4000    1
        ");
        assert_eq!(
            services(&[service()]).items[0].json["backends"][0]["state"],
            json!(["READY", "LOCAL"])
        );
    }

    #[test]
    fn backends_in_words_with_their_services() {
        let all: Vec<BackendView> = service()
            .backends
            .into_iter()
            .map(|one| one.backend)
            .chain([backend(9, &[Ready])])
            .collect();
        let rows = backends(&all, &[service()]);
        insta::assert_snapshot!(text(&rows, true), @r"
        INDEX   ADDRESS               STATE               SERVICES           GENERATION
        1       10.244.1.1:8080/TCP   READY|LOCAL         default/web:http   1
        2       10.244.1.2:8080/TCP   READY|TERMINATING   default/web:http   1
        3       10.244.1.3:8080/TCP   NOT_READY           default/web:http   1
        4       10.244.1.4:8080/TCP   NOT_READY           default/web:http   1
        9       10.244.1.9:8080/TCP   READY               <none>             1
        ");
        assert_eq!(rows.items[0].json["services"], json!(["default/web:http"]));
    }

    #[test]
    fn routes_pods_and_flows_in_words() {
        let route = RouteView {
            prefix: "10.244.2.0/24".into(),
            node: "172.30.0.12".into(),
            tunnel_id: 1,
            mode: "VXLAN",
        };
        insta::assert_snapshot!(text(&routes(&[route]), true), @r"
        PREFIX          VIA           MODE    TUNNEL-ID
        10.244.2.0/24   172.30.0.12   VXLAN   1
        ");
        let pod = PodView {
            address: "10.244.1.2".into(),
            ifindex: 7,
            pod_mac: "02:00:00:00:00:01".into(),
            host_mac: "02:00:00:00:00:02".into(),
        };
        insta::assert_snapshot!(text(&pods(&[pod]), true), @r"
        ADDRESS      IFINDEX   MAC                 HOST-MAC
        10.244.1.2   7         02:00:00:00:00:01   02:00:00:00:00:02
        ");
        let flow = FlowView {
            protocol: "TCP".into(),
            direction: "Forward",
            source: "10.244.1.2:40000".into(),
            destination: "10.96.0.10:80".into(),
            vip: "10.96.0.10:80".into(),
            backend: "10.244.2.3:8080".into(),
            backend_current: false,
            state: "Established",
            idle_seconds: 4,
        };
        insta::assert_snapshot!(text(&flows(&[flow]), true), @r"
        PROTOCOL   SOURCE             DESTINATION     VIP             BACKEND                  STATE         IDLE   DIRECTION
        TCP        10.244.1.2:40000   10.96.0.10:80   10.96.0.10:80   10.244.2.3:8080 (gone)   Established   4s     Forward
        ");
    }
}
