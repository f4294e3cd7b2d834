//! XDP on the uplink, and direct server return before and behind it.

use anyhow::Result;
use causeway_abi::{
    DropReason,
    backend::{IN_USE, READY, TERMINATING, UNSETTLED},
    conntrack::{TCP_CLOSING, TCP_ESTABLISHED, TCP_SYN_SENT},
    service::SERVICE_SOURCE_RANGES,
};
use causeway_tests::packet::{
    Action, CLIENT_IFINDEX, Datapath, Frame, ServiceOptions, Verdict, decode, one_hop_later, tcp,
    xdp::{NEIGHBOUR_MAC, UPLINK_MAC, in_tunnel, inside},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const VIP: &str = "198.51.100.10:80";
const CLIENT: &str = "192.0.2.7:40000";
const NODE: &str = "172.30.0.11";
const OTHER: &str = "172.30.0.12";

const FROM_NETWORK: ServiceOptions = ServiceOptions::FROM_NETWORK;

/// A node with one pod that knows another node, and its clients' network.
fn node() -> Result<Datapath> {
    let mut datapath = Datapath::load()?;
    datapath.pod("10.244.1.6", CLIENT_IFINDEX)?;
    datapath.route("10.244.2.0", 24, OTHER)?;
    datapath.neighbour(OTHER)?;
    datapath.neighbour("192.0.2.7")?;
    Ok(datapath)
}

/// A node that sends directly to a backend on another, and the service's id.
fn direct() -> Result<(Datapath, u32)> {
    let mut datapath = node()?;
    datapath.return_directly()?;
    datapath.remote_backend(0, "10.244.2.6:8080", OTHER)?;
    let id = datapath.service_with(VIP, TCP, &[0], FROM_NETWORK)?;
    Ok((datapath, id))
}

fn request(flags: u8) -> Vec<u8> {
    Frame::tcp(CLIENT, VIP, flags).payload(b"odd").build()
}

fn last_mac(address: u8) -> [u8; 6] {
    let mut mac = [address; 6];
    mac[..5].copy_from_slice(&NEIGHBOUR_MAC);
    mac
}

/// That nothing was written down of any flow.
fn assert_stateless(datapath: &Datapath) -> Result<()> {
    assert_eq!(datapath.flows("CONNTRACK")?, []);
    assert_eq!(datapath.flows("CONNTRACK_NEW")?, []);
    assert_eq!(datapath.direct_flows()?, []);
    Ok(())
}

#[test]
fn a_packet_goes_to_its_backends_node_as_it_is() -> Result<()> {
    for (protocol, frame) in [
        (TCP, request(tcp::SYN)),
        (UDP, Frame::udp(CLIENT, VIP).payload(b"question").build()),
    ] {
        let (mut datapath, mut id) = direct()?;
        if protocol == UDP {
            id = datapath.service_with(VIP, UDP, &[0], FROM_NETWORK)?;
        }
        let (action, out) = datapath.run_xdp(&frame)?;
        assert_eq!(action, Action::Transmit);
        let outer = decode(&out);
        assert_eq!((outer.to_mac, outer.from_mac), (last_mac(12), UPLINK_MAC));
        assert_eq!(
            (outer.source.ip(), outer.destination),
            (NODE.parse()?, format!("{OTHER}:8472").parse()?)
        );
        assert_eq!(outer.payload[..8], [8, 0, 0, 0, 0, 0, 1, 0]);
        let inner = inside(&out)?;
        assert_eq!(inner[14..], one_hop_later(&frame));
        // Behind the prefixes the backend's port and address.
        assert_eq!(inner[..12], [0x02, 0xcd, 0, 0, 0x1f, 0x90, 0x02, 0xcd, 10, 244, 2, 6]);
        assert_stateless(&datapath)?;
        let counted = datapath.counters(id)?;
        assert_eq!((counted.packets, counted.connections), (1, u64::from(protocol == TCP)));
    }
    Ok(())
}

#[test]
fn both_ways_choose_the_same_backend_for_every_flow() -> Result<()> {
    let mut datapath = node()?;
    datapath.return_directly()?;
    for index in 0..5 {
        datapath.remote_backend(index, &format!("10.244.2.{}:8080", 6 + index), OTHER)?;
    }
    datapath.service_with(VIP, TCP, &[0, 1, 2, 3, 4], FROM_NETWORK)?;
    let mut chosen = std::collections::BTreeSet::new();
    for port in 40_000..40_200 {
        let frame = Frame::tcp(&format!("192.0.2.7:{port}"), VIP, tcp::ACK).build();
        let (action, fast) = datapath.run_xdp(&frame)?;
        let slow = datapath.run("cw_from_uplink", &frame)?;
        assert_eq!((action, slow.verdict), (Action::Transmit, Verdict::Redirect));
        assert_eq!(inside(&fast)?, slow.frame);
        chosen.insert(fast[60]);
        chosen.insert(fast[61]);
    }
    // All five, and the first three bytes of the address.
    assert!(chosen.len() >= 5, "{chosen:?}");
    assert_stateless(&datapath)
}

#[test]
fn everything_unusual_passes() -> Result<()> {
    let passes = |datapath: &Datapath, frame: &[u8], what: &str| -> Result<()> {
        let (action, out) = datapath.run_xdp(frame)?;
        assert_eq!((action, out.as_slice()), (Action::Pass, frame), "{what}");
        Ok(())
    };
    let (datapath, _) = direct()?;
    passes(
        &datapath,
        &Frame::tcp(CLIENT, "198.51.100.10:81", tcp::SYN).build(),
        "not a VIP",
    )?;
    passes(
        &datapath,
        &Frame::tcp(CLIENT, VIP, tcp::SYN).options(&[1, 1, 1, 1]).build(),
        "options",
    )?;
    passes(
        &datapath,
        &Frame::tcp(CLIENT, VIP, tcp::SYN).vlan(7).build(),
        "a VLAN tag",
    )?;
    passes(
        &datapath,
        &Frame::udp(CLIENT, VIP).fragment(0x2000).build(),
        "a fragment",
    )?;
    passes(
        &datapath,
        &Frame::raw("192.0.2.7", "198.51.100.10", 132, &[0; 12]).build(),
        "SCTP",
    )?;
    passes(
        &datapath,
        &Frame::tcp("[fd00::7]:4000", "[fd00::1]:80", tcp::SYN).build(),
        "IPv6",
    )?;
    let long = Frame::tcp(CLIENT, VIP, tcp::ACK).payload(&[0; 1_411]).build();
    passes(&datapath, &long, "one byte more than the tunnel carries")?;
    let (action, _) = datapath.run_xdp(&Frame::tcp(CLIENT, VIP, tcp::ACK).payload(&[0; 1_410]).build())?;
    assert_eq!(action, Action::Transmit);
    let mut dying = request(tcp::SYN);
    dying[22] = 1;
    passes(&datapath, &dying, "the last hop")?;
    let mut cut = request(tcp::SYN);
    cut.truncate(50);
    passes(&datapath, &cut, "cut short")?;

    let (mut datapath, _) = direct()?;
    datapath.previous(0, 1)?;
    passes(&datapath, &request(tcp::SYN), "a slot that is changing hands")?;
    for flags in [IN_USE, IN_USE | READY | TERMINATING, IN_USE | READY | UNSETTLED, 0] {
        let (mut datapath, _) = direct()?;
        datapath.remote_backend_with(0, "10.244.2.6:8080", OTHER, flags)?;
        passes(&datapath, &request(tcp::SYN), "a backend that does not take every flow")?;
    }
    let (mut datapath, _) = direct()?;
    datapath.backend(0, "10.244.1.6:8080")?;
    passes(&datapath, &request(tcp::SYN), "a backend of this node")?;
    for options in [
        ServiceOptions {
            flags: SERVICE_SOURCE_RANGES,
            ..FROM_NETWORK
        },
        ServiceOptions {
            affinity_seconds: 60,
            ..FROM_NETWORK
        },
    ] {
        let (mut datapath, _) = direct()?;
        datapath.service_with(VIP, TCP, &[0], options)?;
        passes(&datapath, &request(tcp::SYN), "a service that is more than its table")?;
    }
    let mut datapath = Datapath::load()?;
    datapath.return_directly()?;
    datapath.remote_backend(0, "10.244.2.6:8080", "198.18.0.1")?;
    datapath.service_with(VIP, TCP, &[0], FROM_NETWORK)?;
    passes(&datapath, &request(tcp::SYN), "a neighbour that is not known")
}

#[test]
fn a_flow_that_is_translated_goes_the_short_way_from_its_second_packet_on() -> Result<()> {
    for protocol in [TCP, UDP] {
        let make = |from: &str, to: &str, flags: u8| {
            if protocol == TCP {
                Frame::tcp(from, to, flags).payload(b"odd").build()
            } else {
                Frame::udp(from, to).payload(b"question").build()
            }
        };
        let mut datapath = node()?;
        datapath.remote_backend(0, "10.244.2.6:8080", OTHER)?;
        let id = datapath.service_with(VIP, protocol, &[0], FROM_NETWORK)?;
        let first = make(CLIENT, VIP, tcp::SYN);
        assert_eq!(datapath.run_xdp(&first)?.0, Action::Pass);
        let slow = decode(&datapath.run("cw_from_uplink", &first)?.frame);
        assert_eq!(slow.source.ip(), "10.244.1.1".parse::<std::net::IpAddr>()?);

        let frame = make(CLIENT, VIP, tcp::ACK);
        let (action, out) = datapath.run_xdp(&frame)?;
        assert_eq!(action, Action::Transmit);
        let outer = decode(&out);
        assert_eq!(outer.path(), format!("{NODE}:{} > {OTHER}:8472", outer.source.port()));
        let inner = inside(&out)?;
        assert_eq!(decode(inner).path(), slow.path());
        assert_eq!(
            (inner[22], decode(inner).payload),
            (frame[22] - 1, decode(&frame).payload)
        );

        let answer = make("10.244.2.6:8080", &slow.source.to_string(), tcp::SYN | tcp::ACK);
        let (action, back) = datapath.run_xdp(&in_tunnel(OTHER, NODE, 1, &answer))?;
        assert_eq!(action, Action::Transmit);
        let client = decode(&back);
        assert_eq!(client.path(), format!("{VIP} > {CLIENT}"));
        assert_eq!((client.to_mac, client.from_mac), (last_mac(7), UPLINK_MAC));
        assert_eq!(back.len(), answer.len());
        assert_eq!(datapath.counters(id)?.packets, 3);
        assert_eq!(datapath.counters(id)?.connections, 1);
    }
    Ok(())
}

#[test]
fn what_else_comes_through_the_tunnel_passes() -> Result<()> {
    let datapath = node()?;
    let inner = Frame::tcp("10.244.2.6:8080", "10.244.1.1:20000", tcp::ACK).build();
    for (what, frame) in [
        ("an unknown flow", in_tunnel(OTHER, NODE, 1, &inner)),
        ("another network", in_tunnel(OTHER, NODE, 2, &inner)),
        ("another node", in_tunnel(OTHER, "172.30.0.13", 1, &inner)),
        (
            "for a pod",
            in_tunnel(
                OTHER,
                NODE,
                1,
                &Frame::tcp("10.244.2.6:80", "10.244.1.6:99", tcp::ACK).build(),
            ),
        ),
        ("nothing", in_tunnel(OTHER, NODE, 1, &[])),
    ] {
        let (action, out) = datapath.run_xdp(&frame)?;
        assert_eq!((action, out), (Action::Pass, frame), "{what}");
    }
    Ok(())
}

#[test]
fn the_backends_node_answers_the_client_itself() -> Result<()> {
    let (there, _) = direct()?;
    let (_, sent) = there.run_xdp(&request(tcp::SYN))?;

    // The other node, which has the same backend under another index.
    let mut here = Datapath::load()?;
    here.pod("10.244.2.6", CLIENT_IFINDEX)?;
    here.backend(4, "10.244.2.7:8080")?;
    here.backend(3, "10.244.2.6:8080")?;
    here.return_directly()?;
    let id = here.service_with(VIP, TCP, &[4, 3], FROM_NETWORK)?;
    let out = here.run("cw_from_tunnel", inside(&sent)?)?;
    assert_eq!(out.verdict, Verdict::Redirect);
    assert_eq!(decode(&out.frame).path(), format!("{CLIENT} > 10.244.2.6:8080"));
    let back = here.run(
        "cw_from_pod",
        &Frame::tcp("10.244.2.6:8080", CLIENT, tcp::SYN | tcp::ACK).build(),
    )?;
    assert_eq!(back.verdict, Verdict::Redirect);
    assert_eq!(decode(&back.frame).path(), format!("{VIP} > {CLIENT}"));
    assert_eq!(here.counters(id)?.connections, 1);
    Ok(())
}

#[test]
fn a_backend_that_is_gone_is_said_by_its_node() -> Result<()> {
    let (there, _) = direct()?;
    let (_, sent) = there.run_xdp(&request(tcp::SYN))?;
    let mut here = Datapath::load()?;
    here.return_directly()?;
    here.backend(4, "10.244.2.7:8080")?;
    here.service_with(VIP, TCP, &[4], FROM_NETWORK)?;
    let out = here.run("cw_from_tunnel", inside(&sent)?)?;
    assert_eq!(out.verdict, Verdict::Redirect);
    let answer = decode(&out.frame);
    assert_eq!(
        (answer.path(), answer.flags),
        (format!("{VIP} > {CLIENT}"), tcp::RST | tcp::ACK)
    );
    assert_eq!(here.drops(DropReason::NoReadyBackend)?, 1);
    assert_eq!(here.flows("CONNTRACK_NEW")?, []);
    Ok(())
}

#[test]
fn flows_stay_where_they_are_while_their_slot_changes_hands() -> Result<()> {
    let (mut datapath, _) = direct()?;
    datapath.remote_backend(1, "10.244.2.7:8080", OTHER)?;
    let backend_of = |datapath: &Datapath, port: u16, flags: u8| -> Result<u8> {
        let frame = Frame::tcp(&format!("192.0.2.7:{port}"), VIP, flags).build();
        assert_eq!(datapath.run_xdp(&frame)?.0, Action::Pass);
        let out = datapath.run("cw_from_uplink", &frame)?;
        assert_eq!(out.verdict, Verdict::Redirect);
        assert_eq!(out.frame[14..], one_hop_later(&frame));
        Ok(out.frame[11])
    };
    // The service's slots go from backend 1 to backend 0.
    datapath.previous(0, 1)?;
    assert_eq!(backend_of(&datapath, 40_001, tcp::ACK)?, 7, "an old flow");
    assert_eq!(backend_of(&datapath, 40_002, tcp::SYN)?, 6, "a new flow");
    assert_eq!(backend_of(&datapath, 40_002, tcp::ACK)?, 6, "the same");
    assert_eq!(datapath.direct_flows()?.len(), 2);
    // And on to backend 2: the first flow is with the one before the last now.
    datapath.remote_backend(2, "10.244.2.8:8080", OTHER)?;
    datapath.service_with(VIP, TCP, &[2], FROM_NETWORK)?;
    datapath.previous(2, 0)?;
    assert_eq!(backend_of(&datapath, 40_001, tcp::ACK)?, 7);
    assert_eq!(backend_of(&datapath, 40_002, tcp::ACK)?, 6);
    assert_eq!(backend_of(&datapath, 40_003, tcp::SYN)?, 8);
    // One whose backend is gone, and another has its index, goes to the old owner of its slot.
    datapath.backend_with(1, "10.244.2.9:8080", IN_USE | READY, 2)?;
    assert_eq!(backend_of(&datapath, 40_001, tcp::ACK)?, 6);
    Ok(())
}

#[test]
fn an_unready_backend_keeps_its_flows_and_gets_no_new_ones() -> Result<()> {
    let (mut datapath, _) = direct()?;
    datapath.remote_backend(1, "10.244.2.7:8080", OTHER)?;
    datapath.service_with(VIP, TCP, &[0, 1], FROM_NETWORK)?;
    let backend_of = |datapath: &Datapath, port: u16, flags: u8| -> Result<u8> {
        let frame = Frame::tcp(&format!("192.0.2.7:{port}"), VIP, flags).build();
        Ok(datapath.run("cw_from_uplink", &frame)?.frame[11])
    };
    let ports = 40_000..40_050;
    let before: Vec<u8> = ports
        .clone()
        .map(|port| backend_of(&datapath, port, tcp::SYN))
        .collect::<Result<_>>()?;
    assert!(before.contains(&6) && before.contains(&7));
    datapath.remote_backend_with(0, "10.244.2.6:8080", OTHER, IN_USE)?;
    let after: Vec<u8> = ports
        .map(|port| backend_of(&datapath, port, tcp::ACK))
        .collect::<Result<_>>()?;
    assert_eq!(before, after);
    for port in 41_000..41_050 {
        assert_eq!(backend_of(&datapath, port, tcp::SYN)?, 7);
        assert_eq!(backend_of(&datapath, port, tcp::ACK)?, 7);
    }
    Ok(())
}

#[test]
fn a_backend_that_returns_leaves_flows_where_they_began_meanwhile() -> Result<()> {
    let (mut datapath, _) = direct()?;
    datapath.remote_backend(1, "10.244.2.7:8080", OTHER)?;
    datapath.service_with(VIP, TCP, &[0, 1], FROM_NETWORK)?;
    let frame = |port: u16, flags: u8| Frame::tcp(&format!("192.0.2.7:{port}"), VIP, flags).build();
    let slowly = |datapath: &Datapath, port: u16, flags: u8| -> Result<u8> {
        assert_eq!(datapath.run_xdp(&frame(port, flags))?.0, Action::Pass);
        Ok(datapath.run("cw_from_uplink", &frame(port, flags))?.frame[11])
    };
    // Flows of the slots of the first backend, which one of them begins before it is away.
    let mut of_first = Vec::new();
    for port in 40_000..40_100 {
        let (action, out) = datapath.run_xdp(&frame(port, tcp::SYN))?;
        assert_eq!(action, Action::Transmit);
        if inside(&out)?[11] == 6 {
            of_first.push(port);
        }
    }
    let [before, during, after] = of_first[..3] else {
        panic!("{of_first:?}")
    };
    datapath.remote_backend_with(0, "10.244.2.6:8080", OTHER, IN_USE)?;
    assert_eq!(slowly(&datapath, during, tcp::SYN)?, 7);
    datapath.remote_backend_with(0, "10.244.2.6:8080", OTHER, IN_USE | READY | UNSETTLED)?;
    assert_eq!(slowly(&datapath, during, tcp::ACK)?, 7);
    assert_eq!(slowly(&datapath, before, tcp::ACK)?, 6);
    assert_eq!(slowly(&datapath, after, tcp::SYN)?, 6);
    // A router on the way of an answer is heard by whoever gave it, whether the flow is written down or not.
    for (port, backend) in [(during, 7), (of_first[3], 6)] {
        let answer = Frame::tcp(VIP, &format!("192.0.2.7:{port}"), tcp::ACK).payload(&[0; 64]);
        let quoted = [&[0, 0, 0x05, 0x14], &answer.build()[14..]].concat();
        let error = Frame::icmp("203.0.113.1", "198.51.100.10", 3, 4, &quoted).build();
        assert_eq!(datapath.run("cw_from_uplink", &error)?.frame[11], backend);
    }
    // A new connection from the port of an old one is not the old one's.
    assert_eq!(slowly(&datapath, during, tcp::SYN)?, 6);
    assert_eq!(slowly(&datapath, during, tcp::ACK)?, 6);
    // What is left for user space: nothing is elsewhere, so the slots may decide alone again.
    datapath.remote_backend_with(0, "10.244.2.6:8080", OTHER, IN_USE | READY)?;
    for port in [before, during, after] {
        let (action, out) = datapath.run_xdp(&frame(port, tcp::ACK))?;
        assert_eq!((action, inside(&out)?[11]), (Action::Transmit, 6));
    }
    Ok(())
}

#[test]
fn what_is_written_down_says_how_far_the_client_has_come() -> Result<()> {
    let (mut datapath, _) = direct()?;
    datapath.remote_backend(1, "10.244.2.7:8080", OTHER)?;
    datapath.previous(0, 1)?;
    for (flags, state) in [
        (tcp::SYN, TCP_SYN_SENT),
        (tcp::ACK, TCP_ESTABLISHED),
        (tcp::FIN | tcp::ACK, TCP_CLOSING),
        (tcp::ACK, TCP_CLOSING),
        (tcp::SYN, TCP_SYN_SENT),
    ] {
        datapath.run("cw_from_uplink", &request(flags))?;
        let flows = datapath.direct_flows()?;
        assert_eq!((flows.len(), flows[0].1.tcp_state), (1, state), "{flags:#x}");
    }
    Ok(())
}

#[test]
fn a_connection_to_this_node_leaves_nothing_of_an_earlier_one() -> Result<()> {
    let (mut datapath, _) = direct()?;
    datapath.previous(0, 0)?;
    datapath.run("cw_from_uplink", &request(tcp::SYN))?;
    assert_eq!(datapath.direct_flows()?.len(), 1);
    datapath.backend(1, "10.244.1.6:8080")?;
    datapath.service_with(VIP, TCP, &[1], FROM_NETWORK)?;
    let out = datapath.run("cw_from_uplink", &request(tcp::ACK))?;
    assert_eq!(out.frame[11], 6, "the earlier one goes on");
    datapath.run("cw_from_uplink", &request(tcp::SYN))?;
    assert_eq!(datapath.direct_flows()?, []);
    assert_eq!(datapath.flows("CONNTRACK_NEW")?.len(), 2);
    Ok(())
}

#[test]
fn with_native_routing_known_flows_and_their_answers_go_without_the_tunnel() -> Result<()> {
    let mut datapath = node()?;
    datapath.route_natively()?;
    datapath.native_route("10.244.2.0", 24)?;
    datapath.neighbour("10.244.2.6")?;
    datapath.remote_backend(0, "10.244.2.6:8080", OTHER)?;
    let id = datapath.service_with(VIP, TCP, &[0], FROM_NETWORK)?;
    assert_eq!(datapath.run_xdp(&request(tcp::SYN))?.0, Action::Pass);
    let slow = datapath.run("cw_from_uplink", &request(tcp::SYN))?;
    let (action, out) = datapath.run_xdp(&request(tcp::ACK))?;
    let sent = decode(&out);
    assert_eq!((action, sent.path()), (Action::Transmit, decode(&slow.frame).path()));
    assert_eq!((sent.to_mac, sent.from_mac), (last_mac(6), UPLINK_MAC));
    assert_eq!(
        (out.len(), out[22]),
        (request(tcp::ACK).len(), request(tcp::ACK)[22] - 1)
    );

    let answer = Frame::tcp("10.244.2.6:8080", &sent.source.to_string(), tcp::SYN | tcp::ACK).build();
    let (action, back) = datapath.run_xdp(&answer)?;
    let client = decode(&back);
    assert_eq!((action, client.path()), (Action::Transmit, format!("{VIP} > {CLIENT}")));
    assert_eq!((client.to_mac, client.from_mac), (last_mac(7), UPLINK_MAC));
    assert_eq!(datapath.counters(id)?.packets, 3);
    let other = Frame::tcp("10.244.2.6:8080", "10.244.1.1:20000", tcp::ACK).build();
    assert_eq!(datapath.run_xdp(&other)?, (Action::Pass, other), "an unknown flow");
    Ok(())
}

#[test]
fn an_established_flow_of_ipv6_goes_the_short_way() -> Result<()> {
    const VIP6: &str = "[2001:db8:50::1]:443";
    const CLIENT6: &str = "[2001:db8::7]:40000";
    for (protocol, native) in [(TCP, false), (UDP, false), (TCP, true)] {
        let make = |from: &str, to: &str, flags: u8| {
            if protocol == TCP {
                Frame::tcp(from, to, flags).payload(b"odd").build()
            } else {
                Frame::udp(from, to).payload(b"question").build()
            }
        };
        let mut datapath = node()?;
        datapath.route("fd00:2::", 64, OTHER)?;
        if native {
            datapath.route_natively()?;
            datapath.native_route("fd00:2::", 64)?;
        }
        datapath.neighbour6("2001:db8::7")?;
        datapath.neighbour6("fd00:2::6")?;
        datapath.remote_backend(0, "[fd00:2::6]:8080", OTHER)?;
        let id = datapath.service_with(VIP6, protocol, &[0], FROM_NETWORK)?;
        let passes = |datapath: &Datapath, frame: &[u8], what: &str| -> Result<()> {
            assert_eq!(datapath.run_xdp(frame)?, (Action::Pass, frame.to_vec()), "{what}");
            Ok(())
        };
        let first = make(CLIENT6, VIP6, tcp::SYN);
        passes(&datapath, &first, "a new flow")?;
        let slow = decode(&datapath.run("cw_from_uplink", &first)?.frame);
        let frame = make(CLIENT6, VIP6, tcp::ACK);
        passes(&datapath, &frame, "a flow that was not answered")?;
        let answer = make("[fd00:2::6]:8080", &slow.source.to_string(), tcp::SYN | tcp::ACK);
        datapath.run(if native { "cw_from_uplink" } else { "cw_from_tunnel" }, &answer)?;
        let slow = datapath.run("cw_from_uplink", &frame)?;

        let (action, out) = datapath.run_xdp(&frame)?;
        assert_eq!(action, Action::Transmit);
        let inner = if native {
            assert_eq!((decode(&out).to_mac, decode(&out).from_mac), (last_mac(6), UPLINK_MAC));
            &out[..]
        } else {
            assert_eq!(decode(&out).to_mac, last_mac(12));
            inside(&out)?
        };
        // The same packet, with the same checksum.
        assert_eq!(inner[14..], slow.frame[14..]);

        let answer = make("[fd00:2::6]:8080", &decode(inner).source.to_string(), tcp::ACK);
        let wire = if native {
            answer.clone()
        } else {
            in_tunnel(OTHER, NODE, 1, &answer)
        };
        let (action, back) = datapath.run_xdp(&wire)?;
        let client = decode(&back);
        assert_eq!(
            (action, client.path()),
            (Action::Transmit, format!("{VIP6} > {CLIENT6}"))
        );
        assert_eq!((client.to_mac, client.from_mac), (last_mac(7), UPLINK_MAC));
        let slow = datapath.run(if native { "cw_from_uplink" } else { "cw_from_tunnel" }, &answer)?;
        assert_eq!(back[14..], slow.frame[14..]);
        assert_eq!(datapath.counters(id)?.packets, 6);

        if protocol == TCP {
            for flags in [tcp::SYN, tcp::FIN | tcp::ACK, tcp::RST] {
                passes(&datapath, &make(CLIENT6, VIP6, flags), "what changes the flow")?;
            }
        }
        let long = Frame::udp(CLIENT6, VIP6).payload(&[0; 1_460]).build();
        passes(&datapath, &long, "too much")?;
        let mut dying = frame.clone();
        dying[21] = 1;
        passes(&datapath, &dying, "the last hop")?;
        let mut cut = frame;
        cut.truncate(60);
        passes(&datapath, &cut, "cut short")?;
    }
    Ok(())
}

#[test]
fn fragments_and_errors_follow_their_flow() -> Result<()> {
    let (mut datapath, _) = direct()?;
    datapath.service_with(VIP, UDP, &[0], FROM_NETWORK)?;
    let first = Frame::udp(CLIENT, VIP).payload(&[7; 64]).fragment(0x2000).build();
    let later = Frame::raw("192.0.2.7", "198.51.100.10", UDP, &[8; 16])
        .fragment(9)
        .build();
    for frame in [&first, &later] {
        let out = datapath.run("cw_from_uplink", frame)?;
        assert_eq!(
            (out.verdict, &out.frame[14..]),
            (Verdict::Redirect, &one_hop_later(frame)[..])
        );
        assert_eq!(
            out.frame[..12],
            [0x02, 0xcd, 0, 0, 0x1f, 0x90, 0x02, 0xcd, 10, 244, 2, 6]
        );
    }
    // A router on the answer's way asks for smaller packets (RFC 1191).
    let answer = Frame::tcp(VIP, CLIENT, tcp::ACK).payload(&[0; 64]).build();
    let error = Frame::icmp("203.0.113.1", "198.51.100.10", 3, 4, &{
        let mut rest = vec![0, 0, 0x05, 0x14];
        rest.extend(&answer[14..]);
        rest
    })
    .build();
    let out = datapath.run("cw_from_uplink", &error)?;
    assert_eq!(
        (out.verdict, &out.frame[14..]),
        (Verdict::Redirect, &one_hop_later(&error)[..])
    );

    let mut here = Datapath::load()?;
    here.pod("10.244.2.6", CLIENT_IFINDEX)?;
    here.return_directly()?;
    here.backend(3, "10.244.2.6:8080")?;
    here.service_with(VIP, TCP, &[3], FROM_NETWORK)?;
    let (_, sent) = datapath.run_xdp(&request(tcp::SYN))?;
    here.run("cw_from_tunnel", inside(&sent)?)?;
    let out = here.run("cw_from_tunnel", &out.frame)?;
    assert_eq!(out.verdict, Verdict::Redirect);
    assert_eq!(
        decode(&out.frame).destination.ip(),
        "10.244.2.6".parse::<std::net::IpAddr>()?
    );
    Ok(())
}

#[test]
fn who_watches_sees_packets_the_slow_way() -> Result<()> {
    let (mut datapath, _) = direct()?;
    datapath.watch(causeway_abi::event::Trace {
        until_ns: u64::MAX,
        packets_until_ns: u64::MAX,
    })?;
    assert_eq!(datapath.run_xdp(&request(tcp::SYN))?.0, Action::Pass);
    datapath.run("cw_from_uplink", &request(tcp::SYN))?;
    assert_eq!(datapath.events()?.len(), 1);
    Ok(())
}
