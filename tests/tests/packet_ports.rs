//! Which client port a backend sees, and when a port is free again.

use anyhow::Result;
use causeway_tests::packet::{CLIENT_IFINDEX, Datapath, Frame, Verdict, decode, tcp};

const TCP: u8 = 6;
const CLIENT: &str = "10.244.1.5:40000";
/// What stands for the client's port, unless it is taken.
const SEEN: &str = "10.244.1.5:8256";
const BACKEND: &str = "10.244.1.6:8080";
const FIRST: &str = "10.96.0.10:80";
const SECOND: &str = "10.96.0.11:80";

/// A node with a client and a backend behind two VIPs.
fn node() -> Result<Datapath> {
    let mut datapath = Datapath::load()?;
    for pod in ["10.244.1.5", "10.244.1.6", "10.244.1.7"] {
        datapath.pod(pod, CLIENT_IFINDEX)?;
    }
    datapath.backend(0, BACKEND)?;
    for vip in [FIRST, SECOND] {
        datapath.service(vip, TCP, &[0])?;
    }
    Ok(datapath)
}

fn sent(datapath: &Datapath, from: &str, to: &str, flags: u8) -> Result<String> {
    let out = datapath.run("cw_from_pod", &Frame::tcp(from, to, flags).build())?;
    assert_eq!(out.verdict, Verdict::Redirect, "{:?}", decode(&out.frame));
    Ok(decode(&out.frame).path())
}

/// Opens a connection; the client as the backend sees it.
fn establish(datapath: &Datapath, vip: &str, backend: &str) -> Result<String> {
    let path = sent(datapath, CLIENT, vip, tcp::SYN)?;
    let (seen, reached) = path.split_once(" > ").unwrap_or_default();
    assert_eq!(reached, backend);
    assert_eq!(
        sent(datapath, backend, seen, tcp::SYN | tcp::ACK)?,
        format!("{vip} > {CLIENT}")
    );
    assert_eq!(sent(datapath, CLIENT, vip, tcp::ACK)?, path);
    Ok(seen.to_owned())
}

#[test]
fn a_clients_port_always_has_the_same_translation() -> Result<()> {
    let datapath = node()?;
    for end in [tcp::FIN | tcp::ACK, tcp::RST] {
        assert_eq!(establish(&datapath, FIRST, BACKEND)?, SEEN);
        sent(&datapath, CLIENT, FIRST, end)?;
        sent(&datapath, BACKEND, SEEN, tcp::FIN | tcp::ACK)?;
    }
    assert_eq!(establish(&datapath, FIRST, BACKEND)?, SEEN);
    assert_eq!(datapath.flows("CONNTRACK")?.len(), 2, "no trace of those before");
    assert_eq!(datapath.flows("CONNTRACK_NEW")?.len(), 0);
    Ok(())
}

#[test]
fn the_backends_own_port_is_never_a_clients() -> Result<()> {
    let mut datapath = node()?;
    // The port that stands for the client's.
    datapath.backend(1, "10.244.1.6:8256")?;
    datapath.service(FIRST, TCP, &[1])?;
    assert_eq!(establish(&datapath, FIRST, "10.244.1.6:8256")?, "10.244.1.5:8257");
    Ok(())
}

#[test]
fn a_port_that_linux_gives_to_no_socket_is_shown_as_another_such() -> Result<()> {
    let datapath = node()?;
    let mut seen = Vec::new();
    for port in [53, 5_000, 32_767, 61_000, 65_535] {
        let path = sent(&datapath, &format!("10.244.1.5:{port}"), FIRST, tcp::SYN)?;
        let shown = path.split([':', ' ']).nth(1).unwrap_or_default();
        let shown: u16 = shown.parse()?;
        // None of those that stand for a port of Linux's.
        assert!((29_256..32_768).contains(&shown) || shown >= 61_000, "{shown}");
        seen.push(shown);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 5);
    Ok(())
}

#[test]
fn the_port_of_a_reset_connection_is_free_at_once_whoever_reset_it() -> Result<()> {
    for by_client in [true, false] {
        let datapath = node()?;
        establish(&datapath, FIRST, BACKEND)?;
        assert_ne!(establish(&datapath, SECOND, BACKEND)?, SEEN, "in use");
        if by_client {
            sent(&datapath, CLIENT, FIRST, tcp::RST)?;
        } else {
            sent(&datapath, BACKEND, SEEN, tcp::RST)?;
        }
        // Its own connection is there still; this one begins anew.
        sent(&datapath, CLIENT, SECOND, tcp::RST)?;
        assert_eq!(establish(&datapath, SECOND, BACKEND)?, SEEN);
        assert_eq!(datapath.flows("CONNTRACK")?.len(), 2);
    }
    Ok(())
}

#[test]
fn the_port_of_a_closed_connection_is_not_given_to_another_vip() -> Result<()> {
    let datapath = node()?;
    establish(&datapath, FIRST, BACKEND)?;
    // The backend closes first, and waits for late packets.
    sent(&datapath, BACKEND, SEEN, tcp::FIN | tcp::ACK)?;
    sent(&datapath, CLIENT, FIRST, tcp::FIN | tcp::ACK)?;
    assert_ne!(establish(&datapath, SECOND, BACKEND)?, SEEN);
    Ok(())
}

#[test]
fn a_connection_begun_anew_goes_to_a_new_backend_with_all_its_packets() -> Result<()> {
    for end in [tcp::FIN | tcp::ACK, tcp::RST] {
        let mut datapath = node()?;
        establish(&datapath, FIRST, BACKEND)?;
        sent(&datapath, CLIENT, FIRST, end)?;
        datapath.backend(1, "10.244.1.7:8080")?;
        datapath.service(FIRST, TCP, &[1])?;
        establish(&datapath, FIRST, "10.244.1.7:8080")?;
        assert_eq!(datapath.flows("CONNTRACK")?.len(), 2, "the old flow is forgotten");
    }
    Ok(())
}

#[test]
fn a_client_with_more_connections_than_ports_is_served_from_closed_ones() -> Result<()> {
    let mut datapath = Datapath::load_with_conntrack(65_536)?;
    for pod in ["10.244.1.5", "10.244.1.6"] {
        datapath.pod(pod, CLIENT_IFINDEX)?;
    }
    datapath.backend(0, BACKEND)?;
    // So many VIPs that every port that stands for the client's is taken, and all others that are tried for it.
    for vip in 1..=64 {
        let vip = format!("10.96.1.{vip}:80");
        datapath.service(&vip, TCP, &[0])?;
        let seen = establish(&datapath, &vip, BACKEND)?;
        sent(&datapath, BACKEND, &seen, tcp::FIN | tcp::ACK)?;
        sent(&datapath, CLIENT, &vip, tcp::FIN | tcp::ACK)?;
    }
    assert_eq!(datapath.all_drops()?, 0);
    Ok(())
}
