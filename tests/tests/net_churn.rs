//! Many short connections through a VIP, packet by packet: no port comes back before both ends let it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use causeway_tests::netns::{Lab, Pod, tcp_service};

const PORT: u16 = 8080;
/// Twice as many as the backend saw ports when all of the client's shared the 4536 that Linux leaves above its own.
const CONNECTIONS: usize = 10_000;
/// How long a connection may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

/// Who closes first, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Client,
    Server,
    ClientResets,
}

/// Accepts one connection after the other and says a byte to each.
fn serve(listener: &TcpListener, end: End) {
    for _ in 0..CONNECTIONS {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.write_all(b"x").expect("a client that reads");
        if end != End::Server {
            // A reset is an error here, and as good as an end.
            let _ = stream.read(&mut [0; 1]);
        }
    }
}

fn connect_once(end: End) {
    let mut stream = TcpStream::connect_timeout(&vip(), PATIENCE).expect("a connection");
    let mut said = [0; 1];
    stream.read_exact(&mut said).expect("an answer");
    match end {
        End::Client => {}
        End::Server => assert_eq!(stream.read(&mut said).expect("the end"), 0),
        End::ClientResets => {
            let at_once = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &at_once).expect("an option");
        }
    }
}

/// How often an opening had to be sent again in a pod: what a backend says that has not let go of the ports yet.
fn openings_repeated(pod: &Pod) -> u64 {
    let told = pod
        .netns
        .run(|| fs::read_to_string("/proc/thread-self/net/netstat").expect("the pod's counters"));
    let mut lines = told.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = both.find(|(name, _)| *name == "TCPSynRetrans").expect("the counter");
    value.parse().expect("a number")
}

fn churn(end: End) {
    let mut lab = Lab::single();
    let (client, server) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    lab.serve(&[tcp_service(vip(), PORT, &[&server])]);
    let listener = server
        .netns
        .run(|| TcpListener::bind(server.at(PORT)).expect("a port to listen on"));
    thread::scope(|scope| {
        scope.spawn(|| serve(&listener, end));
        // In its network namespace, but not in its cgroup: no socket hook sees it.
        client.netns.run(|| (0..CONNECTIONS).for_each(|_| connect_once(end)));
    });
    let repeated = openings_repeated(&client);
    assert!(repeated <= 5, "{repeated} openings were not answered at once ({end:?})");
}

#[test]
fn connections_that_the_client_closes() {
    churn(End::Client);
}

#[test]
fn connections_that_the_server_closes() {
    churn(End::Server);
}

#[test]
fn connections_that_the_client_resets() {
    churn(End::ClientResets);
}
