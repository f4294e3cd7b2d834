//! The pod network without any service.

use std::net::{IpAddr, SocketAddr};

use causeway_agent::net::Network;
use causeway_tests::netns::{Lab, Pod, TcpServer, ask, connect, socket_in};

const PORT: u16 = 8080;

/// A server of a node's own processes.
fn node_server(lab: &Lab, node: usize, address: IpAddr, name: &str) -> TcpServer {
    let socket = socket_in(&lab.nodes[node].netns, None, libc::AF_INET, libc::SOCK_STREAM);
    TcpServer::start(socket, SocketAddr::new(address, PORT), name)
}

fn answers(pod: &Pod, address: IpAddr) -> String {
    ask(&pod.connect(SocketAddr::new(address, PORT)).expect("a connection")).expect("an answer")
}

#[test]
fn pods_reach_each_other_on_one_node_and_across_nodes() {
    let mut lab = Lab::pair();
    let (a, b, c) = (
        lab.nodes[0].add_pod(2),
        lab.nodes[0].add_pod(3),
        lab.nodes[1].add_pod(2),
    );
    let _listening = [a.serve_tcp(PORT, "a"), b.serve_tcp(PORT, "b"), c.serve_tcp(PORT, "c")];
    for (from, to, name) in [(&a, &b, "b"), (&b, &a, "a"), (&a, &c, "c"), (&c, &a, "a")] {
        assert_eq!(answers(from, to.address), name);
    }
}

#[test]
fn a_node_reaches_pods_here_and_elsewhere_and_pods_reach_their_node() {
    let mut lab = Lab::pair();
    let (near, far) = (lab.nodes[0].add_pod(2), lab.nodes[1].add_pod(2));
    let _listening = [near.serve_tcp(PORT, "near"), far.serve_tcp(PORT, "far")];
    for (pod, name) in [(&near, "near"), (&far, "far")] {
        let stream = lab.nodes[0].connect(pod.at(PORT)).expect("a connection");
        assert_eq!(ask(&stream).unwrap(), name);
        assert_eq!(stream.local_addr().unwrap().ip(), lab.nodes[0].router_address());
    }
    let _node = node_server(&lab, 0, lab.nodes[0].router_address(), "node");
    assert_eq!(answers(&near, lab.nodes[0].router_address()), "node");
    let _underlay = node_server(&lab, 0, lab.nodes[0].underlay_address(), "underlay");
    assert_eq!(answers(&near, lab.nodes[0].underlay_address()), "underlay");
    assert_eq!(
        answers(&far, lab.nodes[0].router_address()),
        "node",
        "through the tunnel"
    );
}

#[test]
fn a_pod_that_lies_about_its_address_is_not_heard() {
    let mut lab = Lab::single();
    let (liar, server) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    let _listening = server.serve_tcp(PORT, "a");
    let other: IpAddr = "10.244.1.99".parse().unwrap();
    liar.netns.block_on(|| add_address(other));
    let socket = liar.socket(libc::AF_INET, libc::SOCK_STREAM);
    let source = nix::sys::socket::SockaddrStorage::from(SocketAddr::new(other, 0));
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &source).expect("a false source");
    let error = connect(socket, server.at(PORT)).expect_err("silence");
    assert_ne!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
    let drops = lab.nodes[0].datapath().drops().unwrap();
    let counted = drops
        .iter()
        .find(|(reason, _)| *reason == causeway_abi::DropReason::SourceAddressNotPods)
        .unwrap()
        .1;
    assert!(counted.packets > 0);
}

async fn add_address(address: IpAddr) {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
    tokio::spawn(connection);
    let eth0 = nix::net::if_::if_nametoindex("eth0").expect("eth0");
    handle
        .address()
        .add(eth0, address, 32)
        .execute()
        .await
        .expect("a second address");
}

#[test]
fn attaching_again_changes_nothing() {
    let mut lab = Lab::single();
    let (pod, other) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    let _listening = pod.serve_tcp(PORT, "a");
    let again = lab.nodes[0]
        .netns
        .block_on(|| async { Network::new()?.attach_pod(&pod.net).await });
    assert_eq!(again.expect("the same network"), pod.link);
    assert_eq!(answers(&other, pod.address), "a");
}

#[test]
fn links_left_over_from_another_namespace_are_replaced() {
    let mut lab = Lab::single();
    let pod = lab.nodes[0].add_pod(2);
    // The same pod in a new sandbox, while the old namespace is still there.
    let sandbox = causeway_tests::netns::Netns::new();
    let net = causeway_agent::net::PodNet {
        netns: sandbox.path(),
        ..pod.net.clone()
    };
    let link = lab.nodes[0]
        .netns
        .block_on(|| async { Network::new()?.attach_pod(&net).await })
        .expect("a new pair");
    assert_ne!(link.ifindex, pod.link.ifindex);
    let inside = sandbox.run(|| nix::net::if_::if_nametoindex("eth0"));
    assert!(inside.is_ok(), "{inside:?}");
    let old = pod.netns.run(|| nix::net::if_::if_nametoindex("eth0"));
    assert!(old.is_err(), "the old pair is gone");
}

#[test]
fn what_was_attached_is_listed_and_goes() {
    let mut lab = Lab::single();
    let pod = lab.nodes[0].add_pod(2);
    let name = pod.net.host_link.clone();
    let listed = lab.nodes[0]
        .netns
        .block_on(|| async { Network::new()?.pod_links().await });
    assert_eq!(listed.expect("a list"), [name.as_str()]);
    for _ in 0..2 {
        let gone = lab.nodes[0]
            .netns
            .block_on(|| async { Network::new()?.detach_pod(&name).await });
        gone.expect("gone, also when it is gone already");
    }
    let listed = lab.nodes[0]
        .netns
        .block_on(|| async { Network::new()?.pod_links().await });
    assert!(listed.expect("a list").is_empty());
}

#[test]
fn a_node_that_leaves_leaves_nothing() {
    let mut lab = Lab::single();
    let _pod = lab.nodes[0].add_pod(2);
    let node = &lab.nodes[0];
    for _ in 0..2 {
        let errors = node.netns.block_on(|| async {
            let network = Network::new().expect("a netlink socket");
            network.remove_node(node.uplink(), &node.ranges()).await
        });
        assert!(errors.is_empty(), "{errors:?}");
    }
    let mut names: Vec<_> = node.netns.run(|| {
        let links = nix::net::if_::if_nameindex().expect("a list of links");
        links
            .iter()
            .map(|link| link.name().to_string_lossy().into_owned())
            .collect()
    });
    names.sort();
    assert_eq!(names, ["cw-up0", "lo"]);
}
