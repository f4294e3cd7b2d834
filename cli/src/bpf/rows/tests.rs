use causeway_maps::view::{
    AffinityView, AttachmentView, BackendEntry,
    BackendState::{self, Local, Ready, Terminating},
    BackendView, DropView, FlowView, MapView, PodView, ProgramView, RouteView, ServiceBackendView, ServiceView,
    ShareView, SlotView, SocketView, TableView,
};

use super::{flows::*, kernel::*, network::*, services::*, units::bytes_text, *};

fn names() -> Names {
    let mut names = Names::default();
    names.pods.insert("10.244.1.1".into(), "default/web-1".into());
    names.pods.insert("10.244.1.2".into(), "default/client".into());
    names.nodes.insert("172.30.0.12".into(), "node-2".into());
    names
}

fn backend(index: u32, state: &[BackendState]) -> BackendView {
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
        scope: "Cluster".into(),
        id: 3,
        affinity_seconds: 0,
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
    let mut table = crate::table::Table::new(rows.headers(wide));
    for item in &rows.items {
        table.push(item.cells(wide).collect());
    }
    table.render(true)
}

#[test]
fn services_in_words() {
    insta::assert_snapshot!(text(&services(&[service()], &names()), false), @r"
    SERVICE            VIP                 READY   BACKENDS
    default/web:http   10.96.0.10:80/TCP   1/4     10.244.1.1:8080/TCP,10.244.1.2:8080/TCP,10.244.1.3:8080/TCP + 1 more...
    ");
    insta::assert_snapshot!(text(&services(&[service()], &names()), true), @r"
    SERVICE            VIP                 READY   BACKENDS                                                                  ID   SCOPE     AFFINITY   SLOTS   STATES
    default/web:http   10.96.0.10:80/TCP   1/4     10.244.1.1:8080/TCP,10.244.1.2:8080/TCP,10.244.1.3:8080/TCP + 1 more...   3    Cluster   <none>     251     10.244.1.1:8080/TCP (default/web-1) READY|LOCAL, 10.244.1.2:8080/TCP (default/client) READY|TERMINATING, 10.244.1.3:8080/TCP NOT_READY, 10.244.1.4:8080/TCP NOT_READY
    ");
    insta::assert_snapshot!(text(&counters(&[service()]), false), @r"
    SERVICE            VIP                 CONNECTIONS   PACKETS   BYTES   DROPS
    default/web:http   10.96.0.10:80/TCP   7             20        4000    1
    ");
    assert_eq!(
        services(&[service()], &names()).items[0].json["backends"][0]["state"],
        json!(["READY", "LOCAL"])
    );
}

#[test]
fn rates_are_differences_per_second() {
    let later = ServiceView {
        connections: 27,
        bytes: 3_004_000,
        ..service()
    };
    let rows = counters(&[later]).with_rates(&counters(&[service()]), Duration::from_secs(2));
    insta::assert_snapshot!(text(&rows, false), @r"
    SERVICE            VIP                 CONNECTIONS   PACKETS   BYTES     DROPS   CONN/S   PACKETS/S   BYTES/S   DROPS/S
    default/web:http   10.96.0.10:80/TCP   27            20        3004000   1       10       0           1.5M      0
    ");
    assert_eq!(rows.items[0].json["connectionsPerSecond"], json!(10.0));
}

#[test]
fn backends_in_words_with_their_pods_and_services() {
    let all: Vec<BackendEntry> = service()
        .backends
        .into_iter()
        .map(|one| BackendEntry {
            backend: one.backend,
            services: vec!["default/web:http".into()],
        })
        .collect();
    let rows = backends(&all, &names());
    insta::assert_snapshot!(text(&rows, true), @r"
    INDEX   ADDRESS               POD              STATE               SERVICES           GENERATION
    1       10.244.1.1:8080/TCP   default/web-1    READY|LOCAL         default/web:http   1
    2       10.244.1.2:8080/TCP   default/client   READY|TERMINATING   default/web:http   1
    3       10.244.1.3:8080/TCP   <none>           NOT_READY           default/web:http   1
    4       10.244.1.4:8080/TCP   <none>           NOT_READY           default/web:http   1
    ");
    assert_eq!(rows.items[0].json["services"], json!(["default/web:http"]));
    assert_eq!(rows.items[0].json["pod"], json!("default/web-1"));
}

#[test]
fn tables_show_shares_and_slots() {
    let share = |index, slots, percent| ShareView {
        backend: backend(index, &[Ready]),
        slots,
        percent,
    };
    let slot = |slot, backend| SlotView {
        slot,
        backend,
        address: String::new(),
        previous: None,
    };
    let table = TableView {
        service: "default/web:http".into(),
        vip: "10.96.0.10:80/TCP".into(),
        base: 100,
        count: 5,
        shares: vec![share(1, 3, 60.0), share(2, 2, 40.0)],
        slots: vec![slot(0, 1), slot(1, 2), slot(2, 2), slot(3, 1), slot(4, 1)],
    };
    let empty = TableView {
        service: "default/empty:80".into(),
        shares: Vec::new(),
        slots: Vec::new(),
        count: 0,
        ..table.clone()
    };
    insta::assert_snapshot!(text(&slots(&[table, empty], &names()), true), @r"
    SERVICE            VIP                 BACKEND               POD              STATE    SLOTS   SHARE    NUMBERS
    default/web:http   10.96.0.10:80/TCP   10.244.1.1:8080/TCP   default/web-1    READY    3/5     60.0%    0,3-4
    default/web:http   10.96.0.10:80/TCP   10.244.1.2:8080/TCP   default/client   READY    2/5     40.0%    1-2
    default/empty:80   10.96.0.10:80/TCP   <none>                <none>           <none>   0/0     <none>   <none>
    ");
}

#[test]
fn routes_pods_flows_and_clients_in_words() {
    let route = RouteView {
        prefix: "10.244.2.0/24".into(),
        node: "172.30.0.12".into(),
        tunnel_id: 1,
        mode: "VXLAN".into(),
    };
    insta::assert_snapshot!(text(&routes(&[route], &names()), true), @r"
    PREFIX          VIA           PEER     MODE    TUNNEL-ID
    10.244.2.0/24   172.30.0.12   node-2   VXLAN   1
    ");
    let pod = PodView {
        address: "10.244.1.2".into(),
        ifindex: 7,
        pod_mac: "02:00:00:00:00:01".into(),
        host_mac: "02:00:00:00:00:02".into(),
    };
    insta::assert_snapshot!(text(&pods(&[pod], &names()), true), @r"
    ADDRESS      POD              IFINDEX   MAC                 HOST-MAC
    10.244.1.2   default/client   7         02:00:00:00:00:01   02:00:00:00:00:02
    ");
    let flow = FlowView {
        protocol: "TCP".into(),
        direction: "Forward".into(),
        source: "10.244.1.2:40000".into(),
        destination: "10.96.0.10:80".into(),
        vip: "10.96.0.10:80".into(),
        backend: "10.244.2.3:8080".into(),
        backend_current: false,
        state: "Established".into(),
        idle_seconds: 4,
        service: "default/web:http".into(),
    };
    insta::assert_snapshot!(text(&flows(&[flow], &names()), true), @r"
    PROTOCOL   SOURCE             DESTINATION     VIP             BACKEND                  STATE         IDLE   DIRECTION   SERVICE            CLIENT-POD       BACKEND-POD
    TCP        10.244.1.2:40000   10.96.0.10:80   10.96.0.10:80   10.244.2.3:8080 (gone)   Established   4s     Forward     default/web:http   default/client   <none>
    ");
    let socket = SocketView {
        cookie: "4001".into(),
        connected: true,
        service: "default/web:http".into(),
        vip: "10.96.0.10:80/TCP".into(),
        backend: "10.244.1.1:8080/TCP".into(),
        backend_current: true,
    };
    let gone = SocketView {
        connected: false,
        backend: String::new(),
        backend_current: false,
        ..socket.clone()
    };
    insta::assert_snapshot!(text(&sockets(&[socket, gone], &names()), false), @r"
    SOCKET    KIND        SERVICE            VIP                 BACKEND               BACKEND-POD
    sk:4001   connected   default/web:http   10.96.0.10:80/TCP   10.244.1.1:8080/TCP   default/web-1
    sk:4001   datagrams   default/web:http   10.96.0.10:80/TCP   <none> (gone)         <none>
    ");
    let client = AffinityView {
        client: "10.244.1.2".into(),
        service: "default/web:http".into(),
        backend: "10.244.1.1:8080/TCP".into(),
        backend_current: true,
        idle_seconds: 30,
    };
    insta::assert_snapshot!(text(&affinity(&[client], &names()), false), @r"
    CLIENT       CLIENT-POD       SERVICE            BACKEND               BACKEND-POD     IDLE
    10.244.1.2   default/client   default/web:http   10.244.1.1:8080/TCP   default/web-1   30s
    ");
}

#[test]
fn drops_come_with_advice() {
    let drop = DropView {
        reason: "NO_READY_BACKEND".into(),
        packets: 3,
        bytes: 180,
    };
    let rows = drops(&[drop]);
    insta::assert_snapshot!(text(&rows, false), @r"
    REASON             PACKETS   BYTES
    NO_READY_BACKEND   3         180
    ");
    assert!(rows.items[0].json["remedy"].as_str().unwrap().contains("get endpoints"));
}

#[test]
fn programs_and_maps_in_words() {
    let place = |ifindex| AttachmentView {
        hook: "tcx-ingress".into(),
        cgroup: None,
        ifindex: Some(ifindex),
    };
    let program = ProgramView {
        name: "cw_from_pod".into(),
        id: 77,
        attached: vec![place(4), place(5)],
        runs: Some(1_000),
        average_ns: Some(240),
        verified_instructions: Some(8_123),
        jitted_bytes: 6_100,
        memory_bytes: 12_288,
    };
    insta::assert_snapshot!(text(&programs(&[program]), true), @r"
    PROGRAM       ID   ATTACHED                      RUNS   AVERAGE   VERIFIED   JITTED    MEMORY     PLACES
    cw_from_pod   77   tcx-ingress of 2 interfaces   1000   240 ns    8123       6.0 KiB   12.0 KiB   tcx-ingress of interface 4, tcx-ingress of interface 5
    ");
    let map = |name: &str, entries, max_entries| MapView {
        name: name.into(),
        id: 9,
        map_type: "hash".into(),
        key_bytes: 20,
        value_bytes: 20,
        entries,
        max_entries,
        memory_bytes: 5_246_976,
        flags: Vec::new(),
    };
    insta::assert_snapshot!(text(&maps(&[map("SERVICES", Some(12), 65_536), map("NODE", None, 1)]), true), @r"
    MAP        TYPE   ENTRIES   MAX     USE      MEMORY    FLAGS    ID   KEY-BYTES   VALUE-BYTES
    SERVICES   hash   12        65536   0.0%     5.0 MiB   <none>   9    20          20
    NODE       hash   <none>    1       <none>   5.0 MiB   <none>   9    20          20
    ");
}

#[test]
fn numbers_are_short() {
    assert_eq!(bytes_text(512), "512 B");
    assert_eq!(bytes_text(5 << 20), "5.0 MiB");
    assert_eq!(rate_text(0.0), "0");
    assert_eq!(rate_text(2.5), "2.5");
    assert_eq!(rate_text(123.4), "123");
    assert_eq!(rate_text(12_345_678.0), "12.3M");
}
