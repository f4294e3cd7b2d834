//! Frames with a VLAN tag. The kernel takes the tag out of a frame before any program sees it, which test runs do not do: so these
//! come over a real link.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use causeway_abi::DropReason;
use causeway_agent::bpf::Scope;
use causeway_maps::PinnedMaps;
use causeway_tests::netns::{Lab, Netns, udp_service};
use causeway_tests::packet::Frame;
use causeway_tests::wait::for_true;

const PORT: u16 = 8080;
const NODE_PORT: u16 = 30_080;
/// Bound for what the kernel does at once.
const SOON: Duration = Duration::from_secs(30);
/// So often: frames of one link may change their order.
const TIMES: u16 = 20;

/// Sends frames out of an interface of a namespace as they are.
fn send(netns: &Netns, interface: &str, frames: &[Vec<u8>]) {
    netns.run(|| {
        let index = nix::net::if_::if_nametoindex(interface).expect("the interface");
        // SAFETY: plain system calls; the address and the frames are valid for their sizes.
        unsafe {
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(socket >= 0, "a packet socket: {}", io::Error::last_os_error());
            let socket = OwnedFd::from_raw_fd(socket);
            let to = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as u16,
                sll_protocol: 0,
                sll_ifindex: i32::try_from(index).expect("an index"),
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 6,
                sll_addr: [0; 8],
            };
            for frame in frames {
                let sent = libc::sendto(
                    socket.as_raw_fd(),
                    frame.as_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw const to).cast(),
                    size_of::<libc::sockaddr_ll>() as libc::socklen_t,
                );
                assert_eq!(
                    usize::try_from(sent).ok(),
                    Some(frame.len()),
                    "{}",
                    io::Error::last_os_error()
                );
            }
        }
    });
}

/// A datagram to whoever is on the link.
fn datagram(from: impl std::fmt::Display, port: u16, to: SocketAddr, tags: &[u16]) -> Vec<u8> {
    let frame = Frame::udp(&format!("{from}:{port}"), &to.to_string()).payload(b"who?");
    let mut frame = tags.iter().fold(frame, |frame, tag| frame.vlan(*tag)).build();
    frame[..6].fill(0xff);
    frame
}

/// Client ports of the flows that the node knows.
fn known(maps: &PinnedMaps) -> BTreeSet<u16> {
    let flows = [&maps.conntrack, &maps.conntrack_new].map(|table| table.entries().expect("flows"));
    let ports = |(key, _): &(causeway_abi::conntrack::FlowKey, _)| u16::from_be(key.source_port_be);
    flows.iter().flatten().map(ports).collect()
}

#[test]
fn what_comes_by_a_vlan_of_the_uplink_is_not_for_the_uplinks_services() {
    let mut lab = Lab::single();
    let outsider = lab.outsider(200);
    let server = lab.nodes[0].add_pod(3);
    let _listening = server.serve_udp(PORT, "one");
    let to = SocketAddr::new(lab.nodes[0].underlay_address(), NODE_PORT);
    let mut service = udp_service(to, PORT, &[&server]);
    service.frontends[0].scope = Scope::External;
    lab.serve(&[service]);

    let at = |first: u16, tags: &'static [u16]| {
        let address = outsider.address;
        move |number: u16| datagram(address, first + number, to, tags)
    };
    // In a VLAN; with nothing but a priority; and as all are.
    let (tagged, prioritised, plain) = (at(2_000, &[100]), at(3_000, &[0]), at(4_000, &[]));
    let frames = (0..TIMES).flat_map(|number| [tagged(number), prioritised(number), plain(number)]);
    send(&outsider.netns, lab.nodes[0].uplink(), &frames.collect::<Vec<_>>());

    let maps = lab.nodes[0].maps();
    let expected: BTreeSet<u16> = (3_000..3_000 + TIMES).chain(4_000..4_000 + TIMES).collect();
    for_true("flows of those without a VLAN", SOON, || {
        expected.is_subset(&known(&maps))
    });
    let tagged: Vec<_> = known(&maps)
        .into_iter()
        .filter(|port| (2_000..3_000).contains(port))
        .collect();
    assert!(tagged.is_empty(), "taken for the uplink's own: {tagged:?}");
}

#[test]
fn no_tag_gets_a_pod_past_its_source_check() {
    let mut lab = Lab::single();
    let (pod, server) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    let to = server.at(PORT);
    let heard = std::net::UdpSocket::from(server.socket(libc::AF_INET, libc::SOCK_DGRAM));
    nix::sys::socket::bind(heard.as_raw_fd(), &nix::sys::socket::SockaddrStorage::from(to)).expect("an address");
    heard.set_read_timeout(Some(SOON)).expect("a bound");

    let lie = "192.0.2.1";
    let lies: Vec<_> = [&[0][..], &[0, 0], &[100], &[]]
        .iter()
        .map(|tags| datagram(lie, 2_000, to, tags))
        .collect();
    send(&pod.netns, "eth0", &lies);
    // Two of them look like any packet, and one hides behind a second tag; what is in a VLAN is nobody's here.
    let maps = lab.nodes[0].maps();
    let drops = |reason: DropReason| maps.drops.sum(reason as u32).expect("counters").packets;
    for_true("lies to be found out", SOON, || {
        drops(DropReason::SourceAddressNotPods) >= 2 && drops(DropReason::MalformedPacket) >= 1
    });
    send(&pod.netns, "eth0", &[datagram(pod.address, 4_000, to, &[0])]);
    let mut buffer = [0; 64];
    let (_, from) = heard.recv_from(&mut buffer).expect("what is no lie");
    assert_eq!(from, SocketAddr::new(pod.address, 4_000), "nothing came before it");
}
