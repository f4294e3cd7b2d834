//! Per-packet balancing: a VIP's packets reach a backend, its answers come back from the VIP.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Result;
use causeway_abi::DropReason;
use causeway_abi::backend::{IN_USE, READY, TERMINATING};
use causeway_abi::conntrack::{DIRECTION_FORWARD, TCP_ESTABLISHED};
use causeway_tests::packet::{CLIENT_IFINDEX, Datapath, Frame, Verdict, decode, tcp};

const CLIENT: &str = "10.244.1.5";
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A node with a client pod, a pod that is a backend, and the route to another node.
fn node() -> Result<Datapath> {
    let mut datapath = Datapath::load()?;
    datapath.pod(CLIENT, CLIENT_IFINDEX)?;
    datapath.pod("10.244.1.6", 77)?;
    datapath.route("10.244.2.0", 24, "172.30.0.12")?;
    Ok(datapath)
}

fn sent(datapath: &Datapath, frame: &Frame) -> Result<String> {
    let out = datapath.run("cw_from_pod", &frame.build())?;
    assert_eq!(out.verdict, Verdict::Redirect, "{:?}", decode(&out.frame));
    Ok(decode(&out.frame).path())
}

#[test]
fn every_program_loads() -> Result<()> {
    let names = Datapath::load()?.programs().join(" ");
    assert_eq!(
        names,
        "cw_connect4 cw_connect6 cw_from_host cw_from_pod cw_from_tunnel cw_from_uplink cw_getpeername4 cw_getpeername6 cw_recvmsg4 cw_recvmsg6 \
         cw_sendmsg4 cw_sendmsg6 cw_sock_release cw_to_tunnel cw_to_uplink cw_xdp"
    );
    Ok(())
}

#[test]
fn a_packet_for_a_vip_goes_to_a_backend_and_the_answer_comes_from_the_vip() -> Result<()> {
    let tcp: fn(&str, &str) -> Frame = |from, to| Frame::tcp(from, to, tcp::SYN).payload(b"odd");
    let udp: fn(&str, &str) -> Frame = |from, to| Frame::udp(from, to).payload(b"question");
    for (protocol, make) in [(TCP, tcp), (UDP, udp)] {
        let mut datapath = node()?;
        datapath.backend(3, "10.244.1.6:8080")?;
        let id = datapath.service("10.96.0.10:80", protocol, &[3])?;

        let out = datapath.run("cw_from_pod", &make("10.244.1.5:40000", "10.96.0.10:80").build())?;
        assert_eq!(out.verdict, Verdict::Redirect);
        let there = decode(&out.frame);
        assert_eq!(there.path(), "10.244.1.5:8256 > 10.244.1.6:8080");
        assert_eq!((there.to_mac, there.from_mac), ([2, 0, 0, 0, 1, 6], [2, 0, 0, 0, 2, 6]));

        // Test runs come in on one interface, so the backend's pod moves there to answer.
        datapath.pod("10.244.1.6", CLIENT_IFINDEX)?;
        let out = datapath.run("cw_from_pod", &make("10.244.1.6:8080", "10.244.1.5:8256").build())?;
        assert_eq!(out.verdict, Verdict::Redirect);
        let back = decode(&out.frame);
        assert_eq!(back.path(), "10.96.0.10:80 > 10.244.1.5:40000");
        assert_eq!(back.to_mac, [2, 0, 0, 0, 1, 5]);

        let counters = datapath.counters(id)?;
        assert_eq!((counters.connections, counters.packets, counters.drops), (1, 2, 0));
        assert_eq!(datapath.all_drops()?, 0);
    }
    Ok(())
}

#[test]
fn ipv6_is_balanced_alike() -> Result<()> {
    let tcp: fn(&str, &str) -> Frame = |from, to| Frame::tcp(from, to, tcp::SYN);
    let udp: fn(&str, &str) -> Frame = |from, to| Frame::udp(from, to).payload(b"odd");
    for (protocol, make) in [(TCP, tcp), (UDP, udp)] {
        let mut datapath = Datapath::load()?;
        datapath.pod("fd00:1::5", CLIENT_IFINDEX)?;
        datapath.pod("fd00:1::6", CLIENT_IFINDEX)?;
        datapath.backend(0, "[fd00:1::6]:8080")?;
        datapath.service("[fd00:96::10]:80", protocol, &[0])?;
        assert_eq!(
            sent(&datapath, &make("[fd00:1::5]:40000", "[fd00:96::10]:80"))?,
            "[fd00:1::5]:8256 > [fd00:1::6]:8080"
        );
        assert_eq!(
            sent(&datapath, &make("[fd00:1::6]:8080", "[fd00:1::5]:8256"))?,
            "[fd00:96::10]:80 > [fd00:1::5]:40000"
        );
    }
    Ok(())
}

#[test]
fn a_flow_keeps_its_backend_and_flows_spread() -> Result<()> {
    let mut datapath = node()?;
    for (index, backend) in ["10.244.2.1:80", "10.244.2.2:80", "10.244.2.3:80"].iter().enumerate() {
        datapath.backend(u32::try_from(index)?, backend)?;
    }
    datapath.service("10.96.0.10:80", TCP, &[0, 1, 2])?;
    let mut spread = BTreeMap::new();
    for port in 40_000..40_300 {
        let frame = Frame::tcp(&format!("{CLIENT}:{port}"), "10.96.0.10:80", tcp::SYN);
        let first = sent(&datapath, &frame)?;
        assert_eq!(first, sent(&datapath, &frame)?);
        *spread.entry(first.split(" > ").nth(1).map(str::to_owned)).or_insert(0) += 1;
    }
    assert_eq!(spread.len(), 3);
    assert!(spread.values().all(|count| (60..=140).contains(count)), "{spread:?}");
    Ok(())
}

#[test]
fn an_unready_backend_gets_no_new_flow_but_keeps_its_old_ones() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(0, "10.244.2.1:80")?;
    datapath.backend(1, "10.244.2.2:80")?;
    datapath.service("10.96.0.10:80", TCP, &[0, 1])?;
    let frame = |port: u16| Frame::tcp(&format!("{CLIENT}:{port}"), "10.96.0.10:80", tcp::SYN);
    let mut before = BTreeMap::new();
    for port in 40_000..40_050 {
        before.insert(port, sent(&datapath, &frame(port))?);
    }
    datapath.backend_with(0, "10.244.2.1:80", IN_USE, 1)?;
    for port in 41_000..41_100 {
        assert!(sent(&datapath, &frame(port))?.ends_with("10.244.2.2:80"));
    }
    for (port, path) in before {
        assert_eq!(sent(&datapath, &frame(port))?, path);
    }
    Ok(())
}

#[test]
fn a_terminating_backend_is_the_last_resort() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend_with(0, "10.244.2.1:80", IN_USE | READY | TERMINATING, 1)?;
    datapath.backend(1, "10.244.2.2:80")?;
    datapath.service("10.96.0.10:80", TCP, &[0, 1])?;
    for port in 40_000..40_050 {
        let frame = Frame::tcp(&format!("{CLIENT}:{port}"), "10.96.0.10:80", tcp::SYN);
        assert!(sent(&datapath, &frame)?.ends_with("10.244.2.2:80"));
    }
    datapath.backend_with(1, "10.244.2.2:80", IN_USE, 1)?;
    let frame = Frame::tcp(&format!("{CLIENT}:41000"), "10.96.0.10:80", tcp::SYN);
    assert!(sent(&datapath, &frame)?.ends_with("10.244.2.1:80"));
    Ok(())
}

#[test]
fn one_ready_backend_among_many_is_found() -> Result<()> {
    let mut datapath = node()?;
    for index in 0..40 {
        let flags = if index == 17 { IN_USE | READY } else { IN_USE };
        datapath.backend_with(index, &format!("10.244.2.{index}:80"), flags, 1)?;
    }
    datapath.service("10.96.0.10:80", UDP, &(0..40).collect::<Vec<_>>())?;
    for port in 40_000..40_050 {
        let frame = Frame::udp(&format!("{CLIENT}:{port}"), "10.96.0.10:80");
        assert!(sent(&datapath, &frame)?.ends_with("10.244.2.17:80"));
    }
    Ok(())
}

#[test]
fn without_a_ready_backend_tcp_is_reset_at_once() -> Result<()> {
    for (client, vip, backend) in [
        ("10.244.1.5:40000", "10.96.0.10:80", "10.244.1.6:80"),
        ("[fd00:1::5]:40000", "[fd00:96::10]:80", "[fd00:1::6]:80"),
    ] {
        let mut datapath = node()?;
        datapath.pod("fd00:1::5", CLIENT_IFINDEX)?;
        datapath.backend_with(0, backend, IN_USE, 1)?;
        let id = datapath.service(vip, TCP, &[0])?;
        let out = datapath.run(
            "cw_from_pod",
            &Frame::tcp(client, vip, tcp::SYN).numbers(7_000, 0).build(),
        )?;
        assert_eq!(out.verdict, Verdict::Redirect);
        let reset = decode(&out.frame);
        assert_eq!(reset.path(), format!("{vip} > {client}"));
        assert_eq!(
            (reset.flags, reset.sequence, reset.acknowledgement),
            (tcp::RST | tcp::ACK, 0, 7_001)
        );
        assert_eq!(
            (reset.to_mac, reset.from_mac),
            ([2, 0, 0, 0, 0, 0xbb], [2, 0, 0, 0, 0, 0xaa])
        );
        assert_eq!(datapath.drops(DropReason::NoReadyBackend)?, 1);
        assert_eq!(datapath.counters(id)?.drops, 1);

        let reset = Frame::tcp(client, vip, tcp::RST).build();
        assert_eq!(
            datapath.run("cw_from_pod", &reset)?.verdict,
            Verdict::Drop,
            "a reset is not answered"
        );
    }
    Ok(())
}

#[test]
fn a_service_without_any_backend_refuses_long_segments_too() -> Result<()> {
    let mut datapath = node()?;
    datapath.service("10.96.0.10:80", TCP, &[])?;
    let frame = Frame::tcp("10.244.1.5:40000", "10.96.0.10:80", tcp::ACK)
        .numbers(7_000, 9_000)
        .payload(&[7; 999]);
    let out = datapath.run("cw_from_pod", &frame.build())?;
    let reset = decode(&out.frame);
    assert_eq!(
        (out.verdict, reset.flags, reset.sequence),
        (Verdict::Redirect, tcp::RST, 9_000)
    );
    assert_eq!(out.frame.len(), 54);
    Ok(())
}

#[test]
fn without_a_ready_backend_udp_gets_port_unreachable_at_once() -> Result<()> {
    for (client, vip, protocol, code) in [
        ("10.244.1.5:40000", "10.96.0.10:53", 1, [3, 3]),
        ("[fd00:1::5]:40000", "[fd00:96::10]:53", 58, [1, 4]),
    ] {
        for payload in [&b""[..], b"a question that is longer than what is quoted"] {
            let mut datapath = node()?;
            datapath.pod("fd00:1::5", CLIENT_IFINDEX)?;
            datapath.service(vip, UDP, &[])?;
            let frame = Frame::udp(client, vip).payload(payload).build();
            let out = datapath.run("cw_from_pod", &frame)?;
            assert_eq!(out.verdict, Verdict::Redirect);
            let error = decode(&out.frame);
            assert_eq!((error.protocol, &error.payload[..2]), (protocol, &code[..]));
            let (client, vip): (SocketAddr, SocketAddr) = (client.parse()?, vip.parse()?);
            assert_eq!((error.source.ip(), error.destination.ip()), (vip.ip(), client.ip()));
            assert_eq!(
                error.payload[8..],
                frame[14..14 + error.payload.len() - 8],
                "the refused packet is quoted"
            );
            assert_eq!(datapath.drops(DropReason::NoReadyBackend)?, 1);
        }
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(0, "10.244.1.5:8080")?;
    datapath.service("10.96.0.10:80", TCP, &[0])?;
    assert_eq!(
        sent(&datapath, &Frame::tcp("10.244.1.5:40000", "10.96.0.10:80", tcp::SYN))?,
        "169.254.1.1:40000 > 10.244.1.5:8080"
    );
    assert_eq!(
        sent(
            &datapath,
            &Frame::tcp("10.244.1.5:8080", "169.254.1.1:40000", tcp::SYN | tcp::ACK)
        )?,
        "10.96.0.10:80 > 10.244.1.5:40000"
    );
    Ok(())
}

#[test]
fn one_client_port_to_two_vips_with_the_same_backend_stays_two_flows() -> Result<()> {
    let mut datapath = node()?;
    datapath.pod("10.244.1.6", CLIENT_IFINDEX)?;
    datapath.backend(0, "10.244.1.6:8080")?;
    datapath.service("10.96.0.10:80", TCP, &[0])?;
    datapath.service("10.96.0.11:80", TCP, &[0])?;
    let client = "10.244.1.5:40000";
    let first = sent(&datapath, &Frame::tcp(client, "10.96.0.10:80", tcp::SYN))?;
    let second = sent(&datapath, &Frame::tcp(client, "10.96.0.11:80", tcp::SYN))?;
    assert_ne!(first, second);
    for (path, vip) in [(first, "10.96.0.10:80"), (second, "10.96.0.11:80")] {
        assert_eq!(
            sent(
                &datapath,
                &Frame::tcp("10.244.1.6:8080", source(&path), tcp::SYN | tcp::ACK)
            )?,
            format!("{vip} > {client}")
        );
    }
    Ok(())
}

/// The client of a path, as the backend sees it.
fn source(path: &str) -> &str {
    path.split(" > ").next().unwrap_or_default()
}

#[test]
fn a_connection_straight_to_a_backend_is_not_taken_for_one_through_the_vip() -> Result<()> {
    let datapath = node_with_backend()?;
    establish(&datapath, 40_000)?;
    // The same client port, as a socket has it whose `connect` was balanced.
    for (from, to) in [
        ("10.244.1.5:40000", "10.244.1.6:8080"),
        ("10.244.1.6:8080", "10.244.1.5:40000"),
    ] {
        assert_eq!(
            sent(&datapath, &Frame::tcp(from, to, tcp::ACK))?,
            format!("{from} > {to}")
        );
    }
    Ok(())
}

/// Lets a client open a connection, the backend answer, and the client go on; the client as the backend sees it.
fn establish(datapath: &Datapath, port: u16) -> Result<String> {
    let client = format!("10.244.1.5:{port}");
    let path = sent(datapath, &Frame::tcp(&client, "10.96.0.10:80", tcp::SYN))?;
    let seen = source(&path).to_owned();
    sent(datapath, &Frame::tcp("10.244.1.6:8080", &seen, tcp::SYN | tcp::ACK))?;
    sent(datapath, &Frame::tcp(&client, "10.96.0.10:80", tcp::ACK))?;
    Ok(seen)
}

fn node_with_backend() -> Result<Datapath> {
    let mut datapath = node()?;
    datapath.pod("10.244.1.6", CLIENT_IFINDEX)?;
    datapath.backend(0, "10.244.1.6:8080")?;
    datapath.service("10.96.0.10:80", TCP, &[0])?;
    Ok(datapath)
}

#[test]
fn a_flow_moves_to_the_established_table_once_both_sides_were_seen() -> Result<()> {
    let datapath = node_with_backend()?;
    sent(&datapath, &Frame::tcp("10.244.1.5:40000", "10.96.0.10:80", tcp::SYN))?;
    assert_eq!(
        (
            datapath.flows("CONNTRACK")?.len(),
            datapath.flows("CONNTRACK_NEW")?.len()
        ),
        (0, 2)
    );
    establish(&datapath, 40_000)?;
    let flows = datapath.flows("CONNTRACK")?;
    assert_eq!((flows.len(), datapath.flows("CONNTRACK_NEW")?.len()), (2, 0));
    assert!(flows.iter().all(|(_, flow)| flow.tcp_state == TCP_ESTABLISHED));
    assert_eq!(
        flows
            .iter()
            .filter(|(key, _)| key.direction == DIRECTION_FORWARD)
            .count(),
        1
    );
    Ok(())
}

#[test]
fn a_flood_of_openings_pushes_out_no_established_flow() -> Result<()> {
    let datapath = node_with_backend()?;
    let mut clients = BTreeMap::new();
    for port in 40_000..40_100 {
        clients.insert(port, establish(&datapath, port)?);
    }
    // Ten times what the table of new flows holds.
    for i in 0..20_480_u32 {
        let port = 1_024 + i % 38_000;
        datapath.run(
            "cw_from_pod",
            &Frame::tcp(&format!("10.244.1.5:{port}"), "10.96.0.10:80", tcp::SYN).build(),
        )?;
    }
    assert_eq!(datapath.flows("CONNTRACK")?.len(), 200);
    for (port, seen) in clients {
        let answer = Frame::tcp("10.244.1.6:8080", &seen, tcp::ACK).payload(b"data");
        assert_eq!(sent(&datapath, &answer)?, format!("10.96.0.10:80 > 10.244.1.5:{port}"));
    }
    Ok(())
}

#[test]
fn when_the_established_table_is_full_flows_are_served_from_the_other() -> Result<()> {
    let mut datapath = Datapath::load_with_conntrack(4)?;
    datapath.pod(CLIENT, CLIENT_IFINDEX)?;
    datapath.pod("10.244.1.6", CLIENT_IFINDEX)?;
    datapath.backend(0, "10.244.1.6:8080")?;
    datapath.service("10.96.0.10:80", TCP, &[0])?;
    let mut clients = BTreeMap::new();
    for port in 40_000..40_010 {
        clients.insert(port, establish(&datapath, port)?);
    }
    assert_eq!(datapath.flows("CONNTRACK")?.len() % 2, 0, "no half is left alone");
    for (port, seen) in clients {
        let answer = Frame::tcp("10.244.1.6:8080", &seen, tcp::ACK);
        assert_eq!(sent(&datapath, &answer)?, format!("10.96.0.10:80 > 10.244.1.5:{port}"));
    }
    Ok(())
}

#[test]
fn a_connection_to_a_backend_that_is_gone_is_reset_and_a_datagram_finds_another() -> Result<()> {
    let mut datapath = node_with_backend()?;
    datapath.service("10.96.0.10:53", UDP, &[0])?;
    establish(&datapath, 40_000)?;
    assert!(sent(&datapath, &Frame::udp("10.244.1.5:40000", "10.96.0.10:53"))?.ends_with("10.244.1.6:8080"));
    // The index now belongs to another backend.
    datapath.backend_with(0, "10.244.2.9:8080", IN_USE | READY, 2)?;
    let out = datapath.run(
        "cw_from_pod",
        &Frame::tcp("10.244.1.5:40000", "10.96.0.10:80", tcp::ACK).build(),
    )?;
    assert_eq!((out.verdict, decode(&out.frame).flags), (Verdict::Redirect, tcp::RST));
    assert_eq!(datapath.drops(DropReason::BackendGone)?, 1);
    assert!(datapath.flows("CONNTRACK")?.is_empty(), "both halves are forgotten");
    assert!(sent(&datapath, &Frame::udp("10.244.1.5:40000", "10.96.0.10:53"))?.ends_with("10.244.2.9:8080"));
    let again = Frame::tcp("10.244.1.5:40000", "10.96.0.10:80", tcp::SYN);
    assert!(sent(&datapath, &again)?.ends_with("10.244.2.9:8080"));
    Ok(())
}

#[test]
fn a_udp_datagram_without_checksum_stays_without() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(0, "10.244.1.6:8080")?;
    datapath.service("10.96.0.10:53", UDP, &[0])?;
    let frame = Frame::udp("10.244.1.5:40000", "10.96.0.10:53")
        .payload(b"abc")
        .without_checksum();
    let out = datapath.run("cw_from_pod", &frame.build())?;
    let there = decode(&out.frame);
    assert!(!there.has_checksum);
    assert_eq!(there.path(), "10.244.1.5:8256 > 10.244.1.6:8080");
    Ok(())
}

#[test]
fn a_port_that_no_service_has_is_left_to_the_kernel() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(0, "10.244.1.6:8080")?;
    datapath.service("10.96.0.10:80", TCP, &[0])?;
    for frame in [
        Frame::tcp("10.244.1.5:40000", "10.96.0.10:81", tcp::SYN),
        Frame::udp("10.244.1.5:40000", "10.96.0.10:80"),
        Frame::icmp("10.244.1.5", "10.96.0.10", 8, 0, &[0, 1, 0, 1]),
    ] {
        let frame = frame.build();
        let out = datapath.run("cw_from_pod", &frame)?;
        assert_eq!((out.verdict, out.frame), (Verdict::Pass, frame));
    }
    Ok(())
}
