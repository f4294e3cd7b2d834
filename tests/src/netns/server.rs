//! Servers that say who they are.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Says its name to everyone who connects, and then gives back what it is sent. Stops when the value goes.
#[derive(Debug)]
pub struct TcpServer {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl TcpServer {
    /// Listens on a socket.
    ///
    /// # Panics
    ///
    /// When the address is taken.
    pub fn start(socket: OwnedFd, address: SocketAddr, name: &str) -> Self {
        let storage = nix::sys::socket::SockaddrStorage::from(address);
        nix::sys::socket::bind(socket.as_raw_fd(), &storage).expect("an address to listen on");
        nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::MAXCONN).expect("a listening socket");
        let listener = TcpListener::from(socket);
        let accepting = listener.try_clone().expect("another descriptor");
        let name = format!("{name}\n");
        let thread = thread::spawn(move || {
            loop {
                match accepting.accept() {
                    Ok((stream, _)) => {
                        let name = name.clone();
                        // Ends when the client does; errors are the client's to see.
                        thread::spawn(move || serve(stream, &name));
                    }
                    // The receive time-out of test sockets counts for accept, too.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        });
        Self {
            listener,
            thread: Some(thread),
        }
    }
}

fn serve(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.write_all(name.as_bytes())?;
    let mut buffer = vec![0; 65_536];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open. Shutting a listening socket down wakes its `accept`.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers every datagram with its name. Stops when the value goes.
#[derive(Debug)]
pub struct UdpServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    /// Receives on a socket.
    ///
    /// # Panics
    ///
    /// When the address is taken.
    pub fn start(socket: OwnedFd, address: SocketAddr, name: &str) -> Self {
        let storage = nix::sys::socket::SockaddrStorage::from(address);
        nix::sys::socket::bind(socket.as_raw_fd(), &storage).expect("an address to receive on");
        let socket = UdpSocket::from(socket);
        socket
            .set_read_timeout(Some(std::time::Duration::from_millis(100)))
            .expect("a time-out");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, name) = (Arc::clone(&stop), name.to_owned());
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopping.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Servers of one name. Stop when the value goes.
#[derive(Debug)]
pub struct Servers {
    pub(super) tcp: Vec<TcpServer>,
    pub(super) udp: Vec<UdpServer>,
}
