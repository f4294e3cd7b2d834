//! Packets that have no ports of their own but belong to a flow: later fragments, and ICMP errors.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use causeway_abi::service::SCOPE_NODE;
use causeway_tests::packet::{
    CLIENT_IFINDEX, Datapath, Decoded, Frame, ServiceOptions, Verdict, decode, internet_checksum, one_hop_later, tcp,
};

const UDP: u8 = 17;
const TCP: u8 = 6;
const CLIENT: &str = "10.244.1.5:40000";
const VIP: &str = "10.96.0.10:53";
const BACKEND: &str = "10.244.1.6:5353";

/// A node with a client pod and a backend pod, and a service of each family.
fn node() -> Result<Datapath> {
    let mut datapath = Datapath::load()?;
    for pod in ["10.244.1.5", "10.244.1.6", "fd00:1::5", "fd00:1::6"] {
        datapath.pod(pod, CLIENT_IFINDEX)?;
    }
    datapath.route("10.244.2.0", 24, "172.30.0.12")?;
    datapath.backend(0, BACKEND)?;
    datapath.backend(1, "[fd00:1::6]:5353")?;
    datapath.service(VIP, UDP, &[0])?;
    datapath.service("[fd00:96::10]:53", UDP, &[1])?;
    Ok(datapath)
}

fn run(datapath: &Datapath, program: &str, frame: &Frame) -> Result<Decoded> {
    let out = datapath.run(program, &frame.build())?;
    assert_eq!(out.verdict, Verdict::Redirect, "{:?}", decode(&out.frame));
    Ok(decode(&out.frame))
}

/// Source and destination of the packet that an ICMP error quotes; its header checksum is verified.
fn quoted(message: &Decoded) -> (SocketAddr, SocketAddr) {
    let packet = &message.payload[8..];
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if packet[0] >> 4 == 4 {
        assert_eq!(internet_checksum(&[&packet[..20]]), 0, "{packet:02x?}");
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four bytes"));
        (
            SocketAddr::new(address(12), port(20)),
            SocketAddr::new(address(16), port(22)),
        )
    } else {
        let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen bytes"));
        (
            SocketAddr::new(address(8), port(40)),
            SocketAddr::new(address(24), port(42)),
        )
    }
}

fn parsed(source: &str, destination: &str) -> (SocketAddr, SocketAddr) {
    let parse = |text: &str| text.parse().expect("a socket address");
    (parse(source), parse(destination))
}

/// An ICMP error about a packet: its IP header and what follows, cut to 8 bytes as the oldest routers do.
fn error_about(from: &str, to: &str, kind: u8, code: u8, about: &Frame) -> Frame {
    let frame = about.build();
    let header = if frame[14] >> 4 == 4 { 20 } else { 40 };
    let mut rest = vec![0, 0, 0x05, 0x78];
    rest.extend(&frame[14..14 + header + 8]);
    Frame::icmp(from, to, kind, code, &rest)
}

#[test]
fn the_fragments_of_a_datagram_reach_one_backend_and_its_answer_comes_back_whole() -> Result<()> {
    let datapath = node()?;
    let first = run(
        &datapath,
        "cw_from_pod",
        &Frame::udp(CLIENT, VIP).payload(&[7; 16]).fragment(0x2000),
    )?;
    assert_eq!(first.destination.to_string(), BACKEND);
    let later = Frame::raw("10.244.1.5", "10.96.0.10", UDP, &[7; 32]).fragment(3);
    let later = run(&datapath, "cw_from_pod", &later)?;
    assert_eq!(
        (later.source.ip().to_string(), later.destination.ip().to_string()),
        ("10.244.1.5".to_owned(), "10.244.1.6".to_owned())
    );
    // The answer, in two pieces as well.
    let client = first.source.to_string();
    let first = run(
        &datapath,
        "cw_from_pod",
        &Frame::udp(BACKEND, &client).payload(&[8; 16]).fragment(0x2000),
    )?;
    assert_eq!(first.path(), format!("{VIP} > {CLIENT}"));
    let later = Frame::raw("10.244.1.6", "10.244.1.5", UDP, &[8; 32]).fragment(3);
    let later = run(&datapath, "cw_from_pod", &later)?;
    assert_eq!(
        (later.source.ip().to_string(), later.destination.ip().to_string()),
        ("10.96.0.10".to_owned(), "10.244.1.5".to_owned())
    );
    Ok(())
}

#[test]
fn ipv6_fragments_follow_their_first_too() -> Result<()> {
    let datapath = node()?;
    let (client, vip) = ("[fd00:1::5]:40000", "[fd00:96::10]:53");
    let first = run(
        &datapath,
        "cw_from_pod",
        &Frame::udp(client, vip).payload(&[7; 16]).fragment_v6(1),
    )?;
    assert_eq!(first.destination.to_string(), "[fd00:1::6]:5353");
    let later = Frame::raw("fd00:1::5", "fd00:96::10", UDP, &[7; 32]).fragment_v6(24);
    let later = run(&datapath, "cw_from_pod", &later)?;
    assert_eq!(later.destination.ip().to_string(), "fd00:1::6");
    Ok(())
}

#[test]
fn fragments_between_pods_are_left_as_they_are() -> Result<()> {
    let datapath = node()?;
    for (field, payload) in [(0x2000, &[7; 16][..]), (3, &[7; 32][..])] {
        let frame = Frame::raw(
            "10.244.1.5",
            "10.244.1.6",
            UDP,
            &[&[0x9c, 0x40, 0, 53, 0, 56, 0, 0], payload].concat(),
        );
        let out = run(&datapath, "cw_from_pod", &frame.fragment(field))?;
        assert_eq!(out.destination.ip().to_string(), "10.244.1.6");
    }
    Ok(())
}

#[test]
fn a_backends_error_reaches_the_client_as_one_about_the_vip() -> Result<()> {
    let datapath = node()?;
    let there = run(&datapath, "cw_from_pod", &Frame::udp(CLIENT, VIP).payload(b"question"))?;
    let seen = there.source.to_string();
    let about = Frame::udp(&seen, BACKEND).payload(b"question");
    let error = error_about("10.244.1.6", "10.244.1.5", 3, 3, &about);
    let message = run(&datapath, "cw_from_pod", &error)?;
    assert_eq!(
        (message.source.ip().to_string(), message.destination.ip().to_string()),
        ("10.96.0.10".to_owned(), "10.244.1.5".to_owned())
    );
    assert_eq!(quoted(&message), parsed(CLIENT, VIP));
    assert_eq!(message.to_mac, [2, 0, 0, 0, 1, 5]);

    let about = Frame::udp("[fd00:1::5]:40000", "[fd00:96::10]:53").payload(b"question");
    let there = run(&datapath, "cw_from_pod", &about)?;
    let about = Frame::udp(&there.source.to_string(), "[fd00:1::6]:5353").payload(b"question");
    let message = run(
        &datapath,
        "cw_from_pod",
        &error_about("fd00:1::6", "fd00:1::5", 1, 4, &about),
    )?;
    assert_eq!(message.source.ip().to_string(), "fd00:96::10");
    assert_eq!(quoted(&message), parsed("[fd00:1::5]:40000", "[fd00:96::10]:53"));
    Ok(())
}

#[test]
fn a_clients_error_reaches_the_backend_as_one_about_its_answer() -> Result<()> {
    let datapath = node()?;
    let there = run(&datapath, "cw_from_pod", &Frame::udp(CLIENT, VIP).payload(b"question"))?;
    let about = Frame::udp(VIP, CLIENT).payload(b"the answer");
    let message = run(
        &datapath,
        "cw_from_pod",
        &error_about("10.244.1.5", "10.96.0.10", 3, 3, &about),
    )?;
    assert_eq!(
        (message.source.ip().to_string(), message.destination.ip().to_string()),
        ("10.244.1.5".to_owned(), "10.244.1.6".to_owned())
    );
    assert_eq!(quoted(&message), parsed(BACKEND, &there.source.to_string()));
    Ok(())
}

#[test]
fn a_router_that_asks_for_smaller_packets_is_heard_in_its_own_name() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(2, "10.244.2.9:8080")?;
    datapath.service("10.96.0.11:80", TCP, &[2])?;
    let there = run(&datapath, "cw_from_pod", &Frame::tcp(CLIENT, "10.96.0.11:80", tcp::SYN))?;
    let about = Frame::tcp(&there.source.to_string(), "10.244.2.9:8080", tcp::ACK).payload(&[1; 1400]);
    let message = run(
        &datapath,
        "cw_from_tunnel",
        &error_about("10.244.2.1", "10.244.1.5", 3, 4, &about),
    )?;
    assert_eq!(
        (message.source.ip().to_string(), message.destination.ip().to_string()),
        ("10.244.2.1".to_owned(), "10.244.1.5".to_owned())
    );
    assert_eq!(quoted(&message), parsed(CLIENT, "10.96.0.11:80"));
    // The size it asks for is untouched.
    assert_eq!(message.payload[6..8], [0x05, 0x78]);
    Ok(())
}

#[test]
fn errors_about_what_left_behind_the_nodes_address_find_the_pod() -> Result<()> {
    let datapath = node()?;
    let world = "198.51.100.1:443";
    let out = datapath.run("cw_to_uplink", &Frame::tcp(CLIENT, world, tcp::SYN).build())?;
    let there = decode(&out.frame);
    let about = Frame::tcp(&there.source.to_string(), world, tcp::ACK).payload(&[1; 64]);
    let message = run(
        &datapath,
        "cw_from_uplink",
        &error_about("203.0.113.9", "172.30.0.11", 11, 0, &about),
    )?;
    assert_eq!(
        (message.source.ip().to_string(), message.destination.ip().to_string()),
        ("203.0.113.9".to_owned(), "10.244.1.5".to_owned())
    );
    assert_eq!(quoted(&message), parsed(CLIENT, world));
    Ok(())
}

#[test]
fn a_machine_outside_hears_of_errors_as_ones_about_the_node_port() -> Result<()> {
    let mut datapath = node()?;
    let (outside, node_port) = ("192.0.2.7:40000", "172.30.0.11:30053");
    let options = ServiceOptions {
        scope: SCOPE_NODE,
        ..ServiceOptions::default()
    };
    datapath.service_with(node_port, UDP, &[0], options)?;
    let there = run(
        &datapath,
        "cw_from_uplink",
        &Frame::udp(outside, node_port).payload(b"question"),
    )?;
    let about = Frame::udp(&there.source.to_string(), BACKEND).payload(b"question");
    let message = run(
        &datapath,
        "cw_from_pod",
        &error_about("10.244.1.6", "192.0.2.7", 3, 3, &about),
    )?;
    assert_eq!(message.source.ip().to_string(), "172.30.0.11");
    assert_eq!(quoted(&message), parsed(outside, node_port));
    Ok(())
}

/// Services whose backends listen in the node's own network: who asks (from the network, and a pod), and the backend.
const HOSTED: [[&str; 4]; 2] = [
    [
        "192.0.2.7:40000",
        "10.244.1.5:40000",
        "203.0.113.50:53",
        "172.30.0.11:5353",
    ],
    [
        "[2001:db8::7]:40000",
        "[fd00:1::5]:40000",
        "[2001:db8:50::1]:53",
        "[fd00:172:30::b]:5353",
    ],
];

fn hosting() -> Result<Datapath> {
    let mut datapath = node()?;
    for (number, [_, _, vip, backend]) in (5..).zip(HOSTED) {
        datapath.backend(number, backend)?;
        datapath.service_with(vip, UDP, &[number], ServiceOptions::FROM_NETWORK)?;
        datapath.service(vip, UDP, &[number])?;
    }
    Ok(datapath)
}

fn ip(text: &str) -> String {
    text.parse::<SocketAddr>().expect("an address").ip().to_string()
}

/// A fragment of a datagram, at a multiple of eight bytes.
fn piece(frame: Frame, offset: u16, more: bool) -> Vec<u8> {
    let is_v4 = frame.build()[14] >> 4 == 4;
    let more = u16::from(more);
    if is_v4 {
        frame.fragment((more << 13) | (offset / 8)).build()
    } else {
        frame.fragment_v6(offset | more).build()
    }
}

/// Asks by way of `from`; everything that the node's stack says to that goes by way of `by`.
fn asked(client: &str, vip: &str, backend: &str, from: &str, by: &str) -> Result<()> {
    let datapath = hosting()?;
    let out = datapath.run(from, &Frame::udp(client, vip).payload(b"question").build())?;
    assert_eq!(out.verdict, Verdict::Pass, "{from} leaves it to the stack");
    let there = decode(&out.frame);
    assert_eq!(there.destination.to_string(), backend);
    let seen = there.source.to_string();
    assert_eq!(ip(&seen), ip(client));

    // Nobody listens: the stack says so.
    let about = Frame::udp(&seen, backend).payload(b"question");
    let unreachable = if client.starts_with('[') { (1, 4) } else { (3, 3) };
    let error = error_about(&ip(backend), &ip(client), unreachable.0, unreachable.1, &about);
    let out = datapath.run(by, &error.build())?;
    let message = decode(&out.frame);
    assert_eq!(out.verdict, Verdict::Pass);
    assert_eq!(
        (message.source.ip().to_string(), message.destination.ip().to_string()),
        (ip(vip), ip(client))
    );
    assert_eq!(quoted(&message), parsed(client, vip));

    // An answer in two pieces, and one that is no answer with the same identification: its pieces stay as they are.
    let stranger = backend.replace(":5353", ":5354");
    for (source, shown) in [(backend, vip), (stranger.as_str(), stranger.as_str())] {
        let first = Frame::udp(source, &seen).payload(&[8; 16]);
        let out = datapath.run(by, &piece(first, 0, true))?;
        assert_eq!(
            (out.verdict, decode(&out.frame).source.to_string()),
            (Verdict::Pass, shown.to_owned())
        );
        let later = piece(Frame::raw(&ip(backend), &ip(client), UDP, &[8; 32]), 24, false);
        let out = datapath.run(by, &later)?;
        let message = decode(&out.frame);
        assert_eq!(
            (
                out.verdict,
                message.source.ip().to_string(),
                message.destination.ip().to_string()
            ),
            (Verdict::Pass, ip(shown), ip(client))
        );
        assert_eq!(out.frame == later, source != backend);
    }
    // Nothing of the node's own waits for anything.
    if ip(backend).parse::<std::net::Ipv4Addr>().is_ok() {
        let other = piece(Frame::raw(&ip(backend), "192.0.2.99", UDP, &[8; 32]), 24, false);
        let out = datapath.run(by, &other)?;
        assert_eq!((out.verdict, out.frame), (Verdict::Pass, other));
    }
    assert!(datapath.held()?.is_empty());
    assert_eq!(datapath.all_drops()?, 0);
    Ok(())
}

#[test]
fn what_the_nodes_stack_says_in_pieces_or_in_an_error_comes_from_the_service() -> Result<()> {
    for [outside, pod, vip, backend] in HOSTED {
        asked(outside, vip, backend, "cw_from_uplink", "cw_to_uplink")?;
        asked(pod, vip, backend, "cw_from_pod", "cw_from_host")?;
    }
    Ok(())
}

#[test]
fn answers_of_the_nodes_stack_into_the_tunnel_come_from_the_service() -> Result<()> {
    // A pod elsewhere that was not given its node's address on its way out.
    let [.., vip, backend] = HOSTED[0];
    let client = "10.244.2.9:40000";
    let datapath = hosting()?;
    let there = datapath.run("cw_from_uplink", &Frame::udp(client, vip).payload(b"question").build())?;
    assert_eq!(decode(&there.frame).path(), format!("{client} > {backend}"));
    let answer = Frame::udp(backend, client).payload(b"answer").build();
    let out = datapath.run("cw_to_tunnel", &answer)?;
    assert_eq!(
        (out.verdict, decode(&out.frame).path()),
        (Verdict::Pass, format!("{vip} > {client}"))
    );
    // What the node says as itself stays.
    let own = Frame::udp("10.244.1.1:5353", client).payload(b"answer").build();
    let out = datapath.run("cw_to_tunnel", &own)?;
    assert_eq!((out.verdict, out.frame), (Verdict::Pass, own));
    Ok(())
}

#[test]
fn the_stacks_errors_about_others_packets_stay_as_they_are() -> Result<()> {
    let datapath = hosting()?;
    let about = Frame::udp("192.0.2.7:9", "172.30.0.11:9").payload(b"question");
    let error = error_about("172.30.0.11", "192.0.2.7", 3, 3, &about).build();
    let out = datapath.run("cw_to_uplink", &error)?;
    assert_eq!((out.verdict, out.frame), (Verdict::Pass, error));
    Ok(())
}

#[test]
fn errors_about_strangers_are_delivered_as_they_are() -> Result<()> {
    let datapath = node()?;
    let about = Frame::udp("10.244.1.5:1", "10.244.1.6:2").payload(b"question");
    let frame = error_about("10.244.1.6", "10.244.1.5", 3, 3, &about);
    let out = datapath.run("cw_from_pod", &frame.build())?;
    assert_eq!(out.frame[14..], one_hop_later(&frame.build()));
    // A message that quotes too little to tell.
    let short = Frame::icmp("10.244.1.6", "10.244.1.5", 3, 3, &[0, 0, 0, 0, 0x45, 0]);
    assert_eq!(datapath.run("cw_from_pod", &short.build())?.verdict, Verdict::Redirect);
    Ok(())
}
