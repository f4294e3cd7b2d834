//! Packets that do not fit, with real sockets: divided ones in every order, and who is told what would fit.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use causeway_agent::bpf::Scope;
use causeway_tests::{
    netns::{Lab, Pod, also_at, option, set_option, udp_service},
    packet::Frame,
    wait::for_true,
};

const PORT: u16 = 5353;
const NODE_PORT: u16 = 30_053;
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an IP packet that the pods' links and the tunnel carry.
const ROOM: usize = 1_450;

fn vip(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, last], 53))
}

/// A datagram as three IP packets, whose transport parts are multiples of eight bytes.
fn fragments(from: SocketAddr, to: SocketAddr, identification: u16) -> [Vec<u8>; 3] {
    const PART: usize = 1_424;
    let whole = Frame::udp(&from.to_string(), &to.to_string())
        .payload(&vec![7; 2 * PART + 100])
        .build();
    let datagram = &whole[34..];
    [0, 1, 2].map(|number| {
        let end = datagram.len().min((number + 1) * PART);
        let more = u16::from(number < 2) << 13;
        let offset = u16::try_from(number * PART / 8).expect("small");
        let (from, to) = (from.ip().to_string(), to.ip().to_string());
        let frame = Frame::raw(&from, &to, 17, &datagram[number * PART..end]).fragment(more | offset);
        let mut packet = frame.build().split_off(14);
        // The kernel sets the checksum.
        packet[4..6].copy_from_slice(&identification.to_be_bytes());
        packet
    })
}

/// Sends IP packets from a pod, whatever they say.
fn send_raw(pod: &Pod, to: SocketAddr, packets: &[&[u8]]) {
    let SocketAddr::V4(to) = to else {
        panic!("an IPv4 address")
    };
    pod.netns.run(|| {
        // SAFETY: plain system calls; the descriptor is ours, buffers and address are valid for their sizes.
        unsafe {
            let socket = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW);
            assert!(socket >= 0, "a raw socket: {}", io::Error::last_os_error());
            let socket = OwnedFd::from_raw_fd(socket);
            let mut address: libc::sockaddr_in = std::mem::zeroed();
            address.sin_family = libc::AF_INET as libc::sa_family_t;
            address.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
            for packet in packets {
                let sent = libc::sendto(
                    socket.as_raw_fd(),
                    packet.as_ptr().cast(),
                    packet.len(),
                    0,
                    (&raw const address).cast(),
                    size_of::<libc::sockaddr_in>() as libc::socklen_t,
                );
                assert!(sent >= 0, "sending: {}", io::Error::last_os_error());
            }
        }
    });
}

#[test]
fn a_divided_datagram_is_answered_in_whatever_order_it_comes() {
    let mut lab = Lab::pair();
    let client = lab.nodes[0].add_pod(2);
    let servers = [lab.nodes[0].add_pod(3), lab.nodes[1].add_pod(3)];
    let _listening = [0, 1].map(|number| servers[number].serve_udp(PORT, ["near", "far"][number]));
    lab.serve(&[
        udp_service(vip(10), PORT, &[&servers[0]]),
        udp_service(vip(11), PORT, &[&servers[1]]),
    ]);
    let mut identification = 1;
    for (number, name) in ["near", "far"].into_iter().enumerate() {
        let straight = SocketAddr::new(servers[number].address, PORT);
        for to in [vip(10 + u8::try_from(number).expect("two")), straight] {
            let socket = UdpSocket::from(client.unhooked_socket(libc::AF_INET, libc::SOCK_DGRAM));
            let from = client.at(40_000 + identification);
            nix::sys::socket::bind(socket.as_raw_fd(), &nix::sys::socket::SockaddrStorage::from(from))
                .expect("a port that is free");
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                let packets = fragments(from, to, identification);
                identification += 1;
                send_raw(&client, to, &order.map(|place| &packets[place][..]));
                let mut answer = [0; 64];
                let (length, by) = socket
                    .recv_from(&mut answer)
                    .unwrap_or_else(|error| panic!("{name} does not answer {order:?} to {to}: {error}"));
                assert_eq!((&answer[..length], by), (name.as_bytes(), to));
            }
        }
    }
    for node in &lab.nodes {
        let drops = node.datapath().drops().expect("the counters");
        assert!(drops.iter().all(|(_, counters)| counters.packets == 0), "{drops:?}");
    }
}

/// What fits on the way to a connected socket's peer, as its kernel knows it.
fn mtu(socket: &UdpSocket) -> usize {
    let bytes = option::<i32>(socket, libc::IPPROTO_IP, libc::IP_MTU);
    usize::try_from(bytes).expect("a number of bytes")
}

#[test]
fn who_may_not_divide_a_datagram_learns_what_the_tunnel_takes() {
    let mut lab = Lab::pair();
    let outsider = lab.outsider(200);
    let server = lab.nodes[1].add_pod(3);
    let _listening = server.serve_udp(PORT, "far");
    let entry = &lab.nodes[0];
    lab.serve(&[also_at(
        udp_service(vip(10), PORT, &[&server]),
        entry.at(NODE_PORT),
        &[Scope::External],
    )]);
    let to = entry.at(NODE_PORT);
    let connected = |discovery: i32| {
        let socket = UdpSocket::from(outsider.socket(libc::SOCK_DGRAM));
        nix::sys::socket::connect(socket.as_raw_fd(), &nix::sys::socket::SockaddrStorage::from(to)).expect("a peer");
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &discovery);
        socket
    };
    let answered = |socket: &UdpSocket, bytes: usize| {
        socket.send(&vec![7; bytes - 28]).expect("a datagram that is sent");
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer).expect("an answer");
        assert_eq!(&answer[..length], b"far");
    };
    // What may be divided is, between the nodes.
    answered(&connected(libc::IP_PMTUDISC_DONT), 1_500);

    let socket = connected(libc::IP_PMTUDISC_DO);
    assert_eq!(mtu(&socket), 1_500);
    for_true("news of the tunnel's MTU", PATIENCE, || {
        // Fails once the news is there.
        let _ = socket.send(&[7; 1_472]);
        mtu(&socket) == ROOM
    });
    let _ = socket.send(&[7; 1_472]);
    let refused = socket.send(&[7; 1_472]).expect_err("more than fits");
    assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
    // The same news may have left another error behind.
    socket.take_error().expect("an option");
    answered(&socket, ROOM);
}
