//! Native routing: pods of other nodes by the kernel's routes, with no tunnel between, over both families.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
};

use causeway_agent::net::{DirectReport, DirectRoute, Network, Routing};
use causeway_tests::netns::{
    Lab, Node, Pod, Servers, Settings, TcpServer, answer, ask, bulk, connect, socket_in, tcp_service,
};

const PORT: u16 = 8080;

fn lab(routing: Routing) -> Lab {
    Lab::new(Settings {
        nodes: 2,
        ipv6: true,
        routing,
        ..Settings::default()
    })
}

/// A client on the first node, a server on each.
struct World {
    lab: Lab,
    client: Pod,
    near: Pod,
    far: Pod,
    #[expect(dead_code, reason = "listen until they are dropped")]
    listening: [Servers; 2],
}

fn world(routing: Routing) -> World {
    let mut lab = lab(routing);
    let (client, near, far) = (
        lab.nodes[0].add_pod(2),
        lab.nodes[0].add_pod(3),
        lab.nodes[1].add_pod(2),
    );
    let listening = [near.serve(PORT, "near"), far.serve(PORT, "far")];
    World {
        lab,
        client,
        near,
        far,
        listening,
    }
}

/// Packets that a link has sent.
fn sent_by(node: &Node, link: &str) -> u64 {
    let arguments = ["-s", "-j", "link", "show", "dev", link];
    let output = node.netns.run(|| Command::new("ip").args(arguments).output());
    let output = output.expect("ip");
    let text = String::from_utf8_lossy(&output.stdout);
    let links: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    links[0]["stats64"]["tx"]["packets"].as_u64().expect("a counter")
}

fn mtu(pod: &Pod) -> String {
    let output = pod
        .netns
        .run(|| Command::new("ip").args(["-o", "link", "show", "dev", "eth0"]).output());
    String::from_utf8(output.expect("ip").stdout).expect("text")
}

#[test]
fn pods_reach_each_other_without_a_tunnel_in_full_frames() {
    let world = world(Routing::Native);
    let node = &world.lab.nodes[0];
    let before = sent_by(node, "cw-vxlan0");
    for to in [world.far.at(PORT), world.far.at6(PORT)] {
        let stream = world.client.connect(to).expect("a connection");
        bulk(stream);
        // A server in the other direction sees the pod, not its node.
        let (from, own) = (to.is_ipv4(), world.client.at(0).ip());
        let own = if from { own } else { world.client.at6(0).ip() };
        let listener = Listener::start(&world.far, to);
        let stream = world.client.connect(listener.at).expect("a connection");
        assert_eq!(listener.peer(), own);
        drop(stream);
    }
    assert_eq!(sent_by(node, "cw-vxlan0"), before, "nothing went through the tunnel");
    assert!(mtu(&world.client).contains("mtu 1500 "), "{}", mtu(&world.client));
    let socket = UdpSocket::from(world.client.socket(libc::AF_INET, libc::SOCK_DGRAM));
    never_fragment(&socket);
    // With 8 bytes of UDP and 20 of IPv4 these are 1500.
    socket.send_to(&[7; 1472], world.far.at(PORT)).expect("a full frame");
    let mut buffer = [0; 16];
    let (length, _) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(&buffer[..length], b"far");
    let error = socket.send_to(&[7; 1473], world.far.at(PORT)).expect_err("too much");
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{error}");
}

/// Packets of this socket go whole or not at all (ip(7), `IP_MTU_DISCOVER`).
fn never_fragment(socket: &UdpSocket) {
    let value = libc::IP_PMTUDISC_DO;
    // SAFETY: `value` is valid for reading its size.
    let result = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

struct Listener {
    socket: std::net::TcpListener,
    at: SocketAddr,
}

impl Listener {
    fn start(pod: &Pod, like: SocketAddr) -> Self {
        let at = SocketAddr::new(like.ip(), PORT + 1);
        let domain = if at.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let socket = pod.socket(domain, libc::SOCK_STREAM);
        let storage = nix::sys::socket::SockaddrStorage::from(at);
        nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &storage).expect("an address");
        nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::MAXCONN).expect("a listening socket");
        Self {
            socket: socket.into(),
            at,
        }
    }

    fn peer(&self) -> IpAddr {
        self.socket.accept().expect("a client").1.ip()
    }
}

#[test]
fn a_node_reaches_pods_elsewhere_and_they_reach_it() {
    let world = world(Routing::Native);
    let node = &world.lab.nodes[0];
    for (to, router) in [
        (world.far.at(PORT), node.router_address()),
        (world.far.at6(PORT), node.router_address6()),
    ] {
        let stream = node.connect(to).expect("a connection");
        assert_eq!(ask(&stream).unwrap(), "far");
        assert_eq!(stream.local_addr().unwrap().ip(), router);
        let domain = if router.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let socket = socket_in(&node.netns, None, domain, libc::SOCK_STREAM);
        let _node = TcpServer::start(socket, SocketAddr::new(router, PORT), "node");
        assert_eq!(answer(world.far.connect(SocketAddr::new(router, PORT))), "node");
    }
}

fn vips() -> [SocketAddr; 2] {
    [
        ([10, 96, 0, 10], 80).into(),
        "[fd00:96::10]:80".parse().expect("an address"),
    ]
}

#[test]
fn services_lead_to_pods_elsewhere_at_the_socket_and_packet_by_packet() {
    let world = world(Routing::Native);
    let services: Vec<_> = vips().map(|vip| tcp_service(vip, PORT, &[&world.far])).into();
    world.lab.serve(&services);
    for vip in vips() {
        assert_eq!(answer(world.client.connect(vip)), "far");
        assert_eq!(answer(world.client.connect_unhooked(vip)), "far");
        bulk(world.client.connect_unhooked(vip).expect("a connection"));
        assert_eq!(answer(world.lab.nodes[0].connect(vip)), "far");
    }
}

#[test]
fn nodes_change_from_tunnels_to_native_routes_and_back_while_pods_run() {
    let mut world = world(Routing::Vxlan);
    let check = |world: &World, when: &str| {
        for (from, to) in [
            (&world.client, world.far.at(PORT)),
            (&world.client, world.far.at6(PORT)),
            (&world.far, world.near.at(PORT)),
            (&world.far, world.near.at6(PORT)),
        ] {
            let stream = from
                .connect(to)
                .unwrap_or_else(|error| panic!("{when}, to {to}: {error}"));
            bulk(stream);
            let stream = world.lab.nodes[0].connect(world.far.at(PORT));
            assert_eq!(answer(stream), "far", "{when}");
        }
    };
    check(&world, "with tunnels");
    // A connection that is there stays.
    let held = world.client.connect(world.far.at(PORT)).expect("a connection");
    // One node after the other: for a while one sends through the tunnel and the other does not.
    for (routing, name) in [(Routing::Native, "native"), (Routing::Vxlan, "tunnels again")] {
        for node in 0..2 {
            world.lab.change_routing(node, routing);
            check(&world, &format!("{name} on {} nodes", node + 1));
        }
    }
    bulk(held);
    for node in &world.lab.nodes {
        assert_eq!(own_routes(node), [""; 2], "none of its direct routes stays");
    }
}

fn own_routes(node: &Node) -> [String; 2] {
    ["-4", "-6"].map(|family| {
        let arguments = [family, "route", "show", "proto", "143"];
        let output = node.netns.run(|| Command::new("ip").args(arguments).output());
        String::from_utf8(output.expect("ip").stdout)
            .expect("text")
            .trim()
            .to_owned()
    })
}

fn ip(node: &Node, arguments: &[&str]) {
    let status = node.netns.run(|| Command::new("ip").args(arguments).status());
    assert!(status.expect("ip").success(), "ip {arguments:?}");
}

fn sync(node: &Node, routes: &[DirectRoute]) -> DirectReport {
    node.netns
        .block_on(|| async { Network::new()?.sync_direct_routes(node.uplink(), routes).await })
        .expect("direct routes")
}

#[test]
fn only_own_routes_are_touched_and_what_is_not_on_link_is_told() {
    let lab = lab(Routing::Native);
    let node = &lab.nodes[0];
    let wanted = node.direct_routes(&lab.nodes[1]);
    assert_eq!(sync(node, &wanted), DirectReport::default(), "the lab has made them");
    // Somebody's own routes, one of them to a range that is wanted too.
    ip(node, &["route", "add", "10.244.9.0/24", "via", "172.30.0.99"]);
    ip(node, &["route", "add", "10.244.8.0/24", "via", "172.30.0.99"]);
    let direct = |range: &str, gateway: &str, source: &str| DirectRoute {
        range: range.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
        source: source.parse().unwrap(),
    };
    let router = node.router_address().to_string();
    let router6 = node.router_address6().to_string();
    let theirs = direct("10.244.8.0/24", "172.30.0.2", &router);
    let far = [
        direct("10.244.7.0/24", "192.0.2.1", &router),
        direct("fd00:244:0:7::/64", "2001:db8::1", &router6),
    ];
    let moved = direct("10.244.2.0/24", "172.30.0.77", &router);
    let report = sync(node, &[wanted[1], moved, theirs, far[0], far[1]]);
    assert_eq!((report.written, report.removed), (1, 0));
    assert_eq!(report.not_on_link, far);
    assert_eq!(report.others, [theirs]);
    assert!(
        own_routes(node)[0].contains("10.244.2.0/24 via 172.30.0.77"),
        "{:?}",
        own_routes(node)
    );

    let report = sync(node, &[]);
    assert_eq!((report.written, report.removed), (0, 2));
    assert_eq!(own_routes(node), [""; 2]);
    let output = node.netns.run(|| Command::new("ip").args(["route", "show"]).output());
    let text = String::from_utf8(output.expect("ip").stdout).expect("text");
    assert!(text.contains("10.244.9.0/24 via 172.30.0.99"), "{text}");
}

#[test]
fn what_pods_send_to_native_prefixes_keeps_its_source() {
    let world = world(Routing::Native);
    let outsider = world.lab.outsider(200);
    let node = &world.lab.nodes[0];
    // The machine outside knows the way to the node's pods.
    let (range, gateway) = (node.ranges().primary(), node.underlay_address().to_string());
    let status = outsider.netns.run(|| {
        Command::new("ip")
            .args(["route", "add", &range.to_string(), "via", &gateway])
            .status()
    });
    assert!(status.expect("ip").success());
    // It reaches pods by their own addresses, as the network delivers them.
    let native = causeway_agent::bpf::DesiredRoute {
        address: outsider.address,
        prefix_len: 32,
        node: IpAddr::from([0; 4]),
        mode: causeway_agent::bpf::RouteMode::Native,
    };
    let mut routes = world.lab.nodes[1].routes(Routing::Native);
    routes.push(native);
    node.datapath().sync_routes(&routes).expect("routes");
    assert_eq!(answer(outsider.connect(world.near.at(PORT))), "near");
    let socket = socket_in(&outsider.netns, None, libc::AF_INET, libc::SOCK_STREAM);
    let at = SocketAddr::new(outsider.address, PORT);
    let storage = nix::sys::socket::SockaddrStorage::from(at);
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &storage).expect("an address");
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::MAXCONN).expect("a listening socket");
    let listener = std::net::TcpListener::from(socket);
    let stream = connect(world.client.socket(libc::AF_INET, libc::SOCK_STREAM), at).expect("a connection");
    assert_eq!(listener.accept().expect("a client").1.ip(), world.client.address);
    drop(stream);
}
