//! Flows that are translated: packets of those that the slow way has written down.

use std::net::IpAddr;

use anyhow::Result;
use causeway_tests::packet::{
    Action, Frame, decode, tcp,
    xdp::{UPLINK_MAC, in_tunnel, inside},
};

use crate::support::{
    CLIENT, FROM_NETWORK, NODE, OTHER, TCP, UDP, VIP, assert_passes, last_mac, node, packet, request,
};

#[test]
fn a_flow_that_is_translated_goes_the_short_way_from_its_second_packet_on() -> Result<()> {
    for protocol in [TCP, UDP] {
        let mut datapath = node()?;
        datapath.remote_backend(0, "10.244.2.6:8080", OTHER)?;
        let id = datapath.service_with(VIP, protocol, &[0], FROM_NETWORK)?;
        let first = packet(protocol, CLIENT, VIP, tcp::SYN);
        assert_eq!(datapath.run_xdp(&first)?.0, Action::Pass);
        let slow = decode(&datapath.run("cw_from_uplink", &first)?.frame);
        assert_eq!(slow.source.ip(), "10.244.1.1".parse::<IpAddr>()?);

        let frame = packet(protocol, CLIENT, VIP, tcp::ACK);
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

        let answer = packet(
            protocol,
            "10.244.2.6:8080",
            &slow.source.to_string(),
            tcp::SYN | tcp::ACK,
        );
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
    let for_pod = Frame::tcp("10.244.2.6:80", "10.244.1.6:99", tcp::ACK).build();
    for (what, frame) in [
        ("an unknown flow", in_tunnel(OTHER, NODE, 1, &inner)),
        ("another network", in_tunnel(OTHER, NODE, 2, &inner)),
        ("another node", in_tunnel(OTHER, "172.30.0.13", 1, &inner)),
        ("for a pod", in_tunnel(OTHER, NODE, 1, &for_pod)),
        ("nothing", in_tunnel(OTHER, NODE, 1, &[])),
    ] {
        assert_passes(&datapath, &frame, what)?;
    }
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
    assert_passes(&datapath, &other, "an unknown flow")
}
