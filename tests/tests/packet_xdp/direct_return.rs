//! Both nodes' slow ways, with flows written down or not.

use anyhow::Result;
use causeway_abi::{
    DropReason,
    backend::{IN_USE, READY, UNSETTLED},
    conntrack::{TCP_CLOSING, TCP_ESTABLISHED, TCP_SYN_SENT},
};
use causeway_tests::packet::{Action, Datapath, Frame, Verdict, decode, one_hop_later, tcp, xdp::inside};

use crate::support::{CLIENT, FROM_NETWORK, OTHER, TCP, TO_BACKEND, UDP, VIP, backends_node, direct, request};

/// A router on the way of an answer to a client asks for smaller packets (RFC 1191).
fn too_big(client: &str) -> Vec<u8> {
    let answer = Frame::tcp(VIP, client, tcp::ACK).payload(&[0; 64]).build();
    let quoted = [&[0, 0, 0x05, 0x14], &answer[14..]].concat();
    Frame::icmp("203.0.113.1", "198.51.100.10", 3, 4, &quoted).build()
}

#[test]
fn the_backends_node_answers_the_client_itself() -> Result<()> {
    let (there, _) = direct()?;
    let (_, sent) = there.run_xdp(&request(tcp::SYN))?;

    // The other node, which has the same backend under another index.
    let mut here = backends_node(3, "10.244.2.6:8080")?;
    here.backend(4, "10.244.2.7:8080")?;
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
    let mut here = backends_node(4, "10.244.2.7:8080")?;
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
        let error = too_big(&format!("192.0.2.7:{port}"));
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
        assert_eq!(out.frame[..12], TO_BACKEND);
    }
    let error = too_big(CLIENT);
    let out = datapath.run("cw_from_uplink", &error)?;
    assert_eq!(
        (out.verdict, &out.frame[14..]),
        (Verdict::Redirect, &one_hop_later(&error)[..])
    );

    let mut here = backends_node(3, "10.244.2.6:8080")?;
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
