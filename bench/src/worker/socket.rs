//! Sockets, without the standard library's extra system calls.

use std::{
    io,
    net::SocketAddrV4,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// How long a socket waits for anything before that is an error.
pub(super) const PATIENCE_SECONDS: i64 = 3;

/// A socket of type `kind` (`libc::SOCK_STREAM`…) with its flags.
pub(super) fn open(kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets blocking calls fail after [`PATIENCE_SECONDS`].
pub(super) fn limit_waiting(socket: &OwnedFd) -> io::Result<()> {
    let patience = libc::timeval {
        tv_sec: PATIENCE_SECONDS,
        tv_usec: 0,
    };
    set(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
    set(socket, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &patience)
}

/// Makes closing reset the connection, so that neither side rests in TIME-WAIT: there, it would meet a later connection from
/// the same port, which a translation in between makes look old.
pub(super) fn reset_on_close(socket: &OwnedFd) -> io::Result<()> {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set(socket, libc::SOL_SOCKET, libc::SO_LINGER, &at_once)
}

/// Sends small messages at once.
pub(super) fn no_delay(socket: &OwnedFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32)
}

fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    let pointer = std::ptr::from_ref(value).cast();
    // SAFETY: `value` is valid for reading `length` bytes.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, length) } as isize).map(drop)
}

/// Connects; `EINPROGRESS` is an error like others.
pub(super) fn connect(socket: &OwnedFd, to: SocketAddrV4) -> io::Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(to.ip().octets()),
        },
        sin_zero: [0; 8],
    };
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    let pointer = std::ptr::from_ref(&address).cast();
    // SAFETY: `address` is valid for reading `length` bytes.
    check(unsafe { libc::connect(socket.as_raw_fd(), pointer, length) } as isize).map(drop)
}

/// Outcome of a connect that was in progress.
pub(super) fn connect_error(socket: &OwnedFd) -> io::Result<()> {
    let (mut error, mut length) = (0_i32, size_of::<i32>() as libc::socklen_t);
    let pointer = std::ptr::from_mut(&mut error).cast();
    // SAFETY: `error` is valid for writing `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            pointer,
            &raw mut length,
        )
    };
    check(result as isize)?;
    if error == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

/// Sends; a peer that is gone is an error, no signal.
pub(super) fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is valid for reading.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
        )
    };
    check(sent).map(isize::unsigned_abs)
}

/// Receives.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is valid for writing.
    let received = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    check(received).map(isize::unsigned_abs)
}

/// Receives a whole message; the end of the stream before is an error.
pub(super) fn receive_all(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<()> {
    let mut got = 0;
    while got < buffer.len() {
        match receive(socket, &mut buffer[got..])? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer")),
            n => got += n,
        }
    }
    Ok(())
}

/// Gives a socket buffers of a fixed size, whatever the system's limit, in place of those that grow with what the kernel has seen of the
/// connection.
pub(super) fn fix_buffers(socket: &OwnedFd, bytes: usize) -> io::Result<()> {
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::SndBufForce, &bytes)?;
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBufForce, &bytes)?;
    Ok(())
}

/// Says that nothing more will be sent.
pub(super) fn finish_sending(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) } as isize).map(drop)
}

fn check(result: isize) -> io::Result<isize> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
