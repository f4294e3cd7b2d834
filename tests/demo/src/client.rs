//! The client: asks one URL again and again, and tallies who answered.

use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::http::{Response, Url, request};
use crate::tally::{Tally, unix_ms};

/// What to ask, and how.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where.
    pub url: Url,
    /// One connection for all requests of a worker instead of one per request.
    pub keep_alive: bool,
    /// Pause between requests of a worker.
    pub interval: Duration,
    /// Longest wait for a connection, and for an answer.
    pub timeout: Duration,
}

/// The part of the server's answer that is tallied.
#[derive(Deserialize)]
struct Answer {
    pod: String,
    node: String,
}

struct Connection {
    reader: BufReader<TcpStream>,
    begun_unix_ms: u64,
}

/// Sends `count` requests one after another.
pub fn fetch(target: &Target, count: u64) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    for sent in 0..count {
        if sent > 0 && !target.interval.is_zero() {
            thread::sleep(target.interval);
        }
        ask(target, &mut connection, &mut tally);
    }
    tally
}

/// Sends requests from `concurrency` workers for `duration`.
pub fn load(target: &Target, duration: Duration, concurrency: usize) -> Tally {
    let end = Instant::now() + duration;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..concurrency.max(1))
            .map(|_| {
                scope.spawn(move || {
                    let mut tally = Tally::default();
                    let mut connection = None;
                    while Instant::now() < end {
                        ask(target, &mut connection, &mut tally);
                        if !target.interval.is_zero() {
                            thread::sleep(target.interval);
                        }
                    }
                    tally
                })
            })
            .collect();
        let mut total = Tally::default();
        for worker in workers {
            match worker.join() {
                Ok(tally) => total.merge(tally),
                Err(_) => total.failure(unix_ms(), Duration::ZERO, "a worker panicked".to_owned()),
            }
        }
        total
    })
}

/// Sends `count` datagrams to a server's UDP port, every one from an unconnected socket of its own, and checks that each
/// answer comes from the very address that was asked.
pub fn datagrams(to: SocketAddr, count: u64, timeout: Duration) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..count {
        let begun = Instant::now();
        let begun_unix_ms = unix_ms();
        match ask_by_datagram(to, timeout) {
            Ok(answer) => tally.answer(&answer.pod, &answer.node, begun_unix_ms, begun.elapsed()),
            Err(error) => tally.failure(begun_unix_ms, begun.elapsed(), error),
        }
    }
    tally
}

fn ask_by_datagram(to: SocketAddr, timeout: Duration) -> Result<Answer, String> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let exchange = || -> io::Result<(SocketAddr, Vec<u8>)> {
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.send_to(b"whoami", to)?;
        let mut payload = vec![0; 4096];
        let (length, from) = socket.recv_from(&mut payload)?;
        payload.truncate(length);
        Ok((from, payload))
    };
    let (from, payload) = exchange().map_err(|error| format!("datagram: {error}"))?;
    if from != to {
        return Err(format!("asked {to}, answered from {from}"));
    }
    serde_json::from_slice(&payload).map_err(|error| format!("unexpected answer: {error}"))
}

fn ask(target: &Target, connection: &mut Option<Connection>, tally: &mut Tally) {
    let begun = Instant::now();
    let begun_unix_ms = unix_ms();
    let mut attempt = || -> Result<(Answer, u64), String> {
        let open = match connection.take() {
            Some(open) => open,
            None => connect(target).map_err(|error| format!("connect: {error}"))?,
        };
        let since = open.begun_unix_ms;
        let (response, open) = exchange(target, open).map_err(|error| format!("exchange: {error}"))?;
        if target.keep_alive && response.keep_alive {
            *connection = Some(open);
        }
        if response.status != 200 {
            return Err(format!("status {}", response.status));
        }
        let answer = serde_json::from_slice(&response.body).map_err(|error| format!("unexpected body: {error}"))?;
        Ok((answer, since))
    };
    match attempt() {
        Ok((answer, since)) => tally.answer(&answer.pod, &answer.node, since, begun.elapsed()),
        Err(error) => tally.failure(begun_unix_ms, begun.elapsed(), error),
    }
}

fn connect(target: &Target) -> io::Result<Connection> {
    let begun_unix_ms = unix_ms();
    let stream = TcpStream::connect_timeout(&target.url.address, target.timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(target.timeout))?;
    stream.set_write_timeout(Some(target.timeout))?;
    Ok(Connection {
        reader: BufReader::new(stream),
        begun_unix_ms,
    })
}

fn exchange(target: &Target, mut connection: Connection) -> io::Result<(Response, Connection)> {
    connection
        .reader
        .get_mut()
        .write_all(request("GET", &target.url, target.keep_alive).as_bytes())?;
    let response = Response::read(&mut connection.reader)?;
    Ok((response, connection))
}
