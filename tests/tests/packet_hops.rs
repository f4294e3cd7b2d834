//! The node as a router: every packet it sends on has one hop less, and who asks too much of it is told.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use causeway_abi::{
    DropReason,
    event::Verdict as Word,
    icmp::{INTERVAL_NS, OTHERS, TOO_BIG},
};
use causeway_maps::view::monotonic_ns;
use causeway_tests::{
    netns::Netns,
    packet::{
        CLIENT_IFINDEX, Datapath, Decoded, Frame, Outcome, ServiceOptions, TUNNEL_IFINDEX, Verdict, decode, tcp,
        with_hops,
    },
};
use rtnetlink::{LinkVeth, packet_route::link::LinkAttribute};

const TCP: u8 = 6;
const UDP: u8 = 17;
const POD: &str = "10.244.1.5:40000";
const ELSEWHERE: &str = "10.244.2.6:8080";
const VIP: &str = "10.96.0.10:80";
const NODE_PORT: &str = "172.30.0.11:30080";
const WORLD: &str = "192.0.2.7:40000";
const FROM_NETWORK: ServiceOptions = ServiceOptions::FROM_NETWORK;

/// A node with two pods of each family, and another node's.
fn node() -> Result<Datapath> {
    let mut datapath = Datapath::load()?;
    for pod in ["10.244.1.5", "10.244.1.6", "fd00:1::5", "fd00:1::6"] {
        datapath.pod(pod, CLIENT_IFINDEX)?;
    }
    datapath.route("10.244.2.0", 24, "172.30.0.12")?;
    datapath.route("fd00:2::", 64, "172.30.0.12")?;
    Ok(datapath)
}

fn hops(frame: &[u8]) -> u8 {
    if frame[12..14] == [0x08, 0x00] {
        frame[22]
    } else {
        frame[21]
    }
}

/// Both ends, type and code of an ICMP error, and the number in it.
fn error(outcome: &Outcome) -> (String, [u8; 2], u32) {
    let Decoded {
        source,
        destination,
        payload,
        ..
    } = decode(&outcome.frame);
    let path = format!("{} > {}", source.ip(), destination.ip());
    let rest = u32::from_be_bytes(payload[4..8].try_into().expect("four bytes"));
    (path, [payload[0], payload[1]], rest)
}

#[test]
fn a_packet_that_is_sent_on_has_one_hop_less() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(0, ELSEWHERE)?;
    datapath.backend(1, "10.244.1.6:8080")?;
    datapath.service(VIP, TCP, &[0])?;
    datapath.service_with(NODE_PORT, TCP, &[1], FROM_NETWORK)?;
    for (program, from, to) in [
        ("cw_from_pod", POD, "10.244.1.6:80"),
        ("cw_from_pod", POD, ELSEWHERE),
        ("cw_from_pod", POD, VIP),
        ("cw_from_pod", "[fd00:1::5]:40000", "[fd00:1::6]:80"),
        ("cw_from_pod", "[fd00:1::5]:40000", "[fd00:2::6]:80"),
        ("cw_from_tunnel", ELSEWHERE, POD),
        ("cw_from_tunnel", "[fd00:2::6]:80", "[fd00:1::5]:40000"),
        ("cw_from_uplink", WORLD, NODE_PORT),
        // The answer, to the network.
        ("cw_from_pod", "10.244.1.6:8080", WORLD),
    ] {
        for left in [2, 64, 255] {
            let frame = Frame::tcp(from, to, tcp::SYN).payload(b"odd");
            let out = datapath.run(program, &with_hops(frame.build(), left))?;
            ensure!(
                out.verdict == Verdict::Redirect,
                "{program} {from} > {to}: {:?}",
                out.verdict
            );
            // Checksums are verified on the way.
            decode(&out.frame);
            assert_eq!(hops(&out.frame), left - 1, "{program} {from} > {to}");
        }
    }
    Ok(())
}

#[test]
fn what_the_kernel_delivers_or_routes_keeps_its_hops() -> Result<()> {
    let datapath = node()?;
    for (program, from, to) in [
        ("cw_from_pod", POD, "10.244.1.1:80"),
        ("cw_from_pod", POD, WORLD),
        ("cw_from_tunnel", ELSEWHERE, "10.244.1.1:40000"),
        ("cw_from_uplink", WORLD, "172.30.0.11:22"),
        ("cw_to_tunnel", "10.244.1.1:40000", ELSEWHERE),
    ] {
        for left in [1, 2, 64] {
            let frame = with_hops(Frame::tcp(from, to, tcp::SYN).build(), left);
            let out = datapath.run(program, &frame)?;
            assert_eq!(
                (out.verdict, &out.frame),
                (Verdict::Pass, &frame),
                "{program} {from} > {to}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_sender_of_a_packet_at_its_last_hop_is_told_by_this_node() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(0, ELSEWHERE)?;
    datapath.service(VIP, UDP, &[0])?;
    datapath.service_with(NODE_PORT, UDP, &[0], FROM_NETWORK)?;
    let (exceeded, exceeded6) = ([11, 0], [3, 0]);
    let mut count = 0;
    for (program, from, to, path, code) in [
        ("cw_from_pod", POD, "10.244.1.6:80", "10.244.1.1 > 10.244.1.5", exceeded),
        ("cw_from_pod", POD, ELSEWHERE, "10.244.1.1 > 10.244.1.5", exceeded),
        ("cw_from_pod", POD, VIP, "10.244.1.1 > 10.244.1.5", exceeded),
        ("cw_from_tunnel", ELSEWHERE, POD, "10.244.1.1 > 10.244.2.6", exceeded),
        ("cw_from_uplink", WORLD, NODE_PORT, "172.30.0.11 > 192.0.2.7", exceeded),
        (
            "cw_from_pod",
            "[fd00:1::5]:40000",
            "[fd00:2::6]:80",
            "fd00:244:0:1::1 > fd00:1::5",
            exceeded6,
        ),
    ] {
        for left in [0, 1] {
            let frame = Frame::udp(from, to).payload(b"whither");
            let sent = with_hops(frame.build(), left);
            let out = datapath.run(program, &sent)?;
            assert_eq!(out.verdict, Verdict::Redirect, "{program} {from} > {to}");
            assert_eq!(error(&out), (path.to_owned(), code, 0), "{program} {from} > {to}");
            // It quotes what was sent, before any translation.
            let quoted = &decode(&out.frame).payload[8..];
            assert_eq!(quoted, &sent[14..14 + quoted.len()]);
            count += 1;
            assert_eq!(datapath.drops(DropReason::HopLimitExceeded)?, count);
        }
    }
    assert_eq!(datapath.flows("CONNTRACK_NEW")?.len(), 0, "no flow begins with it");
    Ok(())
}

#[test]
fn pings_are_answered_at_their_last_hop_and_errors_are_not() -> Result<()> {
    let datapath = node()?;
    let ping = Frame::icmp("10.244.1.5", "10.244.2.6", 8, 0, &[0, 1, 0, 1]);
    let out = datapath.run("cw_from_pod", &with_hops(ping.build(), 1))?;
    assert_eq!(error(&out).0, "10.244.1.1 > 10.244.1.5");
    let about = Frame::icmp("10.244.1.5", "10.244.2.6", 3, 3, &[0; 32]);
    let out = datapath.run("cw_from_pod", &with_hops(about.build(), 1))?;
    assert_eq!(out.verdict, Verdict::Drop);
    assert_eq!(datapath.drops(DropReason::HopLimitExceeded)?, 2);
    Ok(())
}

#[test]
fn who_has_sent_enough_errors_drops_in_silence_and_says_so() -> Result<()> {
    let mut datapath = node()?;
    datapath.service(VIP, UDP, &[])?;
    datapath.service(VIP, TCP, &[])?;
    datapath.service("[fd00:96::10]:80", UDP, &[])?;
    let silent: [(Vec<u8>, DropReason); 3] = [
        (Frame::udp(POD, VIP).build(), DropReason::NoReadyBackend),
        (
            Frame::udp("[fd00:1::5]:40000", "[fd00:96::10]:80").build(),
            DropReason::NoReadyBackend,
        ),
        (
            with_hops(Frame::udp(POD, ELSEWHERE).build(), 1),
            DropReason::HopLimitExceeded,
        ),
    ];
    for (frame, _) in &silent {
        let before = monotonic_ns();
        datapath.set_icmp_budget(OTHERS, 0)?;
        assert_eq!(datapath.run("cw_from_pod", frame)?.verdict, Verdict::Redirect);
        let full = datapath.icmp_budget(OTHERS)?;
        // The program's clock is that of timer ticks, of which the slowest has a hundred in a second.
        let (earliest, latest) = (before - 20_000_000, monotonic_ns());
        assert!(
            (earliest..=latest).contains(&(full - INTERVAL_NS)),
            "one was spent: {full} between {earliest} and {latest}"
        );
    }
    assert_eq!(datapath.drops(DropReason::IcmpErrorSuppressed)?, 0);

    datapath.set_icmp_budget(OTHERS, u64::MAX)?;
    for (count, (frame, reason)) in (1..).zip(&silent) {
        let before = datapath.drops(*reason)?;
        assert_eq!(datapath.run("cw_from_pod", frame)?.verdict, Verdict::Drop);
        assert_eq!(datapath.drops(*reason)?, before + 1, "its own reason counts");
        assert_eq!(datapath.drops(DropReason::IcmpErrorSuppressed)?, count);
    }
    // Resets are not limited.
    let out = datapath.run("cw_from_pod", &Frame::tcp(POD, VIP, tcp::SYN).build())?;
    assert_eq!(
        (out.verdict, decode(&out.frame).flags),
        (Verdict::Redirect, tcp::RST | tcp::ACK)
    );
    // Nor is what is only tried out, which spends nothing either.
    for (full_ns, left) in [(u64::MAX, u64::MAX), (0, 0)] {
        datapath.set_icmp_budget(OTHERS, full_ns)?;
        let (_, explanation) = datapath.explain("cw_from_pod", &silent[0].0)?;
        assert_eq!(explanation.verdict, Word::Refuse as u32);
        assert_eq!(datapath.icmp_budget(OTHERS)?, left);
    }
    assert_eq!(datapath.drops(DropReason::IcmpErrorSuppressed)?, 3);
    Ok(())
}

/// In a namespace with a device that stands for the tunnel's, with room for 1450 bytes.
fn with_tunnel(test: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let netns = Netns::new();
    netns.block_on(|| async {
        let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
        tokio::spawn(connection);
        let mut device = LinkVeth::new("cwtun", "cwpeer").build();
        device.header.index = TUNNEL_IFINDEX;
        device.attributes.push(LinkAttribute::Mtu(1_450));
        let added = handle.link().add(device).execute().await;
        added.expect("a device for the tunnel");
    });
    netns.run(test)
}

/// A datagram that fills an IP packet of so many bytes.
fn datagram(from: &str, to: &str, bytes: usize) -> Frame {
    let headers = if from.starts_with('[') { 48 } else { 28 };
    Frame::udp(from, to).payload(&vec![7; bytes - headers])
}

#[test]
fn who_sends_more_than_the_tunnel_has_room_for_is_told_how_much_it_has() -> Result<()> {
    with_tunnel(|| {
        let mut datapath = node()?;
        datapath.backend(0, ELSEWHERE)?;
        datapath.backend(1, "[fd00:2::6]:8080")?;
        datapath.service_with(NODE_PORT, UDP, &[0], FROM_NETWORK)?;
        datapath.service_with("[fd00:30::b]:30080", UDP, &[1], FROM_NETWORK)?;
        let whole = 0x4000;
        let out = datapath.run(
            "cw_from_uplink",
            &datagram(WORLD, NODE_PORT, 1_451).fragment(whole).build(),
        )?;
        assert_eq!(out.verdict, Verdict::Redirect);
        assert_eq!(error(&out), ("172.30.0.11 > 192.0.2.7".to_owned(), [3, 4], 1_450));
        assert_eq!(datapath.drops(DropReason::TooLargeForTunnel)?, 1);

        let (client6, service6) = ("[2001:db8::7]:40000", "[fd00:30::b]:30080");
        let out = datapath.run("cw_from_uplink", &datagram(client6, service6, 1_451).build())?;
        let (path, code, mtu) = error(&out);
        assert!(path.ends_with("> 2001:db8::7"), "{path}");
        assert_eq!((code, mtu), ([2, 0], 1_450));
        assert_eq!(datapath.drops(DropReason::TooLargeForTunnel)?, 2);

        // What fits goes there, and what may be divided.
        for frame in [
            datagram(WORLD, NODE_PORT, 1_450).fragment(whole),
            datagram(WORLD, NODE_PORT, 1_500),
            datagram(client6, service6, 1_450),
        ] {
            let out = datapath.run("cw_from_uplink", &frame.build())?;
            assert_eq!(out.verdict, Verdict::Redirect);
            let to = decode(&out.frame).destination;
            assert!(
                ["10.244.2.6", "fd00:2::6"]
                    .map(|to| to.parse::<IpAddr>().unwrap())
                    .contains(&to.ip()),
                "{to}"
            );
        }
        assert_eq!(datapath.all_drops()?, 2);
        Ok(())
    })
}

#[test]
fn news_of_the_tunnels_mtu_is_limited_apart_from_other_errors() -> Result<()> {
    with_tunnel(|| {
        let mut datapath = node()?;
        datapath.backend(0, ELSEWHERE)?;
        datapath.service_with(NODE_PORT, UDP, &[0], FROM_NETWORK)?;
        let frame = datagram(WORLD, NODE_PORT, 1_451).fragment(0x4000).build();
        datapath.set_icmp_budget(OTHERS, u64::MAX)?;
        let out = datapath.run("cw_from_uplink", &frame)?;
        assert_eq!(error(&out).1, [3, 4]);
        datapath.set_icmp_budget(TOO_BIG, u64::MAX)?;
        assert_eq!(datapath.run("cw_from_uplink", &frame)?.verdict, Verdict::Drop);
        assert_eq!(datapath.drops(DropReason::TooLargeForTunnel)?, 2);
        assert_eq!(datapath.drops(DropReason::IcmpErrorSuppressed)?, 1);
        Ok(())
    })
}

#[test]
fn a_pod_of_this_node_takes_what_the_network_carries() -> Result<()> {
    with_tunnel(|| {
        let mut datapath = node()?;
        datapath.backend(0, "10.244.1.6:8080")?;
        datapath.service_with(NODE_PORT, UDP, &[0], FROM_NETWORK)?;
        let out = datapath.run(
            "cw_from_uplink",
            &datagram(WORLD, NODE_PORT, 1_500).fragment(0x4000).build(),
        )?;
        assert_eq!(out.verdict, Verdict::Redirect);
        assert_eq!(decode(&out.frame).destination.to_string(), "10.244.1.6:8080");
        Ok(())
    })
}
