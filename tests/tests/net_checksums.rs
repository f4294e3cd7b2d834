//! Checksums over real links, whoever computes them. Between veth pairs a sender leaves them to its interface and nobody ever looks at
//! them, so here one side or both compute their own, and the receiver's kernel checks each.

use std::{
    fs,
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
};

use causeway_agent::bpf::{DesiredService, Scope};
use causeway_tests::netns::{
    Lab, Netns, Outsider, Pod, Servers, Settings, TcpServer, UdpServer, also_at, ask, exchange, leave_no_checksums,
    noise, tcp_service, udp_service,
};

const PORT: u16 = 8080;
const NODE_PORT: u16 = 30_080;
/// Enough for full and divided segments.
const BYTES: u32 = 400_000;

/// Two nodes with a server each, a client, and a machine outside.
struct World {
    lab: Lab,
    outsider: Outsider,
    client: Pod,
    servers: Vec<Pod>,
    #[expect(dead_code, reason = "listen until they are dropped")]
    listening: Vec<Servers>,
}

fn world() -> World {
    let mut lab = Lab::new(Settings {
        nodes: 2,
        ipv6: true,
        ..Settings::default()
    });
    let outsider = lab.outsider(200);
    let client = lab.nodes[0].add_pod(2);
    let servers: Vec<Pod> = lab.nodes.iter_mut().map(|node| node.add_pod(3)).collect();
    let both = || servers.iter().zip(["near", "far"]);
    let listening = both().map(|(pod, name)| pod.serve(PORT, name)).collect();
    let services = both().enumerate().flat_map(|(number, (pod, _))| {
        [vip(number), vip6(number)]
            .into_iter()
            .flat_map(move |vip| [tcp_service(vip, PORT, &[pod]), udp_service(vip, PORT, &[pod])])
    });
    let services: Vec<_> = services.map(|service| with_node_port(service, &lab)).collect();
    lab.serve(&services);
    World {
        lab,
        outsider,
        client,
        servers,
        listening,
    }
}

fn vip(server: usize) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10 + server as u8], 80))
}

fn vip6(server: usize) -> SocketAddr {
    SocketAddr::new(format!("fd00:96::{}", 10 + server).parse().expect("an address"), 80)
}

/// A port of the first node for each service, by the last number of its virtual address.
fn with_node_port(service: DesiredService, lab: &Lab) -> DesiredService {
    let address = service.frontends[0].vip.address;
    let mut own = lab.nodes[0].underlay_addresses().into_iter();
    let own = own
        .find(|own| own.is_ipv4() == address.is_ipv4())
        .expect("one of each family");
    let far = [vip(1), vip6(1)].iter().any(|far| far.ip() == address);
    let at = SocketAddr::new(own, NODE_PORT + u16::from(far));
    also_at(service, at, &[Scope::External])
}

fn datagram(socket: OwnedFd, to: SocketAddr, name: &str, how: &str) {
    let socket = UdpSocket::from(socket);
    let mut buffer = [0; 64];
    // Of odd lengths too.
    for length in [1, 2, 999, 1_000] {
        socket.send_to(&noise(length), to).expect("a question");
        let (length, from) = socket
            .recv_from(&mut buffer)
            .unwrap_or_else(|error| panic!("{how}: {error}"));
        assert_eq!((&buffer[..length], from), (name.as_bytes(), to), "{how}");
    }
}

fn stream(stream: std::io::Result<TcpStream>, name: &str, how: &str) {
    let stream = stream.unwrap_or_else(|error| panic!("{how}: {error}"));
    assert_eq!(ask(&stream).expect("a name"), name, "{how}");
    exchange(&stream, &noise(BYTES), how);
}

fn family(address: SocketAddr) -> i32 {
    if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

/// Everybody talks to everybody, and no kernel finds a wrong checksum.
fn assert_all_is_heard(world: &World) {
    let client = &world.client;
    for (number, name) in ["near", "far"].into_iter().enumerate() {
        let server = &world.servers[number];
        let ways = [
            ("straight", server.at(PORT)),
            ("straight, IPv6", server.at6(PORT)),
            ("virtual", vip(number)),
            ("virtual, IPv6", vip6(number)),
        ];
        for (how, to) in ways {
            let how = format!("{name}, {how}");
            stream(client.connect(to), name, &how);
            datagram(client.socket(family(to), libc::SOCK_DGRAM), to, name, &how);
            let how = format!("{how}, packet by packet");
            stream(client.connect_unhooked(to), name, &how);
            datagram(client.unhooked_socket(family(to), libc::SOCK_DGRAM), to, name, &how);
        }
        for address in world.lab.nodes[0].underlay_addresses() {
            let to = SocketAddr::new(address, NODE_PORT + number as u16);
            let how = format!("{name}, from outside to {to}");
            stream(world.outsider.connect(to), name, &how);
            if to.is_ipv4() {
                datagram(world.outsider.socket(libc::SOCK_DGRAM), to, name, &how);
            }
        }
    }
    let outside = SocketAddr::new(world.outsider.address, 9_000);
    let _tcp = TcpServer::start(world.outsider.socket(libc::SOCK_STREAM), outside, "world");
    let _udp = UdpServer::start(world.outsider.socket(libc::SOCK_DGRAM), outside, "world");
    stream(client.connect(outside), "world", "to the network");
    datagram(
        client.socket(libc::AF_INET, libc::SOCK_DGRAM),
        outside,
        "world",
        "to the network",
    );

    let nodes = world.lab.nodes.iter().map(|node| &node.netns);
    let pods = world.servers.iter().chain([client]).map(|pod| &pod.netns);
    for netns in nodes.chain(pods).chain([&world.outsider.netns]) {
        assert_eq!(wrong_checksums(netns), Vec::<String>::new());
    }
}

/// Counters of wrong checksums that are not zero.
fn wrong_checksums(netns: &Netns) -> Vec<String> {
    let read = |name: &str| {
        let path = format!("/proc/thread-self/net/{name}");
        netns.run(move || fs::read_to_string(path)).expect("counters")
    };
    let mut wrong = Vec::new();
    let text = read("snmp");
    let mut lines = text.lines();
    let mut seen = 0;
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()).skip(1) {
            if name == "InCsumErrors" {
                seen += 1;
                if value != "0" {
                    wrong.push(values.to_owned());
                }
            }
        }
    }
    assert!(seen >= 3, "TCP, UDP and ICMP at least: {text}");
    let of_v6 = read("snmp6");
    wrong.extend(
        of_v6
            .lines()
            .filter(|line| line.contains("CsumErrors") && !line.ends_with("\t0"))
            .map(str::to_owned),
    );
    wrong
}

fn pods_compute(world: &World) {
    for pod in world.servers.iter().chain([&world.client]) {
        pod.netns.run(|| leave_no_checksums("eth0"));
    }
}

fn uplinks_compute(world: &World) {
    // The machine outside is plugged in as nodes are.
    let uplink = world.lab.nodes[0].uplink();
    for netns in world
        .lab
        .nodes
        .iter()
        .map(|node| &node.netns)
        .chain([&world.outsider.netns])
    {
        netns.run(|| leave_no_checksums(uplink));
    }
}

#[test]
fn those_that_pods_compute_are_right_after_translation_and_tunnel() {
    let world = world();
    pods_compute(&world);
    uplinks_compute(&world);
    assert_all_is_heard(&world);
}

#[test]
fn those_that_pods_leave_to_the_uplink_are_computed_inside_the_tunnel() {
    let world = world();
    uplinks_compute(&world);
    assert_all_is_heard(&world);
}

#[test]
fn those_that_pods_compute_are_right_where_the_uplink_computes_none() {
    let world = world();
    pods_compute(&world);
    assert_all_is_heard(&world);
}
