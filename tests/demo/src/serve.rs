//! The server: says who it is, and obeys when told to turn unready, hang or crash.

use std::env;
use std::io::{self, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

use crate::client::{Target, datagrams, fetch, load};
use crate::http::{Request, Response, Url};

/// Threads that accept connections; every connection then has a thread of its own.
const ACCEPTORS: usize = 2;
/// Longest wait for requests under way after SIGTERM.
const FINISH: Duration = Duration::from_secs(10);
/// Exit code after `POST /crash`.
const CRASH_EXIT_CODE: i32 = 3;

/// How to serve.
pub struct Config {
    /// TCP and UDP address.
    pub listen: SocketAddr,
    /// Not ready until this long after the start.
    pub ready_after: Duration,
    /// How long connections are still accepted after SIGTERM.
    pub drain: Duration,
}

struct Server {
    pod: String,
    node: String,
    namespace: String,
    ip: String,
    ready_at: Instant,
    told_unready: AtomicBool,
    hung: AtomicBool,
    stopping: AtomicBool,
    count: AtomicU64,
    active: AtomicUsize,
}

/// What `/` answers.
#[derive(Serialize)]
struct WhoAmI<'s> {
    pod: &'s str,
    node: &'s str,
    namespace: &'s str,
    ip: &'s str,
    ready: bool,
    /// Peer address of the connection, as the server sees it.
    client: String,
    /// Requests answered so far, this one included.
    count: u64,
}

/// Serves until SIGTERM or SIGINT, then finishes what is under way.
pub fn run(config: &Config) -> Result<()> {
    // Threads inherit the mask; this one waits for the signals. Matters most as PID 1, whose default is to ignore them.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block().context("cannot block signals")?;

    let listener = TcpListener::bind(config.listen).with_context(|| format!("cannot listen on {}", config.listen))?;
    let socket = UdpSocket::bind(config.listen).with_context(|| format!("cannot bind UDP {}", config.listen))?;
    let server = Arc::new(Server {
        pod: env::var("POD_NAME")
            .or_else(|_| env::var("HOSTNAME"))
            .unwrap_or_else(|_| "unknown".to_owned()),
        node: env::var("NODE_NAME").unwrap_or_else(|_| "unknown".to_owned()),
        namespace: env::var("POD_NAMESPACE").unwrap_or_default(),
        ip: env::var("POD_IP").unwrap_or_default(),
        ready_at: Instant::now() + config.ready_after,
        told_unready: AtomicBool::new(false),
        hung: AtomicBool::new(false),
        stopping: AtomicBool::new(false),
        count: AtomicU64::new(0),
        active: AtomicUsize::new(0),
    });
    eprintln!("pod {} on node {} serves on {}", server.pod, server.node, config.listen);

    for _ in 0..ACCEPTORS {
        let (server, listener) = (
            Arc::clone(&server),
            listener.try_clone().context("cannot share the listener")?,
        );
        thread::spawn(move || server.accept(&listener));
    }
    let echo = Arc::clone(&server);
    thread::spawn(move || echo.echo(&socket));

    let signal = signals.wait().context("cannot wait for signals")?;
    eprintln!("{signal}: finishing");
    server.stopping.store(true, Ordering::Relaxed);
    thread::sleep(config.drain);
    let deadline = Instant::now() + FINISH;
    while server.active.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

impl Server {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    let server = Arc::clone(self);
                    let started = thread::Builder::new().stack_size(128 * 1024).spawn(move || {
                        // A client that goes away in the middle is its own affair.
                        let _ = server.converse(&stream, peer);
                    });
                    if let Err(error) = started {
                        eprintln!("cannot serve {peer}: {error}");
                    }
                }
                Err(error) => {
                    eprintln!("accept: {error}");
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    fn converse(&self, stream: &TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        while let Some(request) = Request::read(&mut reader)? {
            self.active.fetch_add(1, Ordering::Relaxed);
            let mut response = self.answer(&request, peer);
            response.keep_alive = request.keep_alive && !self.stopping.load(Ordering::Relaxed);
            let written = response.write(&mut writer);
            self.active.fetch_sub(1, Ordering::Relaxed);
            written?;
            if request.path == "/crash" && response.status == 200 {
                writer.flush()?;
                eprintln!("told to crash");
                process::exit(CRASH_EXIT_CODE);
            }
            if !response.keep_alive {
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Request, peer: SocketAddr) -> Response {
        while self.hung.load(Ordering::Relaxed) {
            thread::park();
        }
        let commanded = |flag: &AtomicBool, value| {
            flag.store(value, Ordering::Relaxed);
            eprintln!("told over HTTP: {}", request.path);
            Response::new(200, "ok\n")
        };
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => self.who_am_i(peer),
            ("GET", "/healthz") => Response::new(200, "ok\n"),
            ("GET", "/readyz") if self.ready() => Response::new(200, "ready\n"),
            ("GET", "/readyz") => Response::new(503, "not ready\n"),
            ("GET", "/fetch") => ask_for(request, |target, count, _| fetch(target, count)),
            ("GET", "/load") => ask_for(request, |target, _, (duration, workers)| {
                load(target, duration, workers)
            }),
            ("GET", "/datagrams") => ask_by_datagrams(request),
            ("POST", "/unready") => commanded(&self.told_unready, true),
            ("POST", "/ready") => commanded(&self.told_unready, false),
            ("POST", "/hang") => commanded(&self.hung, true),
            ("POST", "/crash") => Response::new(200, "crashing\n"),
            (_, "/" | "/healthz" | "/readyz" | "/fetch" | "/load" | "/unready" | "/ready" | "/hang" | "/crash") => {
                Response::new(405, "method not allowed\n")
            }
            _ => Response::new(404, "no such page\n"),
        }
    }

    fn ready(&self) -> bool {
        !self.told_unready.load(Ordering::Relaxed)
            && !self.stopping.load(Ordering::Relaxed)
            && Instant::now() >= self.ready_at
    }

    fn who_am_i(&self, peer: SocketAddr) -> Response {
        json(&WhoAmI {
            pod: &self.pod,
            node: &self.node,
            namespace: &self.namespace,
            ip: &self.ip,
            ready: self.ready(),
            client: peer.to_string(),
            count: self.count.fetch_add(1, Ordering::Relaxed) + 1,
        })
    }

    /// Echoes datagrams; `whoami` is answered like `GET /`.
    fn echo(&self, socket: &UdpSocket) {
        let mut buffer = vec![0; 65_536];
        loop {
            // An error here is an ICMP message about an earlier reply; the next datagram is unaffected.
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let payload = &buffer[..length];
            let _ = if payload == b"whoami" {
                socket.send_to(&self.who_am_i(peer).body, peer)
            } else {
                socket.send_to(payload, peer)
            };
        }
    }
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => Response::new(200, body),
        Err(error) => Response::new(500, error.to_string()),
    }
}

/// Sends datagrams from inside this pod, as the query says: `to`, `count`, `timeout_ms`.
fn ask_by_datagrams(request: &Request) -> Response {
    let number = |name: &str, default: u64| request.parameter(name).map_or(Some(default), |text| text.parse().ok());
    let to = request.parameter("to").and_then(|text| text.parse().ok());
    match (to, number("count", 1), number("timeout_ms", 2000)) {
        (Some(to), Some(count), Some(ms)) => json(&datagrams(to, count, Duration::from_millis(ms)).report()),
        _ => Response::new(400, "expected to=ADDRESS:PORT and numbers\n"),
    }
}

/// Runs the client inside this pod, as the query says: `url`, `count`, or `duration_ms` and `concurrency`, `keep_alive`,
/// `interval_ms`, `timeout_ms`.
fn ask_for(request: &Request, run: impl FnOnce(&Target, u64, (Duration, usize)) -> crate::tally::Tally) -> Response {
    let number = |name: &str, default: u64| -> Result<u64> {
        match request.parameter(name) {
            Some(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
            None => Ok(default),
        }
    };
    let parsed = || -> Result<_> {
        let target = Target {
            url: Url::parse(&request.parameter("url").context("parameter url is missing")?)?,
            keep_alive: number("keep_alive", 0)? != 0,
            interval: Duration::from_millis(number("interval_ms", 0)?),
            timeout: Duration::from_millis(number("timeout_ms", 5000)?),
        };
        let duration = Duration::from_millis(number("duration_ms", 1000)?);
        Ok((
            target,
            number("count", 1)?,
            (duration, number("concurrency", 4)? as usize),
        ))
    };
    match parsed() {
        Ok((target, count, load)) => json(&run(&target, count, load).report()),
        Err(error) => Response::new(400, format!("{error:#}\n")),
    }
}
