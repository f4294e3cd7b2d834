//! The maps and programs of a node as those see them who look inside.

use std::{
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use causeway_maps::view::{self, Filter, ProgramView, Reading, Request, SocketView, What};
use causeway_tests::netns::{Lab, Node, ask, option, tcp_service};

const PORT: u16 = 8080;

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

fn read(node: &Node, what: What, filter: Filter) -> Reading {
    let request = Request {
        what,
        filter,
        sample: None,
    };
    view::read(&node.pin_dir, &request).expect("a reading")
}

fn service_filter(service: &str) -> Filter {
    Filter {
        service: Some(service.into()),
        ..Filter::default()
    }
}

#[test]
fn tables_are_shared_out_and_given_slot_by_slot_where_asked_for() {
    let mut lab = Lab::single();
    let (a, b) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    lab.serve(&[tcp_service(vip(), PORT, &[&a, &b])]);
    let Reading::Slots(all) = read(&lab.nodes[0], What::Slots, Filter::default()) else {
        panic!("tables were asked for");
    };
    let [table] = &all[..] else { panic!("{all:?}") };
    assert!(table.slots.is_empty());
    assert_eq!(table.shares.iter().map(|share| share.slots).sum::<u32>(), table.count);
    assert!(
        table.shares.iter().all(|share| (45.0..55.0).contains(&share.percent)),
        "{:?}",
        table.shares
    );
    let Reading::Slots(named) = read(&lab.nodes[0], What::Slots, service_filter("default/test")) else {
        panic!("tables were asked for");
    };
    assert_eq!(named[0].slots.len(), named[0].count as usize);
    let Reading::Slots(other) = read(&lab.nodes[0], What::Slots, service_filter("default/tes")) else {
        panic!("tables were asked for");
    };
    assert_eq!(other, []);
}

#[test]
fn maps_tell_their_use_and_memory() {
    let mut lab = Lab::single();
    let pod = lab.nodes[0].add_pod(2);
    lab.serve(&[tcp_service(vip(), PORT, &[&pod])]);
    let Reading::Maps(maps) = read(&lab.nodes[0], What::Maps, Filter::default()) else {
        panic!("maps were asked for");
    };
    let map = |name: &str| maps.iter().find(|map| map.name == name).expect(name);
    assert_eq!((map("SERVICES").entries, &*map("SERVICES").map_type), (Some(1), "hash"));
    assert_eq!((map("PODS").entries, map("BACKENDS").entries), (Some(1), Some(1)));
    assert!(map("BACKENDS").flags.contains(&"MMAPABLE".to_owned()));
    assert!(map("SLOTS").memory_bytes >= u64::from(map("SLOTS").max_entries) * 8);
    assert_eq!(map("EVENTS").map_type, "ringbuf");
}

#[test]
fn a_balanced_socket_is_listed_with_its_backend_until_it_is_closed() {
    let mut lab = Lab::single();
    let (client, server) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    let _listening = server.serve_tcp(PORT, "a");
    lab.serve(&[tcp_service(vip(), PORT, &[&server])]);
    let sockets = || match read(&lab.nodes[0], What::Sockets, service_filter("default/test")) {
        Reading::Sockets(sockets) => sockets,
        other => panic!("sockets were asked for: {other:?}"),
    };
    let open = [(); 2].map(|()| client.connect(vip()).expect("a connection"));
    let mut expected = open.each_ref().map(cookie);
    expected.sort_unstable();
    let listed = sockets();
    let cookies: Vec<_> = listed.iter().map(|one| one.cookie.clone()).collect();
    assert_eq!(cookies, expected);
    assert_eq!(
        listed[0],
        SocketView {
            cookie: expected[0].clone(),
            connected: true,
            service: "default/test:80".into(),
            vip: "10.96.0.10:80/TCP".into(),
            backend: format!("{}:{PORT}/TCP", server.address),
            backend_current: true,
        }
    );
    drop(open);
    assert_eq!(sockets(), []);
}

/// A socket's cookie as the maps show it.
fn cookie(socket: &TcpStream) -> String {
    format!("{:x}", option::<u64>(socket, libc::SOL_SOCKET, libc::SO_COOKIE))
}

#[test]
fn programs_tell_where_they_are_attached_and_how_often_they_run() {
    let mut lab = Lab::single();
    let (client, server) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    let _listening = server.serve_tcp(PORT, "a");
    lab.serve(&[tcp_service(vip(), PORT, &[&server])]);
    let maps = lab.nodes[0].maps();
    let find =
        |programs: &[ProgramView], name: &str| programs.iter().find(|one| one.name == name).cloned().expect(name);
    let programs = view::programs(&maps, None).expect("the programs");
    let connect = find(&programs, "cw_connect4");
    assert_eq!(connect.attached.len(), 1, "{connect:?}");
    assert_eq!(connect.attached[0].hook, "connect4");
    assert!(
        connect.attached[0]
            .cgroup
            .as_ref()
            .is_some_and(|path| path.contains("causeway-test")),
        "{connect:?}"
    );
    assert!(connect.verified_instructions.is_some_and(|count| count > 0) && connect.jitted_bytes > 0);
    let from_pod = find(&programs, "cw_from_pod");
    let mut links: Vec<_> = from_pod.attached.iter().filter_map(|place| place.ifindex).collect();
    links.sort_unstable();
    let mut expected = [client.link.ifindex, server.link.ifindex];
    expected.sort_unstable();
    assert_eq!(links, expected);

    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                drop(ask(&client.connect(vip()).expect("a connection")));
            }
        });
        let begun = Instant::now();
        let ran = loop {
            let programs = view::programs(&maps, Some(Duration::from_millis(100)));
            let connect = find(&programs.expect("the programs"), "cw_connect4");
            if connect.runs.is_some_and(|runs| runs > 0) || begun.elapsed() > Duration::from_mins(1) {
                break connect;
            }
        };
        over.store(true, Ordering::Relaxed);
        assert!(
            ran.runs.is_some_and(|runs| runs > 0) && ran.average_ns.is_some(),
            "{ran:?}"
        );
    });
}
