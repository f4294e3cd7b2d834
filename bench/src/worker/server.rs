//! A backend: answers TCP and UDP requests with its number. One thread.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

use super::{
    ANSWER, BLOCK_BYTES, BLOCKS, CLOSE, MESSAGE_BYTES, SWALLOW,
    epoll::{Epoll, READ},
    socket,
};
use crate::service::{POD_TCP, POD_UDP};

const STDIN: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
const UDP: u64 = u64::MAX - 2;
/// As much as one read takes from a stream.
const CHUNK_BYTES: usize = 256 * 1024;

/// A connection.
struct Connection {
    socket: OwnedFd,
    /// Bytes of a request that has not arrived whole.
    pending: usize,
    /// Bytes that are answered.
    request_bytes: usize,
    swallows: bool,
}

/// Serves until standard input ends.
pub fn run(number: u8, address: Ipv4Addr) -> Result<()> {
    let listener = TcpListener::bind((address, POD_TCP)).context("cannot listen")?;
    listener
        .set_nonblocking(true)
        .context("cannot configure the listener")?;
    let udp = UdpSocket::bind((address, POD_UDP)).context("cannot bind the UDP socket")?;
    udp.set_nonblocking(true).context("cannot configure the UDP socket")?;
    let mut epoll = Epoll::new().context("cannot make an epoll instance")?;
    epoll
        .add(&io::stdin(), READ, STDIN)
        .context("cannot watch standard input")?;
    epoll
        .add(&listener, READ, LISTENER)
        .context("cannot watch the listener")?;
    epoll.add(&udp, READ, UDP).context("cannot watch the UDP socket")?;
    println!("ready");
    io::stdout().flush().context("nobody reads")?;

    let mut answer = [0; MESSAGE_BYTES];
    answer[..2].copy_from_slice(&[ANSWER, number]);
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let (mut ready, mut buffer) = (Vec::new(), vec![0; CHUNK_BYTES]);
    loop {
        epoll.wait(-1, &mut ready).context("cannot wait")?;
        for token in ready.iter().copied() {
            match token {
                STDIN => return Ok(()),
                LISTENER => accept(&listener, &epoll, &mut connections),
                UDP => answer_datagrams(&udp, &answer, &mut buffer),
                fd => {
                    let Some(place) = connections.get_mut(fd as usize) else {
                        continue;
                    };
                    let goes_on = place
                        .as_mut()
                        .is_some_and(|connection| serve(connection, &answer, &mut buffer));
                    if !goes_on {
                        *place = None;
                    }
                }
            }
        }
    }
}

/// Errors here are the client's to see.
fn accept(listener: &TcpListener, epoll: &Epoll, connections: &mut Vec<Option<Connection>>) {
    while let Ok((stream, _)) = listener.accept() {
        let socket = OwnedFd::from(stream);
        let fd = socket.as_raw_fd().unsigned_abs();
        if connections.len() <= fd as usize {
            connections.resize_with(fd as usize + 1, || None);
        }
        if socket::no_delay(&socket).is_ok() && epoll.add(&socket, READ, fd.into()).is_ok() {
            connections[fd as usize] = Some(Connection {
                socket,
                pending: 0,
                request_bytes: MESSAGE_BYTES,
                swallows: false,
            });
        }
    }
}

fn answer_datagrams(udp: &UdpSocket, answer: &[u8], buffer: &mut [u8]) {
    while let Ok((_, SocketAddr::V4(from))) = udp.recv_from(buffer) {
        let _ = udp.send_to(answer, from);
    }
}

/// Takes what has arrived; false when the connection is over.
fn serve(connection: &mut Connection, answer: &[u8], buffer: &mut [u8]) -> bool {
    let Ok(received) = socket::receive(&connection.socket, buffer) else {
        return false;
    };
    if received == 0 {
        return false;
    }
    if connection.swallows {
        return true;
    }
    let first = (connection.pending == 0 && connection.request_bytes == MESSAGE_BYTES).then_some(buffer[0]);
    connection.swallows = first == Some(SWALLOW);
    connection.pending += received;
    while connection.pending >= connection.request_bytes {
        connection.pending -= connection.request_bytes;
        if socket::send(&connection.socket, answer).is_err() {
            return false;
        }
        if first == Some(CLOSE) {
            return false;
        }
        if connection.swallows {
            return true;
        }
        if first == Some(BLOCKS) {
            connection.request_bytes = BLOCK_BYTES;
            if socket::fix_buffers(&connection.socket, BLOCK_BYTES).is_err() {
                return false;
            }
        }
    }
    true
}
