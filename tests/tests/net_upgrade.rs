//! An agent that was built with other programs puts them in the place of those that run, and no packet is lost.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use aya::programs::links::{FdLink, PinnedLink};
use causeway_agent::bpf::{Datapath, DatapathError};
use causeway_maps::pins;
use causeway_tests::{
    netns::{Lab, Node, Pod, ask, tcp_service, udp_service},
    wait::for_true,
};

const PORT: u16 = 8080;
/// How often the programs are replaced while packets go through them.
const UPGRADES: usize = 5;
/// How long an exchange may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

/// The object of another build: its programs begin to hash with another number, so new flows find other backends.
fn other_object() -> Vec<u8> {
    const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
    // A 64-bit number takes two instructions of eight bytes, whose last four hold its halves (RFC 9669, 5.4).
    let (low, high) = ((SEED as u32).to_le_bytes(), ((SEED >> 32) as u32).to_le_bytes());
    let mut object = Datapath::OBJECT.to_vec();
    let mut found = 0;
    for at in (0..object.len() - 16).step_by(8) {
        if object[at] == 0x18 && object[at + 4..at + 8] == low && object[at + 12..at + 16] == high {
            object[at + 4] ^= 0x55;
            found += 1;
        }
    }
    assert!(found > 0, "the programs hash with another number than this test knows");
    object
}

/// Link and program behind each pin of a node.
fn attached(node: &Node) -> Vec<(String, u32, u32)> {
    let directory = pins::links_dir(&node.pin_dir);
    let mut links: Vec<_> = std::fs::read_dir(directory)
        .expect("the links' directory")
        .map(|entry| {
            let path = entry.expect("a pin").path();
            let link = FdLink::from(PinnedLink::from_pin(&path).expect("a link"));
            let info = link.info().expect("what it is");
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, info.id(), info.program_id())
        })
        .collect();
    links.sort();
    links
}

/// Exchanges without end, each of which has to succeed.
struct Load {
    stop: AtomicBool,
    exchanges: [AtomicUsize; 3],
}

impl Load {
    /// Says something on a connection and hears it back, again and again.
    fn talk(&self, mut stream: TcpStream) {
        let mut number = 0_u32;
        while !self.stop.load(Ordering::Relaxed) {
            stream
                .write_all(&number.to_be_bytes())
                .expect("a connection that lasts");
            let mut heard = [0; 4];
            stream.read_exact(&mut heard).expect("a connection that lasts");
            assert_eq!(heard, number.to_be_bytes());
            number += 1;
            self.exchanges[0].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Connects anew each time.
    fn connect(&self, connect: impl Fn() -> std::io::Result<TcpStream>) {
        while !self.stop.load(Ordering::Relaxed) {
            let stream = connect().expect("a new connection");
            assert!(["near", "far"].contains(&ask(&stream).expect("an answer").as_str()));
            self.exchanges[1].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends a datagram and waits for the answer; none may be lost on either way.
    fn datagrams(&self, pod: &Pod) {
        let socket = UdpSocket::from(pod.unhooked_socket(libc::AF_INET, libc::SOCK_DGRAM));
        nix::sys::socket::connect(socket.as_raw_fd(), &nix::sys::socket::SockaddrStorage::from(vip())).expect("a peer");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        while !self.stop.load(Ordering::Relaxed) {
            socket.send(b"who?").expect("a datagram that is sent");
            socket.recv(&mut [0; 16]).expect("an answer to every datagram");
            self.exchanges[2].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> [usize; 3] {
        self.exchanges.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// Ends the load also when the test panics.
struct Stop<'a>(&'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn other_programs_take_over_in_place_and_no_packet_is_lost() {
    let mut lab = Lab::pair();
    let clients = [lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(4)];
    let servers = [lab.nodes[0].add_pod(3), lab.nodes[1].add_pod(3)];
    let _tcp = [0, 1].map(|number| servers[number].serve_tcp(PORT, ["near", "far"][number]));
    let _udp = [0, 1].map(|number| servers[number].serve_udp(PORT, ["near", "far"][number]));
    let both = [&servers[0], &servers[1]];
    lab.serve(&[tcp_service(vip(), PORT, &both), udp_service(vip(), PORT, &both)]);
    let objects = [other_object(), Datapath::OBJECT.to_vec()];

    let load = Load {
        stop: AtomicBool::new(false),
        exchanges: Default::default(),
    };
    let before: Vec<_> = lab.nodes.iter().map(attached).collect();
    thread::scope(|scope| {
        let _stop = Stop(&load);
        for client in &clients {
            // Through the VIP packet by packet, and straight to the other node.
            for connection in [client.connect_unhooked(vip()), client.connect(servers[1].at(PORT))] {
                let stream = connection.expect("a connection");
                stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
                ask(&stream).expect("an answer");
                scope.spawn(|| load.talk(stream));
            }
            scope.spawn(|| load.datagrams(client));
        }
        scope.spawn(|| load.connect(|| clients[0].connect_unhooked(vip())));
        scope.spawn(|| load.connect(|| clients[1].connect(vip())));

        let mut seen = BTreeSet::new();
        for round in 0..UPGRADES {
            for (node, before) in lab.nodes.iter_mut().zip(&before) {
                node.close();
                node.open_object(&objects[round % 2])
                    .expect("programs that can take over");
                let links = |attached: &[(String, u32, u32)]| -> Vec<(String, u32)> {
                    attached.iter().map(|(name, link, _)| (name.clone(), *link)).collect()
                };
                let now = attached(node);
                assert_eq!(links(&now), links(before), "the links are those that were there");
                let programs: BTreeSet<u32> = now.iter().map(|(.., program)| *program).collect();
                assert!(programs.is_disjoint(&seen), "a program of an earlier round still runs");
                seen.extend(programs);
            }
            // Every kind of traffic has gone through these programs.
            let counts = load.counts();
            for_true("traffic under the new programs", PATIENCE, || {
                load.counts().iter().zip(counts).all(|(now, before)| *now > before + 5)
            });
        }
    });
    for node in &lab.nodes {
        let drops = node.datapath().drops().expect("the counters");
        assert!(drops.iter().all(|(_, counters)| counters.packets == 0), "{drops:?}");
    }
}

#[test]
fn programs_that_are_none_leave_those_that_run_where_they_are() {
    let mut lab = Lab::single();
    let (client, server) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    let _listening = server.serve_tcp(PORT, "near");
    lab.serve(&[tcp_service(vip(), PORT, &[&server])]);
    let before = attached(&lab.nodes[0]);
    lab.nodes[0].close();
    let mut broken = Datapath::OBJECT.to_vec();
    broken.truncate(4_096);
    let error = lab.nodes[0].open_object(&broken).expect_err("half an object");
    assert!(matches!(error, DatapathError::Load(_)), "{error}");
    assert_eq!(attached(&lab.nodes[0]), before);
    for connect in [Pod::connect, Pod::connect_unhooked] {
        assert_eq!(
            ask(&connect(&client, vip()).expect("a connection")).expect("an answer"),
            "near"
        );
    }
}
