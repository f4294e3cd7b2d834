//! Explanations against what really happens: the packet that is tried out, and then the same one sent.

use std::{
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
};

use causeway_agent::bpf::{Scope, XdpAttachment};
use causeway_maps::{
    Protocol,
    dry_run::{self, DryRunError, Probe},
    view::{self, ExplainView, NextHop, Origin},
};
use causeway_tests::netns::{Lab, Node, Pod, Settings, ask, connect, tcp_service};

const PORT: u16 = 8080;

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

fn try_out(node: &Node, probe: Probe) -> Result<ExplainView, DryRunError> {
    node.netns.run(|| dry_run::explain(&mut node.maps(), &probe))
}

fn explain(node: &Node, source: SocketAddr, destination: SocketAddr) -> ExplainView {
    let probe = Probe {
        source,
        destination,
        protocol: Protocol::TCP,
    };
    try_out(node, probe).expect("an explanation")
}

/// Connects past the socket hooks from one port.
fn connect_from(pod: &Pod, port: u16, to: SocketAddr) -> TcpStream {
    let socket: OwnedFd = pod.unhooked_socket(libc::AF_INET, libc::SOCK_STREAM);
    let address = nix::sys::socket::SockaddrIn::new(0, 0, 0, 0, port);
    nix::sys::socket::bind(socket.as_raw_fd(), &address).expect("the port");
    connect(socket, to).expect("a connection")
}

#[test]
fn the_backend_foretold_is_the_one_that_answers() {
    let mut lab = Lab::pair();
    let client = lab.nodes[0].add_pod(2);
    let (near, far) = (lab.nodes[0].add_pod(3), lab.nodes[1].add_pod(3));
    let _listening = [near.serve_tcp(PORT, "near"), far.serve_tcp(PORT, "far")];
    lab.serve(&[tcp_service(vip(), PORT, &[&near, &far])]);
    let node = &lab.nodes[0];
    let mut seen = std::collections::BTreeSet::new();
    for port in 42_000..42_016 {
        let foretold = explain(node, SocketAddr::new(client.address, port), vip());
        assert_eq!(foretold.choice.as_deref(), Some("maglev"), "{foretold:?}");
        assert_eq!((foretold.origin, &*foretold.reason), (Origin::Pod, ""));
        let name = match &foretold.next_hop {
            NextHop::Pod { address, .. } => {
                assert_eq!(*address, near.address.to_string());
                "near"
            }
            NextHop::Node { address, tunnel_id, .. } => {
                assert_eq!(
                    (address.clone(), *tunnel_id),
                    (lab.nodes[1].underlay_address().to_string(), 1)
                );
                "far"
            }
            other => panic!("{other:?}"),
        };
        let backend = foretold.translated_destination.expect("a backend");
        assert_eq!(
            backend,
            if name == "near" { near.at(PORT) } else { far.at(PORT) }.to_string()
        );
        // Left nothing behind that would bind the flow or be counted.
        assert!(
            !flows(node).iter().any(|flow| flow.ends_with(&format!(":{port}"))),
            "port {port}"
        );
        let answer = ask(&connect_from(&client, port, vip())).expect("an answer");
        assert_eq!(answer, name, "port {port}");
        seen.insert(answer);
        let again = explain(node, SocketAddr::new(client.address, port), vip());
        assert_eq!(again.translated_destination, Some(backend));
    }
    assert_eq!(seen.len(), 2, "both backends were foretold: {seen:?}");
}

fn flows(node: &Node) -> Vec<String> {
    let flows = view::flows(&node.maps()).expect("the flows");
    flows.into_iter().map(|flow| flow.source).collect()
}

#[test]
fn a_flow_that_is_known_stays_with_its_backend() {
    let mut lab = Lab::single();
    let (client, server) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    let _listening = server.serve_tcp(PORT, "a");
    lab.serve(&[tcp_service(vip(), PORT, &[&server])]);
    let stream = connect_from(&client, 42_000, vip());
    assert_eq!(ask(&stream).expect("an answer"), "a");
    let view = explain(&lab.nodes[0], SocketAddr::new(client.address, 42_000), vip());
    // A new SYN of a known flow may begin it anew, but never elsewhere without a reason.
    assert!(
        matches!(view.choice.as_deref(), Some("conntrack" | "maglev")),
        "{view:?}"
    );
    assert_eq!(view.backend.expect("a backend").address, "10.244.1.3:8080/TCP");
}

#[test]
fn refusals_and_drops_have_their_reason_and_are_not_counted() {
    let mut lab = Lab::single();
    let client = lab.nodes[0].add_pod(2);
    lab.serve(&[tcp_service(vip(), PORT, &[])]);
    let node = &lab.nodes[0];
    let before = view::drops(&node.maps()).expect("the drops");
    let refused = explain(node, SocketAddr::new(client.address, 42_000), vip());
    assert_eq!((&*refused.verdict, &*refused.reason), ("refuse", "NO_READY_BACKEND"));
    assert_eq!(refused.next_hop, NextHop::None);
    assert_eq!(refused.service.expect("the service").name, "default/test:80");
    assert_eq!(view::drops(&node.maps()).expect("the drops"), before);
    let services = view::services(&node.maps()).expect("the services");
    assert_eq!((services[0].connections, services[0].drops), (0, 0));
    assert_eq!(flows(node), [""; 0]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let lab = Lab::single();
    let mixed = Probe {
        source: "10.244.1.2:1".parse().unwrap(),
        destination: "[fd00::1]:80".parse().unwrap(),
        protocol: Protocol::TCP,
    };
    assert!(matches!(
        try_out(&lab.nodes[0], mixed),
        Err(DryRunError::Families { .. })
    ));
    let icmp = Probe {
        destination: vip(),
        protocol: Protocol(1),
        ..mixed
    };
    assert!(matches!(try_out(&lab.nodes[0], icmp), Err(DryRunError::Protocol(_))));
}

#[test]
fn what_goes_directly_is_told_with_its_node() {
    let mut lab = Lab::new(Settings {
        nodes: 2,
        xdp: Some(XdpAttachment::Native),
        direct_return: true,
        ..Settings::default()
    });
    let far = lab.nodes[1].add_pod(3);
    let node_port = SocketAddr::new(lab.nodes[0].underlay_address(), 30_080);
    let mut service = tcp_service(vip(), PORT, &[&far]);
    let mut frontend = service.frontends[0].clone();
    (frontend.vip.address, frontend.vip.port) = (node_port.ip(), node_port.port());
    frontend.scope = Scope::External;
    service.frontends.push(frontend);
    lab.serve(&[service]);
    let told = explain(&lab.nodes[0], SocketAddr::from(([192, 0, 2, 7], 40_000)), node_port);
    assert_eq!(
        (told.origin, &*told.reason, told.choice.as_deref()),
        (Origin::World, "", Some("maglev"))
    );
    assert!(told.xdp, "nothing is told of the program that sees it first");
    assert_eq!((told.translated_source, told.translated_destination), (None, None));
    assert_eq!(
        told.next_hop,
        NextHop::Node {
            address: lab.nodes[1].underlay_address().to_string(),
            tunnel_id: 1,
            direct: true,
        }
    );
    assert_eq!(
        told.backend.expect("a backend").address,
        format!("{}:{PORT}/TCP", far.address)
    );
}
