//! Per-packet balancing: a VIP's packets reach a backend, its answers come back from the VIP.

use anyhow::Result;
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

#[test]
fn every_program_loads() -> Result<()> {
    let names = Datapath::load()?.programs().join(" ");
    assert_eq!(
        names,
        "cw_connect4 cw_connect6 cw_from_pod cw_from_tunnel cw_getpeername4 cw_getpeername6 cw_recvmsg4 cw_recvmsg6 \
         cw_sendmsg4 cw_sendmsg6 cw_to_tunnel"
    );
    Ok(())
}

#[test]
fn a_packet_for_a_vip_goes_to_a_backend_and_the_answer_comes_from_the_vip() -> Result<()> {
    for (protocol, make) in [
        (
            TCP,
            (|from: &str, to: &str| Frame::tcp(from, to, tcp::SYN).payload(b"odd")) as fn(&str, &str) -> Frame,
        ),
        (UDP, |from: &str, to: &str| Frame::udp(from, to).payload(b"question")),
    ] {
        let mut datapath = node()?;
        datapath.backend(3, "10.244.1.6:8080")?;
        let id = datapath.service("10.96.0.10:80", protocol, &[3])?;

        let out = datapath.run("cw_from_pod", &make("10.244.1.5:40000", "10.96.0.10:80").build())?;
        assert_eq!(out.verdict, Verdict::Redirect);
        let there = decode(&out.frame);
        assert_eq!(there.path(), "10.244.1.5:40000 > 10.244.1.6:8080");
        assert_eq!((there.to_mac, there.from_mac), ([2, 0, 0, 0, 1, 6], [2, 0, 0, 0, 2, 6]));

        // The backend's answer comes in on its own interface; here it is the same one, so the backend moves there.
        datapath.pod("10.244.1.6", CLIENT_IFINDEX)?;
        let out = datapath.run("cw_from_pod", &make("10.244.1.6:8080", "10.244.1.5:40000").build())?;
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
