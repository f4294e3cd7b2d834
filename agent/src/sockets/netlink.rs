//! One conversation with the kernel about the sockets of a network namespace: that of the thread that opens it.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use causeway_maps::{MapsError, Protocol};
use nix::sys::{
    socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt},
    time::TimeVal,
};

use super::diag::{self, Answer, Family, Socket};

/// The kernel answers at once; this is for one that does not.
const PATIENCE_SECONDS: i64 = 5;

/// Room for one answer of the kernel: a dump comes in parts of at most 32 KiB.
const ROOM: usize = 1 << 16;

/// Sockets could not be found or destroyed.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The namespace could not be entered.
    #[error("cannot enter the network namespace {path}")]
    Namespace {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no such conversation.
    #[error("cannot open a sock_diag socket")]
    Open(#[source] io::Error),
    /// The conversation broke off.
    #[error("cannot talk to sock_diag")]
    Talk(#[source] io::Error),
    /// The kernel does not list sockets.
    #[error("the kernel does not list {protocol} sockets")]
    List {
        /// Of this protocol.
        protocol: Protocol,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel does not destroy sockets.
    #[error("the kernel does not destroy {protocol} sockets (CONFIG_INET_DIAG_DESTROY)")]
    Destroy {
        /// Of this protocol.
        protocol: Protocol,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The map of translated sockets could not be read.
    #[error("cannot tell which sockets were translated")]
    Origins(#[from] MapsError),
    /// No thread could be had.
    #[error("cannot start a thread for sockets")]
    Thread(#[source] io::Error),
}

/// A conversation.
pub struct Diag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Diag {
    /// Opens one about the calling thread's network namespace.
    pub fn open() -> Result<Self, SocketsError> {
        let open = || {
            let socket = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkSockDiag,
            )?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE_SECONDS, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|errno: nix::Error| SocketsError::Open(errno.into()))?;
        let buffer = vec![0; ROOM];
        Ok(Self { socket, buffer })
    }

    /// All connected sockets.
    pub fn sockets(&mut self, family: Family, protocol: Protocol) -> Result<Vec<Socket>, SocketsError> {
        self.send(&diag::dump(family, protocol))?;
        let mut sockets = Vec::new();
        loop {
            for answer in self.receive(protocol)? {
                match answer {
                    Answer::Socket(socket) => sockets.push(socket),
                    Answer::Done => return Ok(sockets),
                    Answer::Error(errno) => {
                        let source = io::Error::from_raw_os_error(errno);
                        return Err(SocketsError::List { protocol, source });
                    }
                }
            }
        }
    }

    /// Destroys a socket; false when it is gone already.
    pub fn destroy(&mut self, socket: &Socket) -> Result<bool, SocketsError> {
        self.request(&diag::destroy(socket), socket.protocol)
    }

    /// Finds out whether the kernel destroys sockets of a protocol: it is asked to destroy one that is not there.
    pub fn probe(&mut self, protocol: Protocol) -> Result<(), SocketsError> {
        self.request(&diag::destroy_none(protocol), protocol).map(drop)
    }

    fn request(&mut self, request: &[u8], protocol: Protocol) -> Result<bool, SocketsError> {
        self.send(request)?;
        loop {
            match self.receive(protocol)?.first() {
                Some(Answer::Done) => return Ok(true),
                Some(Answer::Error(libc::ENOENT | libc::ESTALE)) => return Ok(false),
                Some(Answer::Error(errno)) => {
                    let source = io::Error::from_raw_os_error(*errno);
                    return Err(SocketsError::Destroy { protocol, source });
                }
                Some(Answer::Socket(_)) | None => {}
            }
        }
    }

    fn send(&self, request: &[u8]) -> Result<(), SocketsError> {
        let sent = send(self.socket.as_raw_fd(), request, MsgFlags::empty());
        sent.map(drop).map_err(|errno| SocketsError::Talk(errno.into()))
    }

    fn receive(&mut self, protocol: Protocol) -> Result<Vec<Answer>, SocketsError> {
        let received = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty());
        let length = received.map_err(|errno| SocketsError::Talk(errno.into()))?;
        Ok(diag::answers(&self.buffer[..length], protocol))
    }
}
