//! What comes out of the tunnel, and what the node itself sends into it.

use anyhow::Result;
use causeway_abi::DropReason;
use causeway_tests::packet::{CLIENT_IFINDEX, Datapath, Frame, Verdict, decode, one_hop_later, tcp};

fn node() -> Result<Datapath> {
    let mut datapath = Datapath::load()?;
    datapath.pod("10.244.1.5", CLIENT_IFINDEX)?;
    datapath.route("10.244.2.0", 24, "172.30.0.12")?;
    Ok(datapath)
}

#[test]
fn a_packet_for_a_pod_is_handed_to_it() -> Result<()> {
    let datapath = node()?;
    let frame = Frame::tcp("10.244.2.6:40000", "10.244.1.5:80", tcp::SYN).build();
    let out = datapath.run("cw_from_tunnel", &frame)?;
    assert_eq!(
        (out.verdict, &out.frame[14..]),
        (Verdict::Redirect, &one_hop_later(&frame)[..])
    );
    let there = decode(&out.frame);
    assert_eq!((there.to_mac, there.from_mac), ([2, 0, 0, 0, 1, 5], [2, 0, 0, 0, 2, 5]));
    Ok(())
}

#[test]
fn the_answer_of_a_remote_backend_comes_from_the_vip() -> Result<()> {
    for protocol in [6, 17] {
        let mut datapath = node()?;
        datapath.backend(0, "10.244.2.6:8080")?;
        let id = datapath.service("10.96.0.10:80", protocol, &[0])?;
        let make = |from: &str, to: &str| {
            if protocol == 6 {
                Frame::tcp(from, to, tcp::SYN)
            } else {
                Frame::udp(from, to).payload(b"x")
            }
        };
        let out = datapath.run("cw_from_pod", &make("10.244.1.5:40000", "10.96.0.10:80").build())?;
        assert_eq!(decode(&out.frame).path(), "10.244.1.5:8256 > 10.244.2.6:8080");
        let out = datapath.run("cw_from_tunnel", &make("10.244.2.6:8080", "10.244.1.5:8256").build())?;
        assert_eq!(out.verdict, Verdict::Redirect);
        assert_eq!(decode(&out.frame).path(), "10.96.0.10:80 > 10.244.1.5:40000");
        assert_eq!(datapath.counters(id)?.packets, 2);
        // Another flow of the same pods has nothing to do with the VIP.
        let out = datapath.run("cw_from_tunnel", &make("10.244.2.6:8080", "10.244.1.5:40001").build())?;
        assert_eq!(decode(&out.frame).path(), "10.244.2.6:8080 > 10.244.1.5:40001");
    }
    Ok(())
}

#[test]
fn packets_for_the_node_go_to_its_stack() -> Result<()> {
    let datapath = node()?;
    for destination in ["10.244.1.1:40000", "172.30.0.11:40000"] {
        let frame = Frame::tcp("10.244.2.6:80", destination, tcp::SYN | tcp::ACK).build();
        let out = datapath.run("cw_from_tunnel", &frame)?;
        assert_eq!((out.verdict, out.frame), (Verdict::Pass, frame));
    }
    Ok(())
}

#[test]
fn an_address_that_no_pod_has_is_dropped_with_a_reason() -> Result<()> {
    let datapath = node()?;
    for destination in ["10.244.1.99:80", "192.0.2.1:80"] {
        let frame = Frame::udp("10.244.2.6:40000", destination).build();
        assert_eq!(datapath.run("cw_from_tunnel", &frame)?.verdict, Verdict::Drop);
    }
    assert_eq!(datapath.drops(DropReason::NoSuchPod)?, 2);
    Ok(())
}

#[test]
fn truncated_packets_are_dropped() -> Result<()> {
    let datapath = node()?;
    let frame = Frame::tcp("10.244.2.6:40000", "10.244.1.5:80", tcp::SYN).build();
    // Test runs take nothing shorter than an IP header.
    for length in 34..frame.len() {
        assert_eq!(datapath.run("cw_from_tunnel", &frame[..length])?.verdict, Verdict::Drop);
    }
    assert_eq!(datapath.drops(DropReason::MalformedPacket)?, frame.len() as u64 - 34);
    Ok(())
}

#[test]
fn the_nodes_own_packets_get_a_tunnel_key() -> Result<()> {
    let datapath = node()?;
    let frame = Frame::tcp("10.244.1.1:40000", "10.244.2.6:80", tcp::SYN).build();
    let out = datapath.run("cw_to_tunnel", &frame)?;
    assert_eq!((out.verdict, out.frame), (Verdict::Pass, frame));
    let nowhere = Frame::tcp("10.244.1.1:40000", "10.244.9.6:80", tcp::SYN).build();
    assert_eq!(datapath.run("cw_to_tunnel", &nowhere)?.verdict, Verdict::Drop);
    assert_eq!(datapath.drops(DropReason::NoSuchPod)?, 1);
    Ok(())
}

#[test]
fn packets_with_a_key_already_are_not_looked_at_again() -> Result<()> {
    let datapath = node()?;
    let out = datapath.run(
        "cw_from_pod",
        &Frame::tcp("10.244.1.5:40000", "10.244.2.6:80", tcp::SYN).build(),
    )?;
    let out = datapath.run_marked("cw_to_tunnel", &out.frame, out.mark)?;
    assert_eq!((out.verdict, out.mark), (Verdict::Pass, 0));
    Ok(())
}
