//! Services whose backends are in the nodes' own network, as pods with `hostNetwork` are: their address is a node's.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use causeway_agent::{
    bpf::{BackendId, DesiredBackend, DesiredService, Scope, VipId},
    net::Routing,
};
use causeway_maps::Protocol;
use causeway_tests::netns::{Lab, Node, Pod, Settings, TcpServer, UdpServer, also_at, answer, bulk, domain, socket_in};

const PORT: u16 = 8080;
const NODE_PORT: u16 = 30_080;

fn vips() -> [SocketAddr; 2] {
    [
        ([10, 96, 0, 10], 80).into(),
        "[fd00:96::10]:80".parse().expect("an address"),
    ]
}

/// A service at `vip` with a port of a node behind it.
fn service(vip: SocketAddr, protocol: Protocol, backend: IpAddr, local: bool) -> DesiredService {
    let id = VipId {
        address: vip.ip(),
        port: vip.port(),
        protocol,
    };
    let backend = DesiredBackend {
        local,
        ..DesiredBackend::ready(BackendId::new(backend, PORT, protocol))
    };
    DesiredService::cluster_ip(id, format!("default/host:{}", vip.port()), vec![backend])
}

struct World {
    lab: Lab,
    client: Pod,
    #[expect(dead_code, reason = "listen until they are dropped")]
    listening: (Vec<TcpServer>, Vec<UdpServer>),
}

/// Two nodes, each with a server in its own network at each of its addresses, and a pod on the first.
fn world(routing: Routing) -> World {
    let mut lab = Lab::new(Settings {
        nodes: 2,
        ipv6: true,
        routing,
        ..Settings::default()
    });
    let client = lab.nodes[0].add_pod(2);
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for (node, name) in lab.nodes.iter().zip(["near", "far"]) {
        for address in node.underlay_addresses() {
            let at = SocketAddr::new(address, PORT);
            let domain = domain(address);
            tcp.push(TcpServer::start(
                socket_in(&node.netns, None, domain, libc::SOCK_STREAM),
                at,
                name,
            ));
            udp.push(UdpServer::start(
                socket_in(&node.netns, None, domain, libc::SOCK_DGRAM),
                at,
                name,
            ));
        }
    }
    World {
        lab,
        client,
        listening: (tcp, udp),
    }
}

fn address(node: &Node, like: SocketAddr) -> IpAddr {
    let addresses = node.underlay_addresses();
    addresses[usize::from(like.is_ipv6())]
}

#[test]
fn pods_reach_backends_in_the_network_of_any_node() {
    for routing in [Routing::Vxlan, Routing::Native] {
        let world = world(routing);
        for (index, name) in [(0, "near"), (1, "far")] {
            let node = &world.lab.nodes[index];
            for vip in vips() {
                let backend = address(node, vip);
                let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
                world.lab.nodes[0].serve(&[
                    service(vip, tcp, backend, index == 0),
                    service(vip, udp, backend, index == 0),
                ]);
                let what = format!("{vip} to {name}, {routing:?}");
                assert_eq!(answer(world.client.connect(vip)), name, "{what}");
                assert_eq!(answer(world.client.connect_unhooked(vip)), name, "{what}");
                bulk(world.client.connect_unhooked(vip).expect("a connection"));
                assert_eq!(answer(world.lab.nodes[0].connect(vip)), name, "{what}");
                for socket in [
                    world.client.socket(domain(vip.ip()), libc::SOCK_DGRAM),
                    world.client.unhooked_socket(domain(vip.ip()), libc::SOCK_DGRAM),
                ] {
                    let socket = UdpSocket::from(socket);
                    socket.send_to(b"who", vip).expect("sent");
                    let mut buffer = [0; 16];
                    let (length, from) = socket
                        .recv_from(&mut buffer)
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert_eq!((&buffer[..length], from), (name.as_bytes(), vip), "{what}");
                }
            }
        }
    }
}

#[test]
fn the_network_reaches_backends_in_the_network_of_any_node() {
    let world = world(Routing::Vxlan);
    let outsider = world.lab.outsider(200);
    for (index, name) in [(0, "near"), (1, "far")] {
        for vip in vips() {
            let at = SocketAddr::new(address(&world.lab.nodes[0], vip), NODE_PORT);
            let backend = address(&world.lab.nodes[index], vip);
            let mut service = service(vip, Protocol::TCP, backend, index == 0);
            for scope in [Scope::External, Scope::Cluster] {
                let mut frontend = service.frontends[0].clone();
                (frontend.vip.address, frontend.vip.port, frontend.scope) = (at.ip(), at.port(), scope);
                service.frontends.push(frontend);
            }
            world.lab.nodes[0].serve(&[service]);
            assert_eq!(answer(outsider.connect(at)), name, "{at} to {name}");
            bulk(outsider.connect(at).expect("a connection"));
            assert_eq!(
                answer(world.client.connect_unhooked(at)),
                name,
                "{at} to {name} from a pod"
            );
        }
    }
}

#[test]
fn a_backend_on_this_node_sees_who_asks() {
    let world = world(Routing::Vxlan);
    let (outsider, node) = (world.lab.outsider(200), &world.lab.nodes[0]);
    let backend = node.underlay_address();
    let listener = {
        let socket = socket_in(&node.netns, None, libc::AF_INET, libc::SOCK_STREAM);
        let at = SocketAddr::new(backend, PORT + 1);
        let storage = nix::sys::socket::SockaddrStorage::from(at);
        nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &storage).expect("an address");
        nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::MAXCONN).expect("a listening socket");
        std::net::TcpListener::from(socket)
    };
    let mut desired = service(vips()[0], Protocol::TCP, backend, true);
    desired.backends[0].id.port = PORT + 1;
    let mut external = desired.frontends[0].clone();
    (external.vip.address, external.vip.port, external.scope) = (backend, NODE_PORT, Scope::External);
    desired.frontends.push(external);
    node.serve(&[desired]);
    for (stream, who) in [
        (outsider.connect(SocketAddr::new(backend, NODE_PORT)), outsider.address),
        (world.client.connect_unhooked(vips()[0]), world.client.address),
    ] {
        let stream = stream.expect("a connection");
        assert_eq!(listener.accept().expect("a client").1.ip(), who);
        drop(stream);
    }
}

#[test]
fn answers_in_pieces_and_errors_of_the_nodes_own_stack_reach_who_asked() {
    const LARGE: usize = 4_000;
    const CLOSED: u16 = PORT + 3;
    let world = world(Routing::Vxlan);
    let (outsider, node) = (world.lab.outsider(200), &world.lab.nodes[0]);
    for vip in vips() {
        let domain = domain(vip.ip());
        let backend = address(node, vip);
        let (open, closed) = (
            SocketAddr::new(backend, NODE_PORT),
            SocketAddr::new(backend, NODE_PORT + 1),
        );
        let large = UdpSocket::from(socket_in(&node.netns, None, domain, libc::SOCK_DGRAM));
        bind(&large, SocketAddr::new(backend, PORT + 2));
        let mut services = Vec::new();
        for (port, vip_port, at) in [(PORT + 2, 80, open), (CLOSED, 81, closed)] {
            let mut desired = service(SocketAddr::new(vip.ip(), vip_port), Protocol::UDP, backend, true);
            desired.backends[0].id.port = port;
            services.push(also_at(desired, at, &[Scope::External]));
        }
        node.serve(&services);
        let outside = || UdpSocket::from(socket_in(&outsider.netns, None, domain, libc::SOCK_DGRAM));
        let inside = || UdpSocket::from(world.client.unhooked_socket(domain, libc::SOCK_DGRAM));
        let [open_inside, closed_inside] = [80, 81].map(|port| SocketAddr::new(vip.ip(), port));
        for (client, open, closed) in [
            (&outside as &dyn Fn() -> UdpSocket, open, closed),
            (&inside, open_inside, closed_inside),
        ] {
            let asking = connected(client(), open);
            asking.send(b"how much").expect("sent");
            let mut buffer = [0; LARGE + 1];
            let (_, who) = large.recv_from(&mut buffer).expect("the question");
            let answer: Vec<u8> = (0..LARGE).map(|number| (number % 251) as u8).collect();
            large.send_to(&answer, who).expect("sent in pieces");
            let length = asking
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("{open}: {error}"));
            assert!(buffer[..length] == answer, "{open}: {length} bytes");

            let asking = connected(client(), closed);
            asking.send(b"anybody").expect("sent");
            let error = asking.recv(&mut buffer).expect_err("nobody");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{closed}: {error}");
        }
    }
}

fn bind(socket: &UdpSocket, at: SocketAddr) {
    let storage = nix::sys::socket::SockaddrStorage::from(at);
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(socket), &storage).expect("an address");
}

/// A socket with a peer, which hears of errors.
fn connected(socket: UdpSocket, to: SocketAddr) -> UdpSocket {
    let storage = nix::sys::socket::SockaddrStorage::from(to);
    nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &storage).expect("a peer");
    socket
}

#[test]
fn native_routes_carry_what_the_network_asks_of_pods_elsewhere() {
    let mut world = world(Routing::Native);
    let far = world.lab.nodes[1].add_pod(3);
    let _listening = [far.serve_tcp(PORT, "pod"), far.serve_tcp6(PORT, "pod")];
    let outsider = world.lab.outsider(200);
    for vip in vips() {
        let at = SocketAddr::new(address(&world.lab.nodes[0], vip), NODE_PORT);
        let backend = if vip.is_ipv4() { far.address } else { far.at6(0).ip() };
        let mut service = service(vip, Protocol::TCP, backend, false);
        let mut frontend = service.frontends[0].clone();
        (frontend.vip.address, frontend.vip.port, frontend.scope) = (at.ip(), at.port(), Scope::External);
        service.frontends.push(frontend);
        world.lab.nodes[0].serve(&[service]);
        assert_eq!(answer(outsider.connect(at)), "pod", "{at}");
        bulk(outsider.connect(at).expect("a connection"));
    }
}
