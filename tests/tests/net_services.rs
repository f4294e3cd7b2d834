//! Services as pods and nodes meet them: real sockets, real programs, several nodes on one kernel.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
};

use causeway_abi::DropReason;
use causeway_agent::bpf::{DesiredService, TcAttachment};
use causeway_tests::netns::{Lab, Node, Pod, Settings, TcpServer, ask, connect, tcp_service, udp_service};

const PORT: u16 = 8080;

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

/// Names of those who answered, with how often.
type Tally = BTreeMap<String, usize>;

/// Connects so often, each time to be answered.
fn tally(times: usize, connect: impl Fn() -> io::Result<TcpStream>) -> Tally {
    let mut tally = Tally::new();
    for _ in 0..times {
        let stream = connect().expect("a connection");
        *tally.entry(ask(&stream).expect("an answer")).or_default() += 1;
    }
    tally
}

fn names(tally: &Tally) -> Vec<&str> {
    tally.keys().map(String::as_str).collect()
}

/// Two servers on a node, and a client.
struct Trio {
    client: Pod,
    servers: [Pod; 2],
    #[expect(dead_code, reason = "listens until it is dropped")]
    listening: [TcpServer; 2],
}

fn trio(node: &mut Node) -> Trio {
    let (client, a, b) = (node.add_pod(2), node.add_pod(3), node.add_pod(4));
    let listening = [a.serve_tcp(PORT, "a"), b.serve_tcp(PORT, "b")];
    Trio {
        client,
        servers: [a, b],
        listening,
    }
}

impl Trio {
    fn service(&self) -> DesiredService {
        tcp_service(vip(), PORT, &[&self.servers[0], &self.servers[1]])
    }
}

#[test]
fn a_vip_is_balanced_at_connect_and_shows_itself_as_the_peer() {
    let mut lab = Lab::single();
    let trio = trio(&mut lab.nodes[0]);
    lab.serve(&[trio.service()]);
    let tally = tally(40, || {
        let stream = trio.client.connect(vip())?;
        assert_eq!(stream.peer_addr()?, vip());
        Ok(stream)
    });
    assert_eq!(names(&tally), ["a", "b"], "{tally:?}");
    // Nothing was translated packet by packet.
    assert_eq!(causeway_maps::view::flows(&lab.nodes[0].maps()).unwrap(), []);
}

#[test]
fn a_v4_mapped_socket_is_balanced_too() {
    let mut lab = Lab::single();
    let trio = trio(&mut lab.nodes[0]);
    lab.serve(&[trio.service()]);
    let mapped: SocketAddr = "[::ffff:10.96.0.10]:80".parse().unwrap();
    let stream = connect(trio.client.socket(libc::AF_INET6, libc::SOCK_STREAM), mapped).expect("a connection");
    assert_eq!(stream.peer_addr().unwrap(), mapped);
    assert!(["a", "b"].contains(&ask(&stream).unwrap().as_str()));
}

#[test]
fn a_vip_is_balanced_packet_by_packet_for_who_has_no_socket_hook() {
    let mut lab = Lab::single();
    let trio = trio(&mut lab.nodes[0]);
    lab.serve(&[trio.service()]);
    let tally = tally(40, || trio.client.connect_unhooked(vip()));
    assert_eq!(names(&tally), ["a", "b"], "{tally:?}");
    let flows = causeway_maps::view::flows(&lab.nodes[0].maps()).unwrap();
    assert!(
        flows
            .iter()
            .any(|flow| flow.vip == "10.96.0.10:80" && flow.backend_current),
        "{flows:?}"
    );
}

#[test]
fn backends_of_another_node_are_reached_through_the_tunnel() {
    let mut lab = Lab::pair();
    let client = lab.nodes[0].add_pod(2);
    let (near, far) = (lab.nodes[0].add_pod(3), lab.nodes[1].add_pod(3));
    let _listening = [near.serve_tcp(PORT, "near"), far.serve_tcp(PORT, "far")];
    lab.serve(&[tcp_service(vip(), PORT, &[&near, &far])]);
    assert_eq!(names(&tally(40, || client.connect(vip()))), ["far", "near"]);
    assert_eq!(names(&tally(40, || client.connect_unhooked(vip()))), ["far", "near"]);
}

/// Sends so much and reads it back, so that segments are full, offloaded and in flight both ways.
fn echo(stream: &TcpStream, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
    let (mut writer, mut reader) = (stream, stream);
    let mut got = vec![0; bytes];
    std::thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&sent).expect("sending"));
        reader.read_exact(&mut got).expect("receiving");
    });
    assert!(got == sent, "what came back differs");
}

#[test]
fn large_transfers_survive_tunnel_and_translation() {
    let mut lab = Lab::pair();
    let (client, server) = (lab.nodes[0].add_pod(2), lab.nodes[1].add_pod(2));
    let _listening = server.serve_tcp(PORT, "far");
    lab.serve(&[tcp_service(vip(), PORT, &[&server])]);
    for stream in [
        client.connect(vip()),
        client.connect_unhooked(vip()),
        client.connect(server.at(PORT)),
    ] {
        let stream = stream.expect("a connection");
        assert_eq!(ask(&stream).unwrap(), "far");
        echo(&stream, 3_000_000);
    }
}

#[test]
fn a_pod_that_turns_unready_gets_no_new_connection_from_that_moment() {
    let mut lab = Lab::single();
    let trio = trio(&mut lab.nodes[0]);
    let node = &lab.nodes[0];
    lab.serve(&[trio.service()]);
    let kept: Vec<_> = (0..20)
        .map(|_| trio.client.connect_unhooked(vip()).expect("a connection"))
        .collect();
    let kept_by: Vec<_> = kept.iter().map(|stream| ask(stream).unwrap()).collect();
    assert!(kept_by.iter().any(|name| name == "a"), "{kept_by:?}");

    let readiness = node.datapath().readiness();
    assert_eq!(readiness.set_ready(trio.servers[0].address, false), 1);
    assert_eq!(names(&tally(50, || trio.client.connect(vip()))), ["b"]);
    assert_eq!(names(&tally(50, || trio.client.connect_unhooked(vip()))), ["b"]);
    // Connections that were there go on, also those to the pod that is not ready.
    for stream in &kept {
        echo(stream, 10_000);
    }
    // A list that does not know yet changes nothing.
    node.serve(&[trio.service()]);
    assert_eq!(names(&tally(20, || trio.client.connect(vip()))), ["b"]);

    assert_eq!(readiness.set_ready(trio.servers[0].address, true), 1);
    assert_eq!(names(&tally(50, || trio.client.connect(vip()))), ["a", "b"]);
}

fn drops(node: &Node, reason: DropReason) -> u64 {
    let drops = node.datapath().drops().expect("the counters of drops");
    drops
        .into_iter()
        .filter(|(found, _)| *found == reason)
        .map(|(_, counters)| counters.packets)
        .sum()
}

#[test]
fn without_a_ready_backend_a_client_is_refused_at_once() {
    let mut lab = Lab::single();
    let trio = trio(&mut lab.nodes[0]);
    let node = &lab.nodes[0];
    let refused = |what: &str| {
        for result in [trio.client.connect(vip()), trio.client.connect_unhooked(vip())] {
            let error = result.expect_err(what);
            assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{what}: {error}");
        }
    };
    lab.serve(&[tcp_service(vip(), PORT, &[])]);
    refused("a service without backends");

    lab.serve(&[trio.service()]);
    for server in &trio.servers {
        node.datapath().readiness().set_ready(server.address, false);
    }
    refused("a service whose backends are all unready");
    assert!(drops(node, DropReason::NoReadyBackend) >= 4);
}

/// One datagram to the VIP and who answered, by name and by the address the answer shows.
fn query(socket: &UdpSocket, to: SocketAddr) -> io::Result<(String, SocketAddr)> {
    socket.send_to(b"who?", to)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

#[test]
fn udp_answers_to_unconnected_sockets_show_the_vip() {
    let mut lab = Lab::pair();
    let client = lab.nodes[0].add_pod(2);
    let (near, far) = (lab.nodes[0].add_pod(3), lab.nodes[1].add_pod(3));
    let _serving = [near.serve_udp(5353, "near"), far.serve_udp(5353, "far")];
    let (one, two) = ("10.96.0.10:53".parse().unwrap(), "10.96.0.11:53".parse().unwrap());
    lab.serve(&[udp_service(one, 5353, &[&near]), udp_service(two, 5353, &[&far])]);
    let sockets = [
        client.socket(libc::AF_INET, libc::SOCK_DGRAM),
        client.unhooked_socket(libc::AF_INET, libc::SOCK_DGRAM),
    ];
    for socket in sockets.map(UdpSocket::from) {
        // One socket, two VIPs in turn: each answer shows the one that was asked.
        for _ in 0..5 {
            assert_eq!(query(&socket, one).expect("an answer"), ("near".into(), one));
            assert_eq!(query(&socket, two).expect("an answer"), ("far".into(), two));
        }
    }
    let direct = UdpSocket::from(client.socket(libc::AF_INET, libc::SOCK_DGRAM));
    let answer = query(&direct, near.at(5353)).expect("an answer");
    assert_eq!(answer, ("near".into(), near.at(5353)));
}

#[test]
fn connected_udp_sockets_are_balanced_at_connect() {
    let mut lab = Lab::single();
    let (client, server) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    let _serving = server.serve_udp(5353, "a");
    lab.serve(&[udp_service(vip(), 5353, &[&server])]);
    let socket = UdpSocket::from(client.socket(libc::AF_INET, libc::SOCK_DGRAM));
    socket.connect(vip()).expect("a balanced socket");
    assert_eq!(socket.peer_addr().unwrap(), vip());
    socket.send(b"who?").unwrap();
    let mut buffer = [0; 8];
    assert_eq!(socket.recv(&mut buffer).expect("an answer"), 1);
}

#[test]
fn a_pod_reaches_itself_through_its_vip() {
    let mut lab = Lab::single();
    let pod = lab.nodes[0].add_pod(2);
    let _listening = pod.serve_tcp(PORT, "self");
    lab.serve(&[tcp_service(vip(), PORT, &[&pod])]);
    for stream in [pod.connect(vip()), pod.connect_unhooked(vip())] {
        let stream = stream.expect("a connection");
        assert_eq!(ask(&stream).unwrap(), "self");
        echo(&stream, 100_000);
    }
}

#[test]
fn the_nodes_own_processes_use_vips() {
    let mut lab = Lab::pair();
    let (near, far) = (lab.nodes[0].add_pod(3), lab.nodes[1].add_pod(3));
    let _listening = [near.serve_tcp(PORT, "near"), far.serve_tcp(PORT, "far")];
    lab.serve(&[tcp_service(vip(), PORT, &[&near, &far])]);
    assert_eq!(names(&tally(40, || lab.nodes[0].connect(vip()))), ["far", "near"]);
}

#[test]
fn a_service_that_goes_takes_its_vip_with_it() {
    let mut lab = Lab::single();
    let trio = trio(&mut lab.nodes[0]);
    lab.serve(&[trio.service()]);
    assert_eq!(tally(1, || trio.client.connect(vip())).len(), 1);
    lab.serve(&[]);
    let error = trio.client.connect(vip()).expect_err("an address that nobody has");
    assert_ne!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
    assert_eq!(causeway_maps::view::services(&lab.nodes[0].maps()).unwrap(), []);
}

#[test]
fn a_backend_that_leaves_keeps_its_connections() {
    let mut lab = Lab::single();
    let trio = trio(&mut lab.nodes[0]);
    lab.serve(&[trio.service()]);
    let kept: Vec<_> = (0..20)
        .map(|_| trio.client.connect_unhooked(vip()).expect("a connection"))
        .collect();
    let names_kept: Vec<_> = kept.iter().map(|stream| ask(stream).unwrap()).collect();
    assert!(names_kept.contains(&"a".to_owned()), "{names_kept:?}");
    lab.serve(&[tcp_service(vip(), PORT, &[&trio.servers[1]])]);
    assert_eq!(names(&tally(30, || trio.client.connect_unhooked(vip()))), ["b"]);
    for stream in &kept {
        echo(stream, 10_000);
    }
}

#[test]
fn clsact_filters_do_where_the_kernel_has_no_tcx() {
    let mut lab = Lab::new(Settings {
        nodes: 2,
        tc: TcAttachment::Clsact,
        ..Settings::default()
    });
    let (client, server) = (lab.nodes[0].add_pod(2), lab.nodes[1].add_pod(2));
    let _listening = server.serve_tcp(PORT, "far");
    lab.serve(&[tcp_service(vip(), PORT, &[&server])]);
    assert_eq!(names(&tally(3, || client.connect_unhooked(vip()))), ["far"]);
    // The filters are replaced, not doubled, and stay when their maker is gone.
    for node in &mut lab.nodes {
        node.close();
        node.open().expect("the data path again");
    }
    assert_eq!(names(&tally(3, || client.connect_unhooked(vip()))), ["far"]);
    lab.nodes[0]
        .netns
        .run(|| lab.nodes[0].datapath().detach_pod(client.link.ifindex))
        .expect("no filter");
    let stray = client.connect_unhooked(vip()).expect_err("nobody balances");
    assert_ne!(stray.raw_os_error(), Some(libc::ECONNREFUSED), "{stray}");
}

#[test]
fn counters_count_by_name() {
    let mut lab = Lab::single();
    let trio = trio(&mut lab.nodes[0]);
    lab.serve(&[trio.service()]);
    tally(5, || trio.client.connect(vip()));
    tally(5, || trio.client.connect_unhooked(vip()));
    let traffic = lab.nodes[0].datapath().service_traffic().unwrap();
    let [service] = traffic.as_slice() else {
        panic!("{traffic:?}")
    };
    assert_eq!(
        (service.name.as_str(), service.counters.connections),
        ("default/test:80", 10)
    );
    assert!(
        service.counters.packets > 20 && service.counters.bytes > 1000,
        "{service:?}"
    );
}
