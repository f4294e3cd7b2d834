//! A node and the network around it, with real sockets: who comes in by a node port, and pods that go out.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    thread,
};

use causeway_abi::DropReason;
use causeway_agent::bpf::{DesiredService, Scope, SourceRange};
use causeway_tests::netns::{Lab, Outsider, Pod, Servers, TcpServer, also_at, ask, tcp_service, udp_service};

const PORT: u16 = 8080;
const NODE_PORT: u16 = 30_080;

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

/// Lets the network use a service by a port of each node.
fn with_node_port(mut service: DesiredService, lab: &Lab, local_only: bool) -> DesiredService {
    for node in &lab.nodes {
        service = also_at(service, node.at(NODE_PORT), &[Scope::External, Scope::Cluster]);
    }
    for frontend in &mut service.frontends {
        frontend.local_only = local_only && frontend.scope == Scope::External;
    }
    service
}

/// Two nodes with a server each, and a machine outside.
struct World {
    lab: Lab,
    outsider: Outsider,
    servers: Vec<Pod>,
    #[expect(dead_code, reason = "listen until they are dropped")]
    listening: Vec<Servers>,
}

fn world() -> World {
    let mut lab = Lab::pair();
    let outsider = lab.outsider(200);
    let servers: Vec<Pod> = lab.nodes.iter_mut().map(|node| node.add_pod(3)).collect();
    let names = servers.iter().zip(["one", "two"]);
    let listening = names.map(|(pod, name)| pod.serve(PORT, name)).collect();
    World {
        lab,
        outsider,
        servers,
        listening,
    }
}

impl World {
    fn service(&self) -> DesiredService {
        tcp_service(vip(), PORT, &self.servers.iter().collect::<Vec<_>>())
    }
}

#[test]
fn a_node_port_reaches_pods_of_every_node() {
    let world = world();
    world.lab.serve(&[with_node_port(world.service(), &world.lab, false)]);
    for node in &world.lab.nodes {
        let tally = world.outsider.tally(40, node.at(NODE_PORT));
        assert_eq!(tally.keys().collect::<Vec<_>>(), ["one", "two"], "{tally:?}");
    }
}

#[test]
fn a_local_policy_keeps_to_the_nodes_own_pods() {
    let world = world();
    world.lab.serve(&[with_node_port(world.service(), &world.lab, true)]);
    for (node, name) in world.lab.nodes.iter().zip(["one", "two"]) {
        let tally = world.outsider.tally(20, node.at(NODE_PORT));
        assert_eq!(tally.keys().collect::<Vec<_>>(), [name], "{tally:?}");
    }
}

#[test]
fn udp_is_answered_by_the_address_that_was_asked() {
    let world = world();
    let service = udp_service(vip(), PORT, &world.servers.iter().collect::<Vec<_>>());
    world.lab.serve(&[with_node_port(service, &world.lab, false)]);
    for node in &world.lab.nodes {
        let mut names = BTreeMap::<String, usize>::new();
        for _ in 0..30 {
            let socket = UdpSocket::from(world.outsider.socket(libc::SOCK_DGRAM));
            socket.send_to(b"who?", node.at(NODE_PORT)).expect("a question");
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
            assert_eq!(from, node.at(NODE_PORT));
            *names
                .entry(String::from_utf8_lossy(&buffer[..length]).into_owned())
                .or_default() += 1;
        }
        assert_eq!(names.len(), 2, "{names:?}");
    }
}

#[test]
fn clients_that_no_source_range_holds_are_kept_out() {
    let world = world();
    let mut service = with_node_port(world.service(), &world.lab, false);
    let range = |address: IpAddr| SourceRange {
        address,
        prefix_len: 32,
    };
    for frontend in &mut service.frontends {
        if frontend.scope == Scope::External {
            frontend.source_ranges = vec![range("172.30.0.201".parse().unwrap())];
        }
    }
    world.lab.serve(&[service.clone()]);
    let node = &world.lab.nodes[0];
    assert!(world.outsider.connect(node.at(NODE_PORT)).is_err());
    let drops = node.datapath().drops().expect("the counters");
    assert!(
        drops
            .iter()
            .any(|(reason, counters)| *reason == DropReason::SourceNotAllowed && counters.packets > 0)
    );

    for frontend in &mut service.frontends {
        for one in &mut frontend.source_ranges {
            *one = range(world.outsider.address);
        }
    }
    world.lab.serve(&[service]);
    assert_eq!(world.outsider.tally(10, node.at(NODE_PORT)).values().sum::<usize>(), 10);
}

#[test]
fn without_a_ready_backend_the_network_is_refused_at_once() {
    let world = world();
    world
        .lab
        .serve(&[with_node_port(tcp_service(vip(), PORT, &[]), &world.lab, false)]);
    let error = world
        .outsider
        .connect(world.lab.nodes[0].at(NODE_PORT))
        .expect_err("nobody is there");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
}

#[test]
fn pods_and_nodes_use_node_ports_too() {
    let mut world = world();
    let client = world.lab.nodes[0].add_pod(9);
    world.lab.serve(&[with_node_port(world.service(), &world.lab, false)]);
    for node in &world.lab.nodes {
        for connect in [Pod::connect, Pod::connect_unhooked] {
            let stream = connect(&client, node.at(NODE_PORT)).expect("a connection");
            assert_eq!(stream.peer_addr().expect("its peer"), node.at(NODE_PORT));
            ask(&stream).expect("an answer");
        }
        ask(&world.lab.nodes[0].connect(node.at(NODE_PORT)).expect("a connection")).expect("an answer");
    }
}

#[test]
fn pods_reach_the_network_behind_their_nodes_address() {
    let mut lab = Lab::single();
    let outsider = lab.outsider(200);
    let pod = lab.nodes[0].add_pod(2);
    let address = SocketAddr::new(outsider.address, 9_000);
    let _tcp = TcpServer::start(outsider.socket(libc::SOCK_STREAM), address, "world");
    for connect in [Pod::connect, Pod::connect_unhooked] {
        let stream = connect(&pod, address).expect("a connection");
        assert_eq!(ask(&stream).expect("an answer"), "world");
    }
    let maps = lab.nodes[0].maps();
    let flows = causeway_maps::view::flows(&maps).expect("the flows");
    assert!(!flows.is_empty(), "the node's address stands in for the pod's");

    let ping = pod.netns.run(|| {
        Command::new("busybox")
            .args(["ping", "-c", "3", "-W", "2", &outsider.address.to_string()])
            .output()
            .expect("busybox runs")
    });
    let said = String::from_utf8_lossy(&ping.stdout);
    assert!(said.contains("3 packets received"), "{said}");
}

#[test]
fn much_data_passes_a_node_port_to_another_node_and_back() {
    let world = world();
    let (asked, other) = (&world.lab.nodes[0], &world.servers[1]);
    world
        .lab
        .serve(&[with_node_port(tcp_service(vip(), PORT, &[other]), &world.lab, false)]);
    let mut stream = world.outsider.connect(asked.at(NODE_PORT)).expect("a connection");
    assert_eq!(ask(&stream).expect("an answer"), "two");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let mut writing = stream.try_clone().expect("another descriptor");
    let data = sent.clone();
    let writer = thread::spawn(move || writing.write_all(&data));
    let mut received = vec![0; sent.len()];
    stream.read_exact(&mut received).expect("all of it back");
    writer.join().expect("a writer").expect("all of it sent");
    assert!(received == sent, "what came back is not what was sent");
}
