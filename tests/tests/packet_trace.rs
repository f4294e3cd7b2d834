//! What watchers are told, packets that are only tried out, and clients that keep their backends.

use anyhow::Result;
use causeway_abi::{
    DropReason,
    event::{Choice, Hook, Trace, Verdict as Told},
    service::NO_BACKEND,
};
use causeway_tests::packet::{CLIENT_IFINDEX, Datapath, Frame, ServiceOptions, Verdict, decode, tcp};

const TCP: u8 = 6;
const VIP: &str = "10.96.0.10:80";

fn node() -> Result<Datapath> {
    let mut datapath = Datapath::load()?;
    datapath.pod("10.244.1.5", CLIENT_IFINDEX)?;
    datapath.pod("10.244.1.6", 77)?;
    datapath.route("10.244.2.0", 24, "172.30.0.12")?;
    Ok(datapath)
}

fn syn(port: u16, to: &str) -> Vec<u8> {
    Frame::tcp(&format!("10.244.1.5:{port}"), to, tcp::SYN).build()
}

#[test]
fn nothing_is_told_while_nobody_watches() -> Result<()> {
    let mut datapath = node()?;
    datapath.service(VIP, TCP, &[])?;
    datapath.watch(Trace {
        until_ns: 1,
        packets_until_ns: 1,
    })?;
    datapath.run("cw_from_pod", &syn(40_000, VIP))?;
    assert_eq!(datapath.events()?, []);
    Ok(())
}

#[test]
fn watchers_are_told_of_new_connections_and_refusals() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(3, "10.244.1.6:8080")?;
    let id = datapath.service(VIP, TCP, &[3])?;
    let empty = datapath.service("10.96.0.11:80", TCP, &[])?;
    datapath.watch(Trace {
        until_ns: u64::MAX,
        packets_until_ns: 0,
    })?;
    let frame = syn(40_000, VIP);
    datapath.run("cw_from_pod", &frame)?;
    // Not a new one.
    datapath.run("cw_from_pod", &frame)?;
    datapath.run("cw_from_pod", &syn(40_000, "10.96.0.11:80"))?;
    let events = datapath.events()?;
    let [opened, refused] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((opened.hook, opened.verdict), (Hook::FromPod as u8, Told::ToPod as u8));
    assert_eq!((opened.service_id, opened.backend, opened.reason), (id, 3, 0));
    assert_eq!(
        (
            u16::from_be(opened.destination_port_be),
            u16::from_be(opened.translated_destination_port_be)
        ),
        (80, 8080)
    );
    assert_eq!((opened.length as usize, opened.tcp_flags), (frame.len(), tcp::SYN));
    assert_eq!(
        (refused.verdict, refused.reason, refused.service_id, refused.backend),
        (Told::Refuse as u8, DropReason::NoReadyBackend as u32, empty, NO_BACKEND)
    );
    Ok(())
}

#[test]
fn watchers_of_packets_are_told_of_each() -> Result<()> {
    let mut datapath = node()?;
    datapath.watch(Trace {
        until_ns: 0,
        packets_until_ns: u64::MAX,
    })?;
    datapath.run("cw_from_pod", &syn(40_000, "10.244.1.6:80"))?;
    datapath.run("cw_from_pod", &syn(40_000, "10.244.2.6:80"))?;
    let verdicts: Vec<u8> = datapath.events()?.iter().map(|event| event.verdict).collect();
    assert_eq!(verdicts, [Told::ToPod as u8, Told::ToNode as u8]);
    Ok(())
}

#[test]
fn a_packet_that_is_tried_out_leaves_nothing_behind() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend_with(0, "10.244.1.6:8080", causeway_abi::backend::IN_USE, 1)?;
    datapath.backend(1, "10.244.2.9:8080")?;
    let id = datapath.service(VIP, TCP, &[0, 1])?;
    datapath.watch(Trace {
        until_ns: u64::MAX,
        packets_until_ns: u64::MAX,
    })?;
    let mut skipped = 0;
    for port in 40_000..40_020 {
        let (outcome, explanation) = datapath.explain("cw_from_pod", &syn(port, VIP))?;
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert!(decode(&outcome.frame).path().ends_with("10.244.2.9:8080"));
        assert_eq!(
            (explanation.service_id, explanation.backend, explanation.choice),
            (id, 1, Choice::Maglev as u32)
        );
        assert_eq!((explanation.verdict, explanation.reason), (Told::ToNode as u32, 0));
        skipped += explanation.skipped;
    }
    assert!(skipped > 0, "half of the slots belong to a backend that is not ready");
    assert_eq!(
        datapath.counters(id)?,
        causeway_abi::counter::ServiceCounters::default()
    );
    assert!(datapath.flows("CONNTRACK_NEW")?.is_empty());
    assert_eq!(datapath.events()?, []);

    let (outcome, explanation) = datapath.explain("cw_from_pod", &Frame::udp("10.244.1.9:1", VIP).build())?;
    assert_eq!(outcome.verdict, Verdict::Drop);
    assert_eq!(explanation.reason, DropReason::SourceAddressNotPods as u32);
    assert_eq!(datapath.all_drops()?, 0);
    Ok(())
}

#[test]
fn the_explanation_is_what_then_happens() -> Result<()> {
    let mut datapath = node()?;
    for index in 0..3 {
        datapath.backend(index, &format!("10.244.2.{index}:80"))?;
    }
    datapath.service(VIP, TCP, &[0, 1, 2])?;
    for port in 40_000..40_030 {
        let (tried, _) = datapath.explain("cw_from_pod", &syn(port, VIP))?;
        let done = datapath.run("cw_from_pod", &syn(port, VIP))?;
        assert_eq!(decode(&tried.frame), decode(&done.frame));
        let (_, explanation) = datapath.explain("cw_from_pod", &syn(port, VIP))?;
        assert_eq!(explanation.choice, Choice::Conntrack as u32);
    }
    Ok(())
}

#[test]
fn a_client_keeps_its_backend_while_it_comes_back_in_time() -> Result<()> {
    let mut datapath = node()?;
    for index in 0..4 {
        datapath.backend(index, &format!("10.244.2.{index}:80"))?;
    }
    let options = |affinity_seconds| ServiceOptions {
        affinity_seconds,
        ..ServiceOptions::default()
    };
    datapath.service_with(VIP, TCP, &[0, 1, 2, 3], options(3_600))?;
    let backend = |datapath: &Datapath, port| {
        let out = datapath.run("cw_from_pod", &syn(port, VIP))?;
        anyhow::Ok(decode(&out.frame).destination.to_string())
    };
    let first = backend(&datapath, 40_000)?;
    for port in 40_001..40_050 {
        assert_eq!(backend(&datapath, port)?, first);
    }
    let (_, explanation) = datapath.explain("cw_from_pod", &syn(50_000, VIP))?;
    assert_eq!(explanation.choice, Choice::Affinity as u32);
    // Its backend goes away: another one, and that from then on, also when the first comes back.
    let index = explanation.backend;
    datapath.backend_with(index, &first, causeway_abi::backend::IN_USE, 1)?;
    let second = backend(&datapath, 41_000)?;
    assert_ne!(second, first);
    datapath.backend(index, &first)?;
    for port in 41_001..41_020 {
        assert_eq!(backend(&datapath, port)?, second);
    }
    Ok(())
}
