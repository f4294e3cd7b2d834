//! Pods with addresses of both families: IPv6 between pods, nodes, services and the network, with real sockets.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    process::Command,
};

use causeway_abi::DropReason;
use causeway_agent::{bpf::Scope, net::Network};
use causeway_tests::netns::{
    Lab, Node, Pod, Servers, Settings, TcpServer, also_at, answer, ask, bulk, connect, socket_in, tcp_service,
    udp_service,
};
use nix::sys::socket::{SockaddrStorage, bind};

const PORT: u16 = 8080;
const NODE_PORT: u16 = 30_080;

fn lab(nodes: u8) -> Lab {
    Lab::new(Settings {
        nodes,
        ipv6: true,
        ..Settings::default()
    })
}

fn vip() -> SocketAddr {
    "[fd00:96::10]:80".parse().expect("an address")
}

/// Two nodes, a client and a server on the first, a server on the second.
struct World {
    lab: Lab,
    client: Pod,
    near: Pod,
    far: Pod,
    #[expect(dead_code, reason = "listen until they are dropped")]
    listening: [Servers; 2],
}

fn world() -> World {
    let mut lab = lab(2);
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

#[test]
fn pods_reach_each_other_on_one_node_and_across_nodes() {
    let world = world();
    let back = world.client.serve_tcp6(PORT, "client");
    for (from, to, name) in [
        (&world.client, &world.near, "near"),
        (&world.client, &world.far, "far"),
        (&world.far, &world.client, "client"),
    ] {
        assert_eq!(answer(from.connect(to.at6(PORT))), name);
        // What the other family does is no other's business.
        let ipv4 = to.serve_tcp(PORT + 1, name);
        assert_eq!(answer(from.connect(to.at(PORT + 1))), name);
        drop(ipv4);
    }
    drop(back);
}

#[test]
fn much_data_fits_through_the_tunnel() {
    let world = world();
    for to in [&world.near, &world.far] {
        let stream = world.client.connect(to.at6(PORT)).expect("a connection");
        bulk(stream);
    }
}

#[test]
fn a_node_reaches_pods_here_and_elsewhere_and_pods_reach_their_node() {
    let world = world();
    let node = &world.lab.nodes[0];
    for (pod, name) in [(&world.near, "near"), (&world.far, "far")] {
        let stream = node.connect(pod.at6(PORT)).expect("a connection");
        assert_eq!(ask(&stream).unwrap(), name);
        assert_eq!(stream.local_addr().unwrap().ip(), node.router_address6());
    }
    let of_node = |address: IpAddr, name: &str| {
        let socket = socket_in(&node.netns, None, libc::AF_INET6, libc::SOCK_STREAM);
        TcpServer::start(socket, SocketAddr::new(address, PORT), name)
    };
    let underlay = node.underlay_addresses()[1];
    let _listening = [of_node(node.router_address6(), "router"), of_node(underlay, "underlay")];
    let router = SocketAddr::new(node.router_address6(), PORT);
    assert_eq!(answer(world.client.connect(router)), "router");
    assert_eq!(
        answer(world.client.connect(SocketAddr::new(underlay, PORT))),
        "underlay"
    );
    assert_eq!(answer(world.far.connect(router)), "router", "through the tunnel");
}

#[test]
fn a_virtual_address_leads_to_pods_at_the_socket_and_packet_by_packet() {
    let world = world();
    for (server, name) in [(&world.near, "near"), (&world.far, "far")] {
        world
            .lab
            .serve(&[tcp_service(vip(), PORT, &[server]), udp_service(vip(), PORT, &[server])]);
        let hooked = world.client.connect(vip());
        assert_eq!(hooked.as_ref().unwrap().peer_addr().unwrap(), vip());
        assert_eq!(answer(hooked), name);
        assert_eq!(answer(world.client.connect_unhooked(vip())), name);
        let node = &world.lab.nodes[0];
        assert_eq!(answer(node.connect(vip())), name);
        for socket in [
            world.client.socket(libc::AF_INET6, libc::SOCK_DGRAM),
            world.client.unhooked_socket(libc::AF_INET6, libc::SOCK_DGRAM),
        ] {
            let socket = UdpSocket::from(socket);
            socket.send_to(b"who", vip()).expect("sent");
            let mut buffer = [0; 16];
            let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
            assert_eq!((&buffer[..length], from), (name.as_bytes(), vip()));
        }
        bulk(world.client.connect_unhooked(vip()).expect("a connection"));
    }
}

#[test]
fn a_virtual_address_without_backends_refuses() {
    let world = world();
    world.lab.serve(&[tcp_service(vip(), PORT, &[])]);
    for refused in [world.client.connect(vip()), world.client.connect_unhooked(vip())] {
        let error = refused.expect_err("no backend");
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
    }
}

#[test]
fn a_pod_reaches_itself_through_its_own_virtual_address() {
    let world = world();
    world.lab.serve(&[tcp_service(vip(), PORT, &[&world.near])]);
    assert_eq!(answer(world.near.connect(vip())), "near");
    assert_eq!(answer(world.near.connect_unhooked(vip())), "near");
}

fn drops(node: &Node, reason: DropReason) -> u64 {
    let drops = node.datapath().drops().expect("the counters");
    let found = drops.iter().find(|(other, _)| *other == reason);
    found.expect("every reason").1.packets
}

#[test]
fn a_pod_that_lies_about_its_address_is_not_heard() {
    let world = world();
    let false_ones = ["fd00:244:0:1::99", "fd00:244:0:2::2", "2001:db8::1"];
    for text in false_ones {
        let address: IpAddr = text.parse().unwrap();
        let status = world.client.netns.run(|| {
            let eth0 = [
                "-6",
                "address",
                "add",
                &format!("{address}/128"),
                "dev",
                "eth0",
                "nodad",
            ];
            Command::new("ip").args(eth0).status()
        });
        assert!(status.expect("ip").success());
        let before = drops(&world.lab.nodes[0], DropReason::SourceAddressNotPods);
        let socket = bound(world.client.socket(libc::AF_INET6, libc::SOCK_STREAM), address);
        let error = connect(socket, world.near.at6(PORT)).expect_err("silence");
        assert_ne!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
        let after = drops(&world.lab.nodes[0], DropReason::SourceAddressNotPods);
        assert!(after > before, "{text}: {before} then {after}");
    }
}

fn bound(socket: OwnedFd, address: IpAddr) -> OwnedFd {
    let source = SockaddrStorage::from(SocketAddr::new(address, 0));
    bind(socket.as_raw_fd(), &source).expect("a source");
    socket
}

#[test]
fn ping_gets_its_answers() {
    let world = world();
    let node = &world.lab.nodes[0];
    let targets = [
        world.near.at6(0).ip(),
        world.far.at6(0).ip(),
        node.router_address6(),
        node.underlay_addresses()[1],
    ];
    for to in targets {
        // The last one is larger than what a frame takes.
        for size in ["56", "1400", "3000"] {
            let output = world.client.netns.run(|| {
                let arguments = ["ping6", "-c", "1", "-W", "5", "-s", size, &to.to_string()];
                Command::new("busybox").args(arguments).output()
            });
            let output = output.expect("busybox");
            assert!(output.status.success(), "ping {to} with {size} bytes: {output:?}");
        }
    }
}

#[test]
fn pods_have_the_addresses_they_are_given_at_once_and_no_others() {
    let mut lab = lab(1);
    let pod = lab.nodes[0].add_pod(2);
    // Address, index, prefix length, scope, flags, name (net/ipv6/addrconf.c, `if6_seq_show`).
    let table = pod
        .netns
        .run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"));
    let table = table.expect("the table of IPv6 addresses");
    let of_eth0: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|columns: &Vec<&str>| columns[5] == "eth0")
        .collect();
    assert_eq!(of_eth0.len(), 1, "{table}");
    assert_eq!(of_eth0[0][0], "fd000244000000010000000000000002");
    let tentative = u32::from_str_radix(of_eth0[0][4], 16).unwrap() & libc::IFA_F_TENTATIVE;
    assert_eq!((of_eth0[0][2], tentative), ("80", 0));
    let mtu = pod
        .netns
        .run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/mtu"));
    assert_eq!(mtu.unwrap().trim(), "1450");
}

#[test]
fn attaching_again_changes_nothing() {
    let world = world();
    let node = &world.lab.nodes[0];
    for pod in [&world.client, &world.near] {
        let again = node
            .netns
            .block_on(|| async { Network::new()?.attach_pod(&pod.net).await });
        assert_eq!(again.expect("the same network"), pod.link);
    }
    assert_eq!(answer(world.client.connect(world.near.at6(PORT))), "near");
}

#[test]
fn the_network_reaches_services_at_a_node_and_pods_reach_the_network() {
    let world = world();
    let outsider = world.lab.outsider(200);
    for (server, name) in [(&world.near, "near"), (&world.far, "far")] {
        let node = &world.lab.nodes[0];
        let at = SocketAddr::new(node.underlay_addresses()[1], NODE_PORT);
        world.lab.serve(&[also_at(
            tcp_service(vip(), PORT, &[server]),
            at,
            &[Scope::External, Scope::Cluster],
        )]);
        assert_eq!(answer(outsider.connect(at)), name);
        bulk(outsider.connect(at).expect("a connection"));
        assert_eq!(answer(world.client.connect(at)), name);
    }
    let socket = socket_in(&outsider.netns, None, libc::AF_INET6, libc::SOCK_STREAM);
    let outside = SocketAddr::new(outsider.address6, PORT);
    let listener = listening(socket, outside);
    let stream = world.client.connect(outside).expect("a connection");
    let (_, from) = listener.accept().expect("a client");
    let node = world.lab.nodes[0].underlay_addresses()[1];
    assert_eq!(from.ip(), node, "hidden behind the node's address");
    drop(stream);
}

fn listening(socket: OwnedFd, at: SocketAddr) -> std::net::TcpListener {
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at)).expect("an address");
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::MAXCONN).expect("a listening socket");
    socket.into()
}

#[test]
fn a_node_that_leaves_leaves_no_routes() {
    let mut lab = lab(1);
    let _pod = lab.nodes[0].add_pod(2);
    let node = &lab.nodes[0];
    let routes = || {
        let output = node
            .netns
            .run(|| Command::new("ip").args(["-6", "route", "show"]).output());
        String::from_utf8(output.expect("ip").stdout).expect("text")
    };
    assert!(routes().contains("fd00:244:"), "{}", routes());
    let errors = node.netns.block_on(|| async {
        let network = Network::new().expect("a netlink socket");
        network.remove_node(node.uplink(), &node.ranges()).await
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert!(!routes().contains("fd00:244:"), "{}", routes());
}
