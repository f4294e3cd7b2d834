//! What becomes of clients when a backend goes: real sockets, in pods and on the node.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use causeway_agent::{
    bpf::{BackendId, DesiredService, ServicesOf},
    sockets::{Found, Gone, reset_in},
};
use causeway_maps::Protocol;
use causeway_tests::netns::{Lab, Node, Pod, TcpServer, UdpServer, ask, tcp_service, udp_service};

const PORT: u16 = 8080;

/// Longest wait for an answer; reached only by a failing test.
const BOUND: Duration = Duration::from_secs(20);

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

/// The VIP as sockets of the other family name it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        v6 @ SocketAddr::V6(_) => v6,
    }
}

/// A client, a backend that stays and one that goes.
struct Trio {
    client: Pod,
    stays: Pod,
    goes: Pod,
    #[expect(dead_code, reason = "answer until they are dropped")]
    listening: ([TcpServer; 2], [UdpServer; 2]),
}

fn trio(node: &mut Node) -> Trio {
    let (client, stays, goes) = (node.add_pod(2), node.add_pod(3), node.add_pod(4));
    let tcp = [stays.serve_tcp(PORT, "stays"), goes.serve_tcp(PORT, "goes")];
    let udp = [stays.serve_udp(PORT, "stays"), goes.serve_udp(PORT, "goes")];
    Trio {
        client,
        stays,
        goes,
        listening: (tcp, udp),
    }
}

fn connected_udp(socket: std::os::fd::OwnedFd, to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(BOUND))?;
    socket.connect(to)?;
    Ok(socket)
}

fn ask_udp(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"who?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Connects until both backends were met; the one that stays and the one that goes.
fn both<S>(connect: impl Fn() -> S, ask: impl Fn(&S) -> String) -> (S, S) {
    let (mut stays, mut goes) = (None, None);
    // At random: after 200 connections one has not been met once in 2^200 times.
    for _ in 0..200 {
        let socket = connect();
        let place = if ask(&socket) == "goes" { &mut goes } else { &mut stays };
        *place = Some(socket);
        if stays.is_some() && goes.is_some() {
            break;
        }
    }
    (stays.expect("one that stays"), goes.expect("one that goes"))
}

fn backend(pod: &Pod, protocol: Protocol) -> BackendId {
    BackendId::new(pod.address, PORT, protocol)
}

/// What the agent does when it learns of gone backends.
fn reset(node: &Node, gone: impl IntoIterator<Item = BackendId>, namespaces: &[PathBuf]) -> Found {
    let origins = Arc::new(node.datapath().socket_origins().expect("the map of origins"));
    let gone = Arc::new(Gone::new(gone));
    let answer = reset_in(namespaces.to_vec(), false, gone, origins).expect("a thread");
    let (found, error) = answer.blocking_recv().expect("an answer");
    assert!(error.is_none(), "{error:?}");
    found
}

/// Update of the one service of a lab; answers the backends that are gone.
fn serve(node: &Node, service: DesiredService) -> Vec<BackendId> {
    let of = ServicesOf {
        owner: service.owner().to_owned(),
        services: vec![service],
    };
    let report = node.datapath().update_services([of]);
    assert!(report.not_applied.is_empty(), "{:?}", report.not_applied);
    report.gone
}

#[test]
fn a_connected_udp_client_of_a_gone_backend_moves_to_another() {
    let mut lab = Lab::single();
    let trio = trio(&mut lab.nodes[0]);
    let node = &lab.nodes[0];
    serve(node, udp_service(vip(), PORT, &[&trio.stays, &trio.goes]));
    let by = |to| connected_udp(trio.client.socket(libc::AF_INET, libc::SOCK_DGRAM), to).expect("a socket");
    let by6 = |to| connected_udp(trio.client.socket(libc::AF_INET6, libc::SOCK_DGRAM), to).expect("a socket");
    let answer = |socket: &UdpSocket| ask_udp(socket).expect("an answer");
    let (untouched, moved) = both(|| by(vip()), answer);
    let (untouched6, moved6) = both(|| by6(mapped(vip())), answer);
    let straight = by(trio.goes.at(PORT));

    let gone = serve(node, udp_service(vip(), PORT, &[&trio.stays]));
    assert_eq!(
        gone,
        [backend(&trio.goes, Protocol::UDP)],
        "of datagrams there is no end to wait for"
    );
    let found = reset(node, gone, &[trio.client.netns.path()]);
    assert_eq!(found.destroyed, 2);

    for (socket, to) in [(&moved, vip()), (&moved6, mapped(vip()))] {
        let error = socket.recv(&mut [0]).expect_err("the backend is gone");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        let error = socket.send(b"who?").expect_err("not connected any more");
        assert_eq!(error.raw_os_error(), Some(libc::EDESTADDRREQ), "{error}");
        socket.connect(to).expect("the VIP again");
        assert_eq!(answer(socket), "stays");
    }
    // Those of the other backend, and who asked for that very pod, notice nothing.
    assert_eq!([answer(&untouched), answer(&untouched6)], ["stays", "stays"]);
    assert_eq!(answer(&straight), "goes");
}

#[test]
fn a_long_connection_to_a_gone_backend_is_reset() {
    let mut lab = Lab::single();
    let trio = trio(&mut lab.nodes[0]);
    let node = &lab.nodes[0];
    serve(node, tcp_service(vip(), PORT, &[&trio.stays, &trio.goes]));
    let named = |stream: &TcpStream| {
        stream.set_read_timeout(Some(BOUND)).expect("a time-out");
        ask(stream).expect("a name")
    };
    let (untouched, of_pod) = both(|| trio.client.connect(vip()).expect("a connection"), named);
    let (untouched_on_node, of_node) = both(|| node.connect(vip()).expect("a connection"), named);
    let straight = trio.client.connect(trio.goes.at(PORT)).expect("a connection");
    assert_eq!(named(&straight), "goes");

    // A TCP backend is gone a grace period later; the services' own tests have the times.
    assert_eq!(serve(node, tcp_service(vip(), PORT, &[&trio.stays])), []);
    let gone = [backend(&trio.goes, Protocol::TCP)];
    let found = reset(node, gone, &[trio.client.netns.path(), node.netns.path()]);
    assert_eq!(found.destroyed, 2);

    for mut stream in [of_pod, of_node] {
        let error = stream.read(&mut [0]).expect_err("the backend is gone");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    }
    for mut stream in [untouched, untouched_on_node, straight] {
        stream.write_all(b"still there?").expect("a connection");
        let mut echo = [0; 12];
        stream.read_exact(&mut echo).expect("an echo");
        assert_eq!(&echo, b"still there?");
    }
}

#[test]
fn a_socket_that_no_hook_has_seen_is_left_alone() {
    let mut lab = Lab::single();
    let trio = trio(&mut lab.nodes[0]);
    let node = &lab.nodes[0];
    serve(node, tcp_service(vip(), PORT, &[&trio.goes]));
    let stream = trio.client.connect_unhooked(trio.goes.at(PORT)).expect("a connection");
    assert_eq!(ask(&stream).expect("a name"), "goes");
    let gone = [backend(&trio.goes, Protocol::TCP)];
    let found = reset(node, gone, &[trio.client.netns.path()]);
    assert_eq!(found, Found::default());
    drop(stream);
    let nowhere = BackendId {
        address: Ipv6Addr::LOCALHOST.into(),
        ..backend(&trio.goes, Protocol::UDP)
    };
    assert_eq!(reset(node, [nowhere], &[trio.client.netns.path()]), Found::default());
}
