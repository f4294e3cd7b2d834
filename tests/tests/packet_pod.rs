//! What a pod may send, and where it goes when no service is involved.

use anyhow::Result;
use causeway_abi::DropReason;
use causeway_tests::packet::{CLIENT_IFINDEX, Datapath, Frame, Verdict, decode, one_hop_later, tcp};

const POD: &str = "10.244.1.5";

fn node() -> Result<Datapath> {
    let mut datapath = Datapath::load()?;
    datapath.pod(POD, CLIENT_IFINDEX)?;
    datapath.pod("fd00:1::5", CLIENT_IFINDEX)?;
    datapath.pod("10.244.1.6", 77)?;
    datapath.route("10.244.2.0", 24, "172.30.0.12")?;
    datapath.route("fd00:2::", 64, "172.30.0.12")?;
    Ok(datapath)
}

#[track_caller]
fn dropped(datapath: &Datapath, frame: &[u8], reason: DropReason) {
    let before = datapath.drops(reason).expect("the map is readable");
    let all = datapath.all_drops().expect("the map is readable");
    let out = datapath.run("cw_from_pod", frame).expect("the program runs");
    assert_eq!(out.verdict, Verdict::Drop, "{frame:02x?}");
    assert_eq!(
        datapath.drops(reason).expect("the map is readable"),
        before + 1,
        "{frame:02x?}"
    );
    assert_eq!(
        datapath.all_drops().expect("the map is readable"),
        all + 1,
        "counted once"
    );
}

#[track_caller]
fn passed(datapath: &Datapath, frame: &[u8]) {
    let out = datapath.run("cw_from_pod", frame).expect("the program runs");
    assert_eq!((out.verdict, out.frame.as_slice()), (Verdict::Pass, frame));
    assert_eq!(datapath.all_drops().expect("the map is readable"), 0);
}

#[test]
fn a_pod_of_the_same_node_is_reached_directly() -> Result<()> {
    let datapath = node()?;
    for frame in [
        Frame::tcp("10.244.1.5:40000", "10.244.1.6:80", tcp::SYN),
        Frame::udp("10.244.1.5:40000", "10.244.1.6:80"),
        Frame::icmp(POD, "10.244.1.6", 8, 0, &[0, 1, 0, 1]),
    ] {
        let frame = frame.build();
        let out = datapath.run("cw_from_pod", &frame)?;
        assert_eq!(out.verdict, Verdict::Redirect);
        assert_eq!(
            out.frame[14..],
            one_hop_later(&frame),
            "nothing but MAC addresses and a hop"
        );
        let there = decode(&out.frame);
        assert_eq!((there.to_mac, there.from_mac), ([2, 0, 0, 0, 1, 6], [2, 0, 0, 0, 2, 6]));
    }
    Ok(())
}

#[test]
fn a_pod_of_another_node_is_reached_through_the_tunnel() -> Result<()> {
    let datapath = node()?;
    for frame in [
        Frame::tcp("10.244.1.5:40000", "10.244.2.6:80", tcp::SYN),
        Frame::tcp("[fd00:1::5]:40000", "[fd00:2::6]:80", tcp::SYN),
        Frame::icmp(POD, "10.244.2.6", 8, 0, &[0, 1, 0, 1]),
    ] {
        let frame = frame.build();
        let out = datapath.run("cw_from_pod", &frame)?;
        assert_eq!(out.verdict, Verdict::Redirect);
        assert_ne!(out.mark, 0, "the tunnel's egress program knows that the key is set");
        assert_eq!(out.frame[14..], one_hop_later(&frame));
    }
    Ok(())
}

#[test]
fn the_node_and_the_world_are_left_to_the_kernel() -> Result<()> {
    let datapath = node()?;
    for destination in ["10.244.1.1:6550", "172.30.0.11:22", "192.0.2.1:443"] {
        passed(
            &datapath,
            &Frame::tcp("10.244.1.5:40000", destination, tcp::SYN).build(),
        );
    }
    Ok(())
}

#[test]
fn an_address_that_is_not_the_pods_is_dropped() -> Result<()> {
    let datapath = node()?;
    for source in [
        "10.244.1.6:40000",
        "10.244.1.7:40000",
        "10.96.0.10:80",
        "192.0.2.1:1",
        "0.0.0.0:68",
    ] {
        let frame = Frame::udp(source, "10.244.1.6:80").build();
        dropped(&datapath, &frame, DropReason::SourceAddressNotPods);
    }
    let frame = Frame::tcp("[fd00:1::6]:40000", "[fd00:2::6]:80", tcp::SYN).build();
    dropped(&datapath, &frame, DropReason::SourceAddressNotPods);
    // Link-local sources may talk to the link, and to nobody else.
    let frame = Frame::tcp("[fe80::5]:40000", "[fd00:2::6]:80", tcp::SYN).build();
    dropped(&datapath, &frame, DropReason::SourceAddressNotPods);
    Ok(())
}

#[test]
fn what_keeps_the_link_working_passes() -> Result<()> {
    let datapath = node()?;
    let mut arp = vec![0xff; 6];
    arp.extend([2, 0, 0, 0, 0, 0xbb, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([0; 20]);
    passed(&datapath, &arp);
    let solicitation = [0_u8; 20];
    passed(
        &datapath,
        &Frame::icmp("fe80::5", "ff02::1:ff00:1", 135, 0, &solicitation).build(),
    );
    passed(&datapath, &Frame::icmp("::", "ff02::16", 143, 0, &solicitation).build());
    Ok(())
}

#[test]
fn a_vlan_tagged_frame_passes() -> Result<()> {
    let datapath = node()?;
    passed(
        &datapath,
        &Frame::tcp("192.0.2.1:40000", "10.244.1.6:80", tcp::SYN)
            .vlan(100)
            .build(),
    );
    Ok(())
}

#[test]
fn every_truncated_packet_is_dropped() -> Result<()> {
    let datapath = node()?;
    for frame in [
        Frame::tcp("10.244.1.5:40000", "10.244.1.6:80", tcp::SYN).build(),
        Frame::udp("10.244.1.5:40000", "10.244.1.6:80").options(&[1; 8]).build(),
        Frame::tcp("[fd00:1::5]:40000", "[fd00:2::6]:80", tcp::SYN)
            .extensions(2)
            .build(),
        Frame::icmp(POD, "10.244.1.6", 8, 0, &[0, 1, 0, 1]).build(),
    ] {
        // Test runs take nothing shorter than an IP header; the parser's own tests do.
        let shortest = if frame[12] == 0x08 { 34 } else { 54 };
        for length in shortest..frame.len() {
            dropped(&datapath, &frame[..length], DropReason::MalformedPacket);
        }
    }
    Ok(())
}

#[test]
fn headers_that_contradict_themselves_are_dropped() -> Result<()> {
    let datapath = node()?;
    let good = Frame::tcp("10.244.1.5:40000", "10.244.1.6:80", tcp::SYN).build();
    for (at, byte) in [(14, 0x65), (14, 0x44), (34 + 12, 0xf0), (34 + 12, 0x40)] {
        let mut frame = good.clone();
        frame[at] = byte;
        dropped(&datapath, &frame, DropReason::MalformedPacket);
    }
    let mut frame = Frame::udp("10.244.1.5:40000", "10.244.1.6:80").build();
    frame[34 + 5] = 7;
    dropped(&datapath, &frame, DropReason::MalformedPacket);
    // A first fragment that holds half a TCP header hides its flags from filters.
    let frame = Frame::raw(POD, "10.244.1.6", 6, &[0; 16]).fragment(0x2000).build();
    dropped(&datapath, &frame, DropReason::MalformedPacket);
    Ok(())
}

#[test]
fn options_and_fragments_are_delivered() -> Result<()> {
    let datapath = node()?;
    for frame in [
        Frame::tcp("10.244.1.5:40000", "10.244.1.6:80", tcp::SYN).options(&[1; 40]),
        Frame::udp("10.244.1.5:40000", "10.244.1.6:80")
            .options(&[1; 4])
            .payload(b"x"),
        Frame::raw(POD, "10.244.1.6", 17, &[0x9c, 0x40, 0, 53, 16, 0, 0, 0]).fragment(0x2000),
        Frame::raw(POD, "10.244.1.6", 17, &[7; 64]).fragment(0x2001),
        Frame::raw(POD, "10.244.1.6", 47, &[1, 2, 3]),
    ] {
        let frame = frame.build();
        let out = datapath.run("cw_from_pod", &frame)?;
        assert_eq!(
            (out.verdict, &out.frame[14..]),
            (Verdict::Redirect, &one_hop_later(&frame)[..])
        );
    }
    Ok(())
}

#[test]
fn ipv6_extension_headers_are_walked_to_a_bound() -> Result<()> {
    let datapath = node()?;
    for count in 0..=6 {
        let frame = Frame::tcp("[fd00:1::5]:40000", "[fd00:2::6]:80", tcp::SYN)
            .extensions(count)
            .build();
        assert_eq!(
            datapath.run("cw_from_pod", &frame)?.verdict,
            Verdict::Redirect,
            "{count} headers"
        );
    }
    let frame = Frame::tcp("[fd00:1::5]:40000", "[fd00:2::6]:80", tcp::SYN)
        .extensions(7)
        .build();
    dropped(&datapath, &frame, DropReason::MalformedPacket);
    Ok(())
}

#[test]
fn options_and_extension_headers_do_not_hide_a_service() -> Result<()> {
    let mut datapath = node()?;
    datapath.backend(0, "10.244.2.9:8080")?;
    datapath.backend(1, "[fd00:2::9]:8080")?;
    datapath.service("10.96.0.10:80", 6, &[0])?;
    datapath.service("[fd00:96::10]:80", 6, &[1])?;
    let options = Frame::tcp("10.244.1.5:40000", "10.96.0.10:80", tcp::SYN).options(&[1; 12]);
    let extensions = Frame::tcp("[fd00:1::5]:40000", "[fd00:96::10]:80", tcp::SYN).extensions(3);
    for (frame, path) in [
        (options, "10.244.1.5:8256 > 10.244.2.9:8080"),
        (extensions, "[fd00:1::5]:8256 > [fd00:2::9]:8080"),
    ] {
        let out = datapath.run("cw_from_pod", &frame.build())?;
        assert_eq!(
            (out.verdict, decode(&out.frame).path().as_str()),
            (Verdict::Redirect, path)
        );
    }
    Ok(())
}
