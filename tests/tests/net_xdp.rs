//! XDP on nodes' uplinks and direct server return, with real sockets: a machine outside reaches pods through any node.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use aya::sys::{Stats, enable_stats};
use causeway_agent::bpf::{DesiredService, Scope, XdpAttachment};
use causeway_maps::view;
use causeway_tests::netns::{
    Lab, Node, Outsider, Pod, Servers, Settings, also_at, ask, exchange, noise, tcp_service, udp_service,
};

const PORT: u16 = 8080;
const NODE_PORT: u16 = 30_080;

/// Two nodes with a server each, and a machine outside.
struct World {
    lab: Lab,
    outsider: Outsider,
    servers: Vec<Pod>,
    #[expect(dead_code, reason = "listen until they are dropped")]
    listening: Vec<Servers>,
}

fn world(xdp: Option<XdpAttachment>, direct_return: bool) -> World {
    let mut lab = Lab::new(Settings {
        nodes: 2,
        xdp,
        direct_return,
        ..Settings::default()
    });
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
    /// Puts a port of every node before the pods, by both protocols.
    fn serve(&self, pods: &[&Pod]) {
        let vip = SocketAddr::from(([10, 96, 0, 10], 80));
        let mut udp = udp_service(vip, PORT, pods);
        "default/test:udp".clone_into(&mut udp.name);
        let services = [tcp_service(vip, PORT, pods), udp].map(|service| self.with_node_port(service));
        self.lab.serve(&services);
    }

    fn with_node_port(&self, service: DesiredService) -> DesiredService {
        let nodes = self.lab.nodes.iter();
        nodes.fold(service, |service, node| {
            also_at(service, node.at(NODE_PORT), &[Scope::External])
        })
    }

    /// How often a program ran at the first node while statistics were on.
    fn runs(&self, program: &str) -> u64 {
        let programs = view::programs(&self.lab.nodes[0].maps(), None).expect("the programs");
        let found = programs.iter().find(|view| view.name == program);
        found
            .unwrap_or_else(|| panic!("no {program} in {programs:?}"))
            .runs
            .unwrap_or(0)
    }
}

/// A connection to a server that sends back what it gets.
struct Echo {
    stream: TcpStream,
    server: thread::JoinHandle<()>,
}

impl Echo {
    /// From outside through the first node to a pod of the second.
    fn open(world: &World) -> Self {
        const PORT: u16 = 9_000;
        let pod = &world.servers[1];
        let listener = pod.netns.run(|| TcpListener::bind(pod.at(PORT)).expect("a listener"));
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut buffer = vec![0; 1 << 16];
            loop {
                match stream.read(&mut buffer).expect("data") {
                    0 => return,
                    length => stream.write_all(&buffer[..length]).expect("the echo"),
                }
            }
        });
        let service = tcp_service(SocketAddr::from(([10, 96, 0, 11], 80)), PORT, &[pod]);
        world.lab.serve(&[world.with_node_port(service)]);
        let to = world.lab.nodes[0].at(NODE_PORT);
        let stream = world.outsider.connect(to).expect("a connection");
        patient(&stream);
        Self { stream, server }
    }

    fn close(self) {
        drop(self.stream);
        self.server.join().expect("the server");
    }
}

/// Waits long for data, as the machine may be busy.
fn patient(stream: &TcpStream) {
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a time-out");
}

/// Every way of attaching, and every way of answering.
fn each(test: impl Fn(&World, &str)) {
    for xdp in [None, Some(XdpAttachment::Generic), Some(XdpAttachment::Native)] {
        for direct_return in [false, true] {
            let how = format!("{xdp:?}, direct: {direct_return}");
            println!("{how}");
            test(&world(xdp, direct_return), &how);
        }
    }
}

#[test]
fn a_node_port_reaches_pods_of_every_node() {
    each(|world, how| {
        world.serve(&world.servers.iter().collect::<Vec<_>>());
        for node in &world.lab.nodes {
            let tally = world.outsider.tally(40, node.at(NODE_PORT));
            assert_eq!(tally.keys().collect::<Vec<_>>(), ["one", "two"], "{how}: {tally:?}");
        }
    });
}

#[test]
fn much_data_arrives_whole() {
    each(|world, how| {
        let echo = Echo::open(world);
        exchange(&echo.stream, &noise(4_000_000), how);
        echo.close();
    });
}

#[test]
fn udp_is_answered_by_the_address_that_was_asked() {
    each(|world, how| {
        world.serve(&[&world.servers[1]]);
        let socket = UdpSocket::from(world.outsider.socket(libc::SOCK_DGRAM));
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a time-out");
        let to = world.lab.nodes[0].at(NODE_PORT);
        for _ in 0..5 {
            socket.send_to(b"who?", to).expect("a datagram");
            let mut buffer = [0; 64];
            let (length, from) = socket
                .recv_from(&mut buffer)
                .unwrap_or_else(|error| panic!("{how}: {error}"));
            assert_eq!((&buffer[..length], from), (&b"two"[..], to), "{how}");
        }
    });
}

#[test]
fn packets_do_go_through_xdp_and_connections_outlive_its_coming_and_going() {
    for direct_return in [false, true] {
        let mut world = world(Some(XdpAttachment::Native), direct_return);
        let echo = Echo::open(&world);
        {
            let _statistics = enable_stats(Stats::RunTime).expect("statistics");
            exchange(&echo.stream, &noise(1_000_000), "native");
            let (xdp, tc) = (world.runs("cw_xdp"), world.runs("cw_from_uplink"));
            // A million bytes are at least 690 packets; of the rest (opening, neighbours) there are few.
            assert!(
                xdp >= 690 && tc < xdp / 10,
                "direct: {direct_return}, {xdp} by XDP, {tc} after it"
            );
        }
        for xdp in [None, Some(XdpAttachment::Generic), Some(XdpAttachment::Native)] {
            let node = &mut world.lab.nodes[0];
            node.close();
            node.settings.xdp = xdp;
            node.open().expect("the data path");
            let programs = view::programs(&node.maps(), None).expect("the programs");
            let attached = programs
                .iter()
                .any(|view| view.name == "cw_xdp" && !view.attached.is_empty());
            assert_eq!(attached, xdp.is_some(), "{xdp:?}: {programs:?}");
            exchange(&echo.stream, b"still there?", "replaced");
        }
        echo.close();
    }
}

/// Connections by way of each node, and who has them.
fn connections(world: &World) -> Vec<(TcpStream, String)> {
    let through = |node: &Node| {
        let stream = world.outsider.connect(node.at(NODE_PORT)).expect("a connection");
        patient(&stream);
        let server = ask(&stream).expect("its server's name");
        (stream, server)
    };
    world
        .lab
        .nodes
        .iter()
        .flat_map(|node| (0..12).map(|_| through(node)).collect::<Vec<_>>())
        .collect()
}

fn go_on(connections: &[(TcpStream, String)], what: &str) {
    for (number, (stream, server)) in connections.iter().enumerate() {
        exchange(
            stream,
            &noise(5_000),
            &format!("{what}: connection {number}, with {server}"),
        );
    }
}

/// The service of TCP alone.
fn only_tcp(world: &World, pods: &[&Pod]) -> DesiredService {
    world.with_node_port(tcp_service(SocketAddr::from(([10, 96, 0, 10], 80)), PORT, pods))
}

#[test]
fn connections_outlive_session_affinity_with_direct_server_return() {
    let world = world(Some(XdpAttachment::Native), true);
    let both: Vec<_> = world.servers.iter().collect();
    let mut service = only_tcp(&world, &both);
    service.affinity_seconds = 600;
    world.lab.serve(&[service.clone()]);
    let connections = connections(&world);
    let servers: Vec<_> = connections.iter().map(|(_, server)| server).collect();
    assert!(servers.iter().all(|server| *server == servers[0]), "{servers:?}");
    service.affinity_seconds = 0;
    world.lab.serve(&[service]);
    go_on(&connections, "without affinity");
    let tally = world.outsider.tally(40, world.lab.nodes[0].at(NODE_PORT));
    assert_eq!(tally.len(), 2, "{tally:?}");
}

#[test]
fn connections_outlive_a_time_without_backends_with_direct_server_return() {
    let world = world(Some(XdpAttachment::Native), true);
    let [one, two] = &world.servers[..] else {
        unreachable!("two nodes")
    };
    world.lab.serve(&[only_tcp(&world, &[one])]);
    let connections = connections(&world);
    // The backend's own node has them in its connection table; at the other one nothing is written down of them.
    world.lab.serve(&[only_tcp(&world, &[])]);
    world.lab.serve(&[only_tcp(&world, &[two])]);
    go_on(&connections[..12], "by way of the backend's own node");
    let tally = world.outsider.tally(4, world.lab.nodes[0].at(NODE_PORT));
    assert_eq!(tally.keys().collect::<Vec<_>>(), ["two"], "{tally:?}");
}

#[test]
fn connections_outlive_the_change_to_direct_server_return() {
    let mut world = world(Some(XdpAttachment::Native), false);
    world
        .lab
        .serve(&[only_tcp(&world, &world.servers.iter().collect::<Vec<_>>())]);
    let translated = connections(&world);
    for node in &mut world.lab.nodes {
        node.close();
        node.settings.direct_return = true;
        node.open().expect("the data path");
    }
    go_on(&translated, "translated before");
    let direct = connections(&world);
    go_on(&direct, "direct");
    go_on(&translated, "translated before, again");
}
