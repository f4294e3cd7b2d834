//! Fragments of datagrams that are balanced, in every order.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
};

use causeway_abi::DropReason;
use causeway_tests::{
    netns::Netns,
    packet::{CLIENT_IFINDEX, Datapath, Frame, HELD, Outcome, Verdict, decode, transport_checksum},
};

const UDP: u8 = 17;
/// Every order of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// What comes in by the loopback device of the namespace, where test runs have their packets come in again.
struct Wire(OwnedFd);

impl Wire {
    /// The calling thread's namespace must be one of the test's own.
    fn tap() -> Self {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip runs").success(), "a loopback device that is up");
        // SAFETY: plain system calls; the address is valid for its size.
        unsafe {
            let every = u16::try_from(libc::ETH_P_ALL).expect("sixteen bits").to_be();
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, every.into());
            assert!(socket >= 0, "a packet socket: {}", io::Error::last_os_error());
            let patience = libc::timeval { tv_sec: 10, tv_usec: 0 };
            let length = size_of::<libc::timeval>() as libc::socklen_t;
            let value = (&raw const patience).cast();
            assert_eq!(
                libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, value, length),
                0
            );
            Self(OwnedFd::from_raw_fd(socket))
        }
    }

    /// The next so many frames; there are no more.
    fn take(&self, count: usize) -> Vec<Vec<u8>> {
        let frames = (0..count)
            .map(|number| {
                self.receive(0)
                    .unwrap_or_else(|error| panic!("frame {number} of {count}: {error}"))
            })
            .collect();
        assert!(self.receive(libc::MSG_DONTWAIT).is_err(), "more than {count} frames");
        frames
    }

    fn receive(&self, flags: i32) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; 4096];
        // SAFETY: the buffer is writable for its length.
        let length = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), flags) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        frame.truncate(length);
        Ok(frame)
    }
}

/// A UDP datagram of three fragments, with its checksum.
fn fragments(from: SocketAddr, to: SocketAddr) -> Vec<Vec<u8>> {
    let payload: Vec<u8> = (0..64).collect();
    let whole = Frame::udp(&from.to_string(), &to.to_string()).payload(&payload).build();
    let header = if from.is_ipv4() { 34 } else { 54 };
    let datagram = &whole[header..];
    let (source, destination) = (from.ip().to_string(), to.ip().to_string());
    [(0, 24), (24, 48), (48, 72)]
        .into_iter()
        .map(|(begin, end)| {
            let more = u16::from(end < 72);
            let frame = Frame::raw(&source, &destination, UDP, &datagram[begin..end]);
            let begin = u16::try_from(begin).expect("small");
            if from.is_ipv4() {
                frame.fragment((more << 13) | (begin / 8)).build()
            } else {
                frame.fragment_v6(begin | more).build()
            }
        })
        .collect()
}

/// Puts a datagram together, of fragments in their order, and looks at its checksum.
fn reassemble(frames: &[Outcome]) -> (SocketAddr, SocketAddr) {
    let is_v4 = frames[0].frame[12..14] == [0x08, 0x00];
    let header = if is_v4 { 34 } else { 62 };
    let datagram: Vec<u8> = frames
        .iter()
        .flat_map(|outcome| outcome.frame[header..].to_vec())
        .collect();
    let ends = frames.iter().map(|outcome| {
        let there = decode(&outcome.frame);
        (there.source.ip(), there.destination.ip())
    });
    let mut ends: Vec<(IpAddr, IpAddr)> = ends.collect();
    ends.dedup();
    let [(source, destination)] = ends[..] else {
        panic!("fragments go different ways: {ends:?}")
    };
    assert_eq!(
        transport_checksum(source, destination, UDP, &datagram),
        0,
        "{datagram:02x?}"
    );
    let port = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
    (SocketAddr::new(source, port(0)), SocketAddr::new(destination, port(2)))
}

/// Sends fragments in an order; as the program left them, in their own order. Those before the first come in again after it.
fn send(datapath: &Datapath, wire: &Wire, fragments: &[Vec<u8>], order: [usize; 3]) -> Vec<Outcome> {
    let run = |frame: &[u8]| datapath.run("cw_from_pod", frame).expect("a run");
    let first_at = order.iter().position(|number| *number == 0).expect("a first one");
    let mut out = Vec::new();
    for (at, number) in order.into_iter().enumerate() {
        let outcome = run(&fragments[number]);
        if at < first_at {
            assert_eq!(outcome.verdict, Verdict::Drop, "kept");
            assert_eq!(wire.take(0), Vec::<Vec<u8>>::new());
            continue;
        }
        assert_eq!(outcome.verdict, Verdict::Redirect, "fragment {number} of {order:?}");
        out.push((number, outcome));
        if at == first_at {
            // In any order, each as it was.
            for frame in wire.take(first_at) {
                let number = fragments.iter().position(|fragment| *fragment == frame);
                let number = number.expect("one of the fragments, unchanged");
                assert!(order[..first_at].contains(&number), "one that came before the first");
                out.push((number, run(&frame)));
            }
        }
    }
    out.sort_by_key(|(number, _)| *number);
    out.into_iter().map(|(_, outcome)| outcome).collect()
}

/// A service with a backend, and a client for each order.
fn node(client: impl Fn(usize) -> String, vip: &str, backend: &str) -> Datapath {
    let mut datapath = Datapath::load().expect("programs that load");
    let pod = |address: &str| address.parse::<SocketAddr>().expect("an address").ip().to_string();
    for number in 0..ORDERS.len() {
        datapath.pod(&pod(&client(number)), CLIENT_IFINDEX).expect("a pod");
    }
    datapath.pod(&pod(backend), CLIENT_IFINDEX).expect("a pod");
    datapath.backend(0, backend).expect("a backend");
    datapath.service(vip, UDP, &[0]).expect("a service");
    datapath
}

fn every_order(client: impl Fn(usize) -> String + Sync, vip: &str, backend: &str) {
    let parse = |text: &str| text.parse::<SocketAddr>().expect("an address");
    Netns::new().run(|| {
        let (datapath, wire) = (node(&client, vip, backend), Wire::tap());
        for (number, order) in ORDERS.into_iter().enumerate() {
            let client = parse(&client(number));
            // The question, and the answer in the same order.
            let asked = send(&datapath, &wire, &fragments(client, parse(vip)), order);
            let (seen, reached) = reassemble(&asked);
            assert_eq!((seen.ip(), reached), (client.ip(), parse(backend)));
            let answered = send(&datapath, &wire, &fragments(reached, seen), order);
            assert_eq!(reassemble(&answered), (parse(vip), client));
        }
        assert_eq!(datapath.all_drops().expect("the counters"), 0);
    });
}

#[test]
fn a_datagram_to_a_vip_and_its_answer_arrive_whole_in_every_order() {
    every_order(
        |number| format!("10.244.1.{}:40000", 10 + number),
        "10.96.0.10:53",
        "10.244.1.6:5353",
    );
}

#[test]
fn ipv6_datagrams_too() {
    every_order(
        |number| format!("[fd00:1::{}]:40000", 10 + number),
        "[fd00:96::10]:53",
        "[fd00:1::6]:5353",
    );
}

#[test]
fn fragments_between_pods_wait_too_and_stay_as_they_are() {
    let parse = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let (client, other) = (parse("10.244.1.10:40000"), parse("10.244.1.6:5353"));
    Netns::new().run(|| {
        let datapath = node(
            |number| format!("10.244.1.{}:40000", 10 + number),
            "10.96.0.10:53",
            "10.244.1.6:5353",
        );
        let sent = send(&datapath, &Wire::tap(), &fragments(client, other), [2, 1, 0]);
        assert_eq!(reassemble(&sent), (client, other));
    });
}

#[test]
fn what_cannot_be_kept_is_dropped_with_a_reason() {
    Netns::new().run(|| {
        let datapath = node(
            |number| format!("10.244.1.{}:40000", 10 + number),
            "10.96.0.10:53",
            "10.244.1.6:5353",
        );
        let run = |bytes: usize, offset: u16| {
            let frame = Frame::raw("10.244.1.10", "10.96.0.10", UDP, &vec![7; bytes]).fragment(0x2000 | offset);
            assert_eq!(
                datapath.run("cw_from_pod", &frame.build()).expect("a run").verdict,
                Verdict::Drop
            );
            datapath.drops(DropReason::FragmentNotHeld).expect("the counter")
        };
        assert_eq!(run(3_000, 1), 1, "too large");
        // Small ones, next to each other: as many as there are places for them.
        let mut dropped = 0;
        for offset in 1..=100 {
            dropped = run(8, offset);
        }
        assert!(dropped > 80, "{dropped}");
    });
}

/// The datagram's only other fragment, which comes first, with an identification.
fn last(from: SocketAddr, to: SocketAddr, identification: u16) -> Vec<u8> {
    let (from, to) = (from.ip().to_string(), to.ip().to_string());
    let mut frame = Frame::raw(&from, &to, UDP, &[7; 24]).fragment(3).build();
    frame[18..20].copy_from_slice(&identification.to_be_bytes());
    frame
}

#[test]
fn who_has_waited_longest_makes_room_and_is_counted() {
    let parse = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let (client, vip) = (parse("10.244.1.10:40000"), parse("10.96.0.10:53"));
    Netns::new().run(|| {
        let datapath = node(
            |number| format!("10.244.1.{}:40000", 10 + number),
            "10.96.0.10:53",
            "10.244.1.6:5353",
        );
        let drops = |reason| datapath.drops(reason).expect("the counter");
        let lost = || drops(DropReason::FragmentEvicted) + drops(DropReason::FragmentExpired);
        let sent = 8 * u64::from(HELD);
        for number in 0..sent {
            let number = u16::try_from(number).expect("small");
            let frame = last(client, vip, number);
            let out = datapath.run("cw_from_pod", &frame).expect("a run");
            assert_eq!(out.verdict, Verdict::Drop);
            if number % 100 == 0 {
                let held = datapath.held().expect("the table");
                assert!(
                    held.contains(&u32::from(number.to_be())),
                    "the one that came last is kept: {held:?}"
                );
            }
        }
        let held = datapath.held().expect("the table").len() as u64;
        // Each of so many has a few places at random.
        assert!(held <= u64::from(HELD) && held > u64::from(HELD) / 2, "{held} are kept");
        assert_eq!((drops(DropReason::FragmentNotHeld), held + lost()), (0, sent));
        // What is kept is still of use.
        let wire = Wire::tap();
        let identification = u16::try_from(sent - 1).expect("small");
        let mut first = fragments(client, vip)[0].clone();
        first[18..20].copy_from_slice(&identification.to_be_bytes());
        assert_eq!(
            datapath.run("cw_from_pod", &first).expect("a run").verdict,
            Verdict::Redirect
        );
        assert_eq!(wire.take(1), [last(client, vip, identification)]);
        assert_eq!(datapath.held().expect("the table").len() as u64, held - 1);
    });
}

#[test]
fn a_dry_run_keeps_nothing() {
    Netns::new().run(|| {
        let datapath = node(
            |number| format!("10.244.1.{}:40000", 10 + number),
            "10.96.0.10:53",
            "10.244.1.6:5353",
        );
        let wire = Wire::tap();
        let [first, later, _] = &fragments("10.244.1.10:40000".parse().unwrap(), "10.96.0.10:53".parse().unwrap())[..]
        else {
            panic!("three fragments")
        };
        datapath.explain("cw_from_pod", later).expect("a run");
        assert_eq!(
            datapath.run("cw_from_pod", first).expect("a run").verdict,
            Verdict::Redirect
        );
        assert_eq!(wire.take(0).len(), 0);
    });
}
