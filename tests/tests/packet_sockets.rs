//! Balancing at the socket: real system calls to VIPs, answered by servers on loopback.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use causeway_abi::DropReason;
use causeway_abi::backend::{IN_USE, READY, TERMINATING};
use causeway_tests::packet::{CONNECTED_SOCKETS, Datapath, with_socket_hooks};

const TCP: u8 = 6;
const UDP: u8 = 17;
// errno(3).
const ENOBUFS: i32 = 105;
const BOUND: Duration = Duration::from_secs(5);

/// A TCP server that says a name to everybody who connects.
fn tcp_server(bind: &str, name: &'static str) -> Result<SocketAddr> {
    let listener = TcpListener::bind(bind)?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that is gone already is no concern of the server's.
            let _ = stream.and_then(|mut stream| stream.write_all(name.as_bytes()));
        }
    });
    Ok(address)
}

/// A UDP server that answers every datagram with a name.
fn udp_server(bind: &str, name: &'static str) -> Result<SocketAddr> {
    let socket = UdpSocket::bind(bind)?;
    let address = socket.local_addr()?;
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), client);
        }
    });
    Ok(address)
}

/// Connects, and returns the server's name and the peer's address as the client sees it.
fn ask(address: &str) -> Result<(String, SocketAddr)> {
    let mut stream = TcpStream::connect(address.parse::<SocketAddr>()?)?;
    stream.set_read_timeout(Some(BOUND))?;
    let peer = stream.peer_addr()?;
    let mut name = String::new();
    stream.read_to_string(&mut name)?;
    Ok((name, peer))
}

fn client(bind: &str) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(bind)?;
    socket.set_read_timeout(Some(BOUND))?;
    Ok(socket)
}

fn backend(datapath: &mut Datapath, index: u32, address: SocketAddr) -> Result<()> {
    datapath.backend(index, &address.to_string())
}

#[test]
fn a_connection_to_a_vip_reaches_a_backend_and_shows_the_vip() -> Result<()> {
    with_socket_hooks(
        "a_connection_to_a_vip_reaches_a_backend_and_shows_the_vip",
        |datapath| {
            backend(datapath, 0, tcp_server("127.0.0.1:0", "four")?)?;
            backend(datapath, 1, tcp_server("[::1]:0", "six")?)?;
            let id = datapath.service("10.96.0.10:80", TCP, &[0])?;
            datapath.service("[fd00:96::10]:80", TCP, &[1])?;
            for (vip, name) in [
                ("10.96.0.10:80", "four"),
                ("[::ffff:10.96.0.10]:80", "four"),
                ("[fd00:96::10]:80", "six"),
            ] {
                assert_eq!(ask(vip)?, (name.to_owned(), vip.parse()?));
            }
            assert_eq!(datapath.counters(id)?.connections, 2);
            Ok(())
        },
    )
}

#[test]
fn connections_spread_evenly() -> Result<()> {
    with_socket_hooks("connections_spread_evenly", |datapath| {
        for (index, name) in (0..).zip(["a", "b", "c"]) {
            backend(datapath, index, tcp_server("127.0.0.1:0", name)?)?;
        }
        datapath.service("10.96.0.10:80", TCP, &[0, 1, 2])?;
        let mut spread = BTreeMap::new();
        for _ in 0..300 {
            *spread.entry(ask("10.96.0.10:80")?.0).or_insert(0) += 1;
        }
        // A fair share is 100; 60 is five standard deviations away.
        assert!(
            spread.len() == 3 && spread.values().all(|count| *count > 60),
            "{spread:?}"
        );
        Ok(())
    })
}

#[test]
fn without_a_ready_backend_a_connect_is_refused_at_once() -> Result<()> {
    with_socket_hooks("without_a_ready_backend_a_connect_is_refused_at_once", |datapath| {
        let server = tcp_server("127.0.0.1:0", "unready")?;
        datapath.backend_with(0, &server.to_string(), IN_USE, 1)?;
        let id = datapath.service("10.96.0.10:80", TCP, &[0])?;
        datapath.service("10.96.0.10:53", UDP, &[])?;
        datapath.service("[fd00:96::10]:80", TCP, &[])?;
        let began = Instant::now();
        for vip in ["10.96.0.10:80", "[::ffff:10.96.0.10]:80", "[fd00:96::10]:80"] {
            let error = TcpStream::connect(vip.parse::<SocketAddr>()?).expect_err("nobody is there");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{vip}: {error}");
        }
        let socket = client("127.0.0.1:0")?;
        let error = socket.send_to(b"?", "10.96.0.10:53").expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(datapath.drops(DropReason::NoReadyBackend)?, 4);
        assert_eq!(datapath.counters(id)?.drops, 2);
        Ok(())
    })
}

#[test]
fn no_connection_goes_to_a_backend_after_its_bit_is_cleared() -> Result<()> {
    with_socket_hooks("no_connection_goes_to_a_backend_after_its_bit_is_cleared", |datapath| {
        let (a, b) = (tcp_server("127.0.0.1:0", "a")?, tcp_server("127.0.0.1:0", "b")?);
        backend(datapath, 0, a)?;
        backend(datapath, 1, b)?;
        datapath.service("10.96.0.10:80", TCP, &[0, 1])?;
        for (flags, names) in [(IN_USE, "b"), (IN_USE | READY | TERMINATING, "b")] {
            datapath.backend_with(0, &a.to_string(), flags, 1)?;
            for _ in 0..50 {
                assert_eq!(ask("10.96.0.10:80")?.0, names);
            }
        }
        datapath.backend_with(1, &b.to_string(), IN_USE, 1)?;
        assert_eq!(ask("10.96.0.10:80")?.0, "a", "a terminating backend is the last resort");
        Ok(())
    })
}

#[test]
fn an_unconnected_udp_socket_hears_the_vip() -> Result<()> {
    with_socket_hooks("an_unconnected_udp_socket_hears_the_vip", |datapath| {
        backend(datapath, 0, udp_server("127.0.0.1:0", "zero")?)?;
        backend(datapath, 1, udp_server("127.0.0.1:0", "one")?)?;
        datapath.service("10.96.0.10:53", UDP, &[0])?;
        datapath.service("10.96.0.11:53", UDP, &[1])?;
        let direct = udp_server("127.0.0.1:0", "direct")?;
        let socket = client("127.0.0.1:0")?;
        let mut buffer = [0; 64];
        for (to, name) in [
            ("10.96.0.10:53".parse()?, "zero"),
            ("10.96.0.11:53".parse::<SocketAddr>()?, "one"),
            (direct, "direct"),
        ] {
            socket.send_to(b"?", to)?;
            let (length, from) = socket
                .recv_from(&mut buffer)
                .with_context(|| format!("no answer from {to}"))?;
            assert_eq!((from, &buffer[..length]), (to, name.as_bytes()));
        }
        Ok(())
    })
}

#[test]
fn an_ipv6_udp_socket_hears_the_v4_mapped_vip() -> Result<()> {
    with_socket_hooks("an_ipv6_udp_socket_hears_the_v4_mapped_vip", |datapath| {
        backend(datapath, 0, udp_server("127.0.0.1:0", "zero")?)?;
        datapath.service("10.96.0.10:53", UDP, &[0])?;
        let socket = client("[::]:0")?;
        let vip: SocketAddr = "[::ffff:10.96.0.10]:53".parse()?;
        socket.send_to(b"?", vip)?;
        let mut buffer = [0; 64];
        assert_eq!(socket.recv_from(&mut buffer)?.1, vip);
        Ok(())
    })
}

#[test]
fn a_connected_udp_socket_shows_the_vip_until_it_is_connected_elsewhere() -> Result<()> {
    with_socket_hooks(
        "a_connected_udp_socket_shows_the_vip_until_it_is_connected_elsewhere",
        |datapath| {
            let server = udp_server("127.0.0.1:0", "zero")?;
            backend(datapath, 0, server)?;
            datapath.service("10.96.0.10:53", UDP, &[0])?;
            let socket = client("127.0.0.1:0")?;
            let mut buffer = [0; 64];
            // The last address is the backend's own: asked for by that, it is to be seen as that.
            for to in ["10.96.0.10:53".parse()?, server] {
                socket.connect(to)?;
                assert_eq!(socket.peer_addr()?, to);
                socket.send(b"?")?;
                assert_eq!(socket.recv_from(&mut buffer)?.1, to);
            }
            Ok(())
        },
    )
}

#[test]
fn a_connect_without_room_fails_until_another_socket_is_closed_or_connected_elsewhere() -> Result<()> {
    with_socket_hooks(
        "a_connect_without_room_fails_until_another_socket_is_closed_or_connected_elsewhere",
        |datapath| {
            let server = udp_server("127.0.0.1:0", "zero")?;
            backend(datapath, 0, server)?;
            datapath.service("10.96.0.10:53", UDP, &[0])?;
            let vip = "10.96.0.10:53";
            let mut open = (0..CONNECTED_SOCKETS)
                .map(|_| {
                    let socket = client("127.0.0.1:0")?;
                    socket.connect(vip)?;
                    Ok(socket)
                })
                .collect::<Result<Vec<_>>>()?;
            let last = client("127.0.0.1:0")?;
            let refused = |drops| {
                let error = last.connect(vip).expect_err("the table is full");
                assert_eq!(error.raw_os_error(), Some(ENOBUFS), "{error}");
                datapath
                    .drops(DropReason::SocketsFull)
                    .map(|counted| assert_eq!(counted, drops))
            };
            refused(1)?;
            assert_eq!(open[0].peer_addr()?, vip.parse()?);
            // One is connected elsewhere, and one is closed.
            open[0].connect(server)?;
            last.connect(vip)?;
            open[0].connect(vip).expect_err("the table is full again");
            open.pop();
            open[0].connect(vip)?;
            assert_eq!((last.peer_addr()?, open[0].peer_addr()?), (vip.parse()?, vip.parse()?));
            Ok(())
        },
    )
}

#[test]
fn a_datagram_to_the_backend_itself_is_answered_by_itself() -> Result<()> {
    with_socket_hooks("a_datagram_to_the_backend_itself_is_answered_by_itself", |datapath| {
        let server = udp_server("127.0.0.1:0", "zero")?;
        backend(datapath, 0, server)?;
        datapath.service("10.96.0.10:53", UDP, &[0])?;
        let socket = client("127.0.0.1:0")?;
        let mut buffer = [0; 64];
        for to in ["10.96.0.10:53".parse()?, server] {
            socket.send_to(b"?", to)?;
            assert_eq!(socket.recv_from(&mut buffer)?.1, to);
        }
        Ok(())
    })
}

#[test]
fn other_addresses_and_ports_are_left_alone() -> Result<()> {
    with_socket_hooks("other_addresses_and_ports_are_left_alone", |datapath| {
        backend(datapath, 0, tcp_server("127.0.0.1:0", "backend")?)?;
        let other = tcp_server("127.0.0.1:0", "other")?;
        // A service on the same address, with another port and with another protocol.
        datapath.service(&format!("127.0.0.1:{}", other.port().wrapping_add(1)), TCP, &[0])?;
        datapath.service(&other.to_string(), UDP, &[0])?;
        assert_eq!(ask(&other.to_string())?, ("other".to_owned(), other));
        Ok(())
    })
}
