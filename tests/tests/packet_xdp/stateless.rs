//! Services whose table decides alone: packets that XDP sends to the backend's node as they are.

use std::collections::BTreeSet;

use anyhow::Result;
use causeway_abi::{
    backend::{IN_USE, READY, TERMINATING, UNSETTLED},
    event::Trace,
    service::SERVICE_SOURCE_RANGES,
};
use causeway_tests::packet::{
    Action, Datapath, Frame, ServiceOptions, Verdict, decode, one_hop_later, tcp,
    xdp::{UPLINK_MAC, inside},
};

use crate::support::{
    CLIENT, FROM_NETWORK, NODE, OTHER, TCP, TO_BACKEND, UDP, VIP, assert_passes, assert_stateless, direct, last_mac,
    node, packet, request,
};

#[test]
fn a_packet_goes_to_its_backends_node_as_it_is() -> Result<()> {
    for protocol in [TCP, UDP] {
        let frame = packet(protocol, CLIENT, VIP, tcp::SYN);
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
        assert_eq!(inner[..12], TO_BACKEND);
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
    let mut chosen = BTreeSet::new();
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
fn unusual_packets_pass() -> Result<()> {
    let (datapath, _) = direct()?;
    let mut dying = request(tcp::SYN);
    dying[22] = 1;
    let mut cut = request(tcp::SYN);
    cut.truncate(50);
    let syn = |to: &str| Frame::tcp(CLIENT, to, tcp::SYN);
    for (what, frame) in [
        ("not a VIP", syn("198.51.100.10:81").build()),
        ("options", syn(VIP).options(&[1, 1, 1, 1]).build()),
        ("a VLAN tag", syn(VIP).vlan(7).build()),
        ("a fragment", Frame::udp(CLIENT, VIP).fragment(0x2000).build()),
        ("SCTP", Frame::raw("192.0.2.7", "198.51.100.10", 132, &[0; 12]).build()),
        ("IPv6", Frame::tcp("[fd00::7]:4000", "[fd00::1]:80", tcp::SYN).build()),
        ("the last hop", dying),
        ("cut short", cut),
    ] {
        assert_passes(&datapath, &frame, what)?;
    }
    Ok(())
}

#[test]
fn a_packet_that_is_too_long_for_the_tunnel_passes() -> Result<()> {
    let (datapath, _) = direct()?;
    let of_length = |payload: usize| Frame::tcp(CLIENT, VIP, tcp::ACK).payload(&vec![0; payload]).build();
    assert_eq!(datapath.run_xdp(&of_length(1_410))?.0, Action::Transmit);
    assert_passes(&datapath, &of_length(1_411), "one byte more than the tunnel carries")
}

#[test]
fn what_takes_more_than_the_services_table_passes() -> Result<()> {
    let syn = request(tcp::SYN);
    let (mut datapath, _) = direct()?;
    datapath.previous(0, 1)?;
    assert_passes(&datapath, &syn, "a slot that is changing hands")?;
    for flags in [IN_USE, IN_USE | READY | TERMINATING, IN_USE | READY | UNSETTLED, 0] {
        let (mut datapath, _) = direct()?;
        datapath.remote_backend_with(0, "10.244.2.6:8080", OTHER, flags)?;
        assert_passes(&datapath, &syn, "a backend that does not take every flow")?;
    }
    let (mut datapath, _) = direct()?;
    datapath.backend(0, "10.244.1.6:8080")?;
    assert_passes(&datapath, &syn, "a backend of this node")?;
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
        assert_passes(&datapath, &syn, "a service that is more than its table")?;
    }
    let mut datapath = Datapath::load()?;
    datapath.return_directly()?;
    datapath.remote_backend(0, "10.244.2.6:8080", "198.18.0.1")?;
    datapath.service_with(VIP, TCP, &[0], FROM_NETWORK)?;
    assert_passes(&datapath, &syn, "a neighbour that is not known")
}

#[test]
fn who_watches_sees_packets_the_slow_way() -> Result<()> {
    let (mut datapath, _) = direct()?;
    datapath.watch(Trace {
        until_ns: u64::MAX,
        packets_until_ns: u64::MAX,
    })?;
    assert_eq!(datapath.run_xdp(&request(tcp::SYN))?.0, Action::Pass);
    datapath.run("cw_from_uplink", &request(tcp::SYN))?;
    assert_eq!(datapath.events()?.len(), 1);
    Ok(())
}
