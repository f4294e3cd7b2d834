//! The network side of a node: node ports and external addresses in, pods' packets out.

use anyhow::Result;
use causeway_abi::{DropReason, conntrack::DIRECTION_FORWARD, service::SERVICE_SOURCE_RANGES};
use causeway_tests::packet::{CLIENT_IFINDEX, Datapath, Frame, ServiceOptions, Verdict, decode, tcp};

const TCP: u8 = 6;
const UDP: u8 = 17;
const NODE_PORT: &str = "172.30.0.11:30080";
const CLIENT: &str = "192.0.2.7:40000";

const FROM_NETWORK: ServiceOptions = ServiceOptions::FROM_NETWORK;

/// A node with one pod, and the route to another node.
fn node() -> Result<Datapath> {
    let mut datapath = Datapath::load()?;
    datapath.pod("10.244.1.6", CLIENT_IFINDEX)?;
    datapath.pod("fd00:1::6", CLIENT_IFINDEX)?;
    datapath.route("10.244.2.0", 24, "172.30.0.12")?;
    Ok(datapath)
}

/// The path of a packet that is sent on.
fn sent(datapath: &Datapath, program: &str, frame: &Frame) -> Result<String> {
    let out = datapath.run(program, &frame.build())?;
    assert_ne!(out.verdict, Verdict::Drop, "{:?}", decode(&frame.build()));
    Ok(decode(&out.frame).path())
}

/// Makes a frame between two ends.
type Maker = fn(&str, &str) -> Frame;

fn makers() -> [(u8, Maker); 2] {
    [
        (TCP, |from, to| Frame::tcp(from, to, tcp::SYN).payload(b"odd")),
        (UDP, |from, to| Frame::udp(from, to).payload(b"question")),
    ]
}

#[test]
fn a_node_port_reaches_a_local_pod_with_the_clients_own_address() -> Result<()> {
    for (protocol, make) in makers() {
        let mut datapath = node()?;
        datapath.backend(0, "10.244.1.6:8080")?;
        let id = datapath.service_with(NODE_PORT, protocol, &[0], FROM_NETWORK)?;
        assert_eq!(
            sent(&datapath, "cw_from_uplink", &make(CLIENT, NODE_PORT))?,
            format!("{CLIENT} > 10.244.1.6:8080")
        );
        let back = datapath.run("cw_from_pod", &make("10.244.1.6:8080", CLIENT).build())?;
        // To the network by way of its neighbour table, not through the stack.
        assert_eq!(back.verdict, Verdict::Redirect);
        assert_eq!(decode(&back.frame).path(), format!("{NODE_PORT} > {CLIENT}"));
        let counters = datapath.counters(id)?;
        assert_eq!((counters.connections, counters.packets), (1, 2));
    }
    Ok(())
}

#[test]
fn a_remote_backend_answers_through_the_node_that_was_asked() -> Result<()> {
    for (protocol, make) in makers() {
        let mut datapath = node()?;
        datapath.backend(0, "10.244.2.9:8080")?;
        datapath.service_with(NODE_PORT, protocol, &[0], FROM_NETWORK)?;
        let there = datapath.run("cw_from_uplink", &make(CLIENT, NODE_PORT).build())?;
        assert_eq!(there.verdict, Verdict::Redirect);
        let there = decode(&there.frame);
        assert_eq!(there.destination.to_string(), "10.244.2.9:8080");
        assert_eq!(there.source.ip().to_string(), "10.244.1.1");
        assert!((10_000..30_000).contains(&there.source.port()), "{}", there.source);
        let back = make("10.244.2.9:8080", &there.source.to_string());
        assert_eq!(
            sent(&datapath, "cw_from_tunnel", &back)?,
            format!("{NODE_PORT} > {CLIENT}")
        );
        assert_eq!(datapath.all_drops()?, 0);
    }
    Ok(())
}

#[test]
fn clients_with_the_same_port_stay_apart() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(0, "10.244.2.9:8080")?;
    datapath.service_with(NODE_PORT, TCP, &[0], FROM_NETWORK)?;
    let mut seen = std::collections::BTreeMap::new();
    for host in 1..=200 {
        let client = format!("192.0.2.{host}:40000");
        let out = datapath.run("cw_from_uplink", &Frame::tcp(&client, NODE_PORT, tcp::SYN).build())?;
        let source = decode(&out.frame).source.to_string();
        assert_eq!(seen.insert(source.clone(), client), None, "{source} twice");
    }
    for (source, client) in seen {
        let back = Frame::tcp("10.244.2.9:8080", &source, tcp::SYN | tcp::ACK);
        assert_eq!(
            sent(&datapath, "cw_from_tunnel", &back)?,
            format!("{NODE_PORT} > {client}")
        );
    }
    Ok(())
}

#[test]
fn the_clusters_own_addresses_are_not_served_to_the_network() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(0, "10.244.1.6:8080")?;
    datapath.service("10.96.0.10:80", TCP, &[0])?;
    let frame = Frame::tcp(CLIENT, "10.96.0.10:80", tcp::SYN).build();
    let out = datapath.run("cw_from_uplink", &frame)?;
    assert_eq!((out.verdict, out.frame), (Verdict::Pass, frame));
    Ok(())
}

#[test]
fn only_clients_of_the_source_ranges_are_let_in() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(0, "10.244.1.6:8080")?;
    let options = ServiceOptions {
        flags: SERVICE_SOURCE_RANGES,
        ..FROM_NETWORK
    };
    let id = datapath.service_with(NODE_PORT, TCP, &[0], options)?;
    let other = datapath.service_with("172.30.0.11:30081", TCP, &[0], options)?;
    datapath.source_range(id, "192.0.2.0", 25)?;
    datapath.source_range(other, "198.51.100.0", 24)?;
    let run = |client: &str| datapath.run("cw_from_uplink", &Frame::tcp(client, NODE_PORT, tcp::SYN).build());
    assert_eq!(run("192.0.2.7:40000")?.verdict, Verdict::Redirect);
    assert_eq!(run("192.0.2.200:40000")?.verdict, Verdict::Drop);
    // Another service's range.
    assert_eq!(run("198.51.100.7:40000")?.verdict, Verdict::Drop);
    assert_eq!(datapath.drops(DropReason::SourceNotAllowed)?, 2);
    assert_eq!(datapath.counters(id)?.drops, 2);
    Ok(())
}

#[test]
fn without_a_ready_backend_the_network_is_refused_at_once() -> Result<()> {
    let mut datapath = node()?;
    datapath.service_with(NODE_PORT, TCP, &[], FROM_NETWORK)?;
    datapath.service_with(NODE_PORT, UDP, &[], FROM_NETWORK)?;
    let out = datapath.run("cw_from_uplink", &Frame::tcp(CLIENT, NODE_PORT, tcp::SYN).build())?;
    let answer = decode(&out.frame);
    assert_eq!((out.verdict, answer.flags), (Verdict::Redirect, tcp::RST | tcp::ACK));
    assert_eq!(answer.path(), format!("{NODE_PORT} > {CLIENT}"));
    let out = datapath.run("cw_from_uplink", &Frame::udp(CLIENT, NODE_PORT).build())?;
    assert_eq!((out.verdict, decode(&out.frame).protocol), (Verdict::Redirect, 1));
    assert_eq!(datapath.drops(DropReason::NoReadyBackend)?, 2);
    Ok(())
}

#[test]
fn pods_leave_the_cluster_behind_the_nodes_address() -> Result<()> {
    for (_, make) in makers() {
        let datapath = node()?;
        let (pod, world) = ("10.244.1.6:40000", "198.51.100.1:53");
        let out = datapath.run("cw_to_uplink", &make(pod, world).build())?;
        assert_eq!(out.verdict, Verdict::Pass);
        let there = decode(&out.frame);
        assert_eq!(
            (there.source.ip().to_string(), there.destination.to_string()),
            ("172.30.0.11".to_owned(), world.to_owned())
        );
        assert_eq!(
            sent(&datapath, "cw_to_uplink", &make(pod, world))?,
            there.path(),
            "one flow keeps its port"
        );
        let back = make(world, &there.source.to_string());
        assert_eq!(sent(&datapath, "cw_from_uplink", &back)?, format!("{world} > {pod}"));
        // Somebody else who guesses the port gets no further than the node.
        let stranger = make("198.51.100.2:53", &there.source.to_string()).build();
        assert_eq!(datapath.run("cw_from_uplink", &stranger)?.verdict, Verdict::Pass);
    }
    Ok(())
}

#[test]
fn pods_ping_the_world() -> Result<()> {
    let datapath = node()?;
    let echo = |from: &str, to: &str, kind: u8, identifier: [u8; 2]| {
        let [high, low] = identifier;
        Frame::icmp(from, to, kind, 0, &[high, low, 0, 1, b'p', b'i', b'n', b'g'])
    };
    let out = datapath.run(
        "cw_to_uplink",
        &echo("10.244.1.6", "198.51.100.1", 8, [0x12, 0x34]).build(),
    )?;
    let there = decode(&out.frame);
    assert_eq!(there.source.ip().to_string(), "172.30.0.11");
    let identifier = [there.payload[4], there.payload[5]];
    let back = echo("198.51.100.1", "172.30.0.11", 0, identifier).build();
    let out = datapath.run("cw_from_uplink", &back)?;
    let back = decode(&out.frame);
    assert_eq!(out.verdict, Verdict::Redirect);
    assert_eq!(back.destination.ip().to_string(), "10.244.1.6");
    assert_eq!(back.payload[4..6], [0x12, 0x34]);
    Ok(())
}

#[test]
fn what_the_network_can_route_keeps_its_address() -> Result<()> {
    let mut datapath = node()?;
    datapath.native_route("198.51.100.0", 24)?;
    for (from, to) in [
        ("10.244.1.6:40000", "198.51.100.1:80"),
        ("10.244.1.6:40000", "10.244.2.9:80"),
        // The node's own.
        ("172.30.0.11:40000", "203.0.113.1:80"),
    ] {
        assert_eq!(
            sent(&datapath, "cw_to_uplink", &Frame::tcp(from, to, tcp::SYN))?,
            format!("{from} > {to}")
        );
    }
    assert!(datapath.flows("CONNTRACK_NEW")?.is_empty());
    Ok(())
}

#[test]
fn a_protocol_without_ports_cannot_hide_behind_the_node() -> Result<()> {
    let datapath = node()?;
    let out = datapath.run(
        "cw_to_uplink",
        &Frame::raw("10.244.1.6", "198.51.100.1", 47, b"gre").build(),
    )?;
    assert_eq!(out.verdict, Verdict::Drop);
    assert_eq!(datapath.drops(DropReason::NotMasqueradable)?, 1);
    Ok(())
}

#[test]
fn a_pods_packet_from_the_network_is_handed_to_it() -> Result<()> {
    let datapath = node()?;
    for (from, to) in [(CLIENT, "10.244.1.6:80"), ("[2001:db8::7]:40000", "[fd00:1::6]:80")] {
        let out = datapath.run("cw_from_uplink", &Frame::tcp(from, to, tcp::SYN).build())?;
        assert_eq!(out.verdict, Verdict::Redirect);
        assert_eq!(decode(&out.frame).to_mac, [2, 0, 0, 0, 1, 6]);
    }
    Ok(())
}

#[test]
fn a_flow_of_the_network_is_one_of_the_connection_table() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(0, "10.244.1.6:8080")?;
    datapath.service_with(NODE_PORT, TCP, &[0], FROM_NETWORK)?;
    sent(&datapath, "cw_from_uplink", &Frame::tcp(CLIENT, NODE_PORT, tcp::SYN))?;
    sent(
        &datapath,
        "cw_from_pod",
        &Frame::tcp("10.244.1.6:8080", CLIENT, tcp::SYN | tcp::ACK),
    )?;
    sent(&datapath, "cw_from_uplink", &Frame::tcp(CLIENT, NODE_PORT, tcp::ACK))?;
    let flows = datapath.flows("CONNTRACK")?;
    assert_eq!(flows.len(), 2);
    assert!(flows.iter().any(|(key, _)| key.direction == DIRECTION_FORWARD));
    Ok(())
}
