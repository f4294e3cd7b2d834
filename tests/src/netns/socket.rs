//! Sockets as a pod's processes have them: made in a network namespace and in a cgroup.
//!
//! Both belong to a socket from its making on, whoever uses it later; so a child process makes it and hands it over.

use std::{
    ffi::CString,
    io::{self, BufRead as _, BufReader},
    mem,
    net::{IpAddr, SocketAddr, TcpStream},
    os::{
        fd::{AsFd as _, AsRawFd, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, net::UnixDatagram},
    },
    path::Path,
    time::Duration,
};

use super::Netns;

/// How long a socket of a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(3);

/// A socket of a domain (`libc::AF_INET`…) and type (`libc::SOCK_STREAM`…) in a namespace and, if given, in a cgroup.
/// Connecting, sending and receiving fail after three seconds.
///
/// # Panics
///
/// When it cannot be made.
pub fn socket_in(netns: &Netns, cgroup: Option<&Path>, domain: i32, kind: i32) -> OwnedFd {
    let procs = cgroup.map(|dir| CString::new(dir.join("cgroup.procs").as_os_str().as_bytes()).expect("a path"));
    let (ours, theirs) = UnixDatagram::pair().expect("a pair of sockets");
    let (netns, theirs) = (netns.as_fd().as_raw_fd(), theirs.as_raw_fd());
    // SAFETY: the child of this threaded process makes only raw system calls, on values made before the fork, and ends
    // with _exit: it takes no lock and allocates nothing.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", io::Error::last_os_error());
    if child == 0 {
        // SAFETY: as above.
        unsafe { libc::_exit(make_and_send(procs.as_deref(), netns, (domain, kind), theirs)) };
    }
    let mut status = 0;
    // SAFETY: `child` is ours and not waited for yet; `status` is valid for writing.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert!(
        waited == child && status == 0,
        "making a socket failed in step {}",
        libc::WEXITSTATUS(status)
    );
    let socket = receive(&ours);
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let patience = libc::timeval {
            tv_sec: PATIENCE.as_secs().cast_signed(),
            tv_usec: 0,
        };
        set_option(&socket, libc::SOL_SOCKET, option, &patience);
    }
    socket
}

/// Runs in the child. Answers 0, or the number of the step that failed.
fn make_and_send(procs: Option<&std::ffi::CStr>, netns: RawFd, (domain, kind): (i32, i32), to: RawFd) -> i32 {
    // SAFETY: plain system calls on valid descriptors and strings; the message's buffers live until `sendmsg` returns.
    unsafe {
        if let Some(procs) = procs {
            let file = libc::open(procs.as_ptr(), libc::O_WRONLY);
            if file < 0 || libc::write(file, c"0".as_ptr().cast(), 1) != 1 {
                return 1;
            }
        }
        if libc::setns(netns, libc::CLONE_NEWNET) != 0 {
            return 2;
        }
        let socket = libc::socket(domain, kind | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return 3;
        }
        let mut control = Control::new();
        control.header.cmsg_len = mem::size_of::<libc::cmsghdr>() + mem::size_of::<RawFd>();
        control.header.cmsg_level = libc::SOL_SOCKET;
        control.header.cmsg_type = libc::SCM_RIGHTS;
        control.fd = socket;
        let mut byte = [1_u8];
        let mut piece = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        let message = control.message(&mut piece);
        if libc::sendmsg(to, &raw const message, 0) == 1 {
            0
        } else {
            4
        }
    }
}

fn receive(from: &UnixDatagram) -> OwnedFd {
    let mut control = Control::new();
    let mut byte = [0_u8];
    let mut piece = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut message = control.message(&mut piece);
    // SAFETY: the message's buffers live until the call returns.
    let got = unsafe { libc::recvmsg(from.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    assert!(
        got == 1 && control.header.cmsg_type == libc::SCM_RIGHTS,
        "a socket from the child"
    );
    // SAFETY: the kernel just gave us this descriptor.
    unsafe { OwnedFd::from_raw_fd(control.fd) }
}

/// A control message with one descriptor (cmsg(3)).
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    fd: RawFd,
    padding: u32,
}

impl Control {
    fn new() -> Self {
        // SAFETY: all-zero is a valid value of these integers.
        unsafe { mem::zeroed() }
    }

    fn message(&mut self, piece: &mut libc::iovec) -> libc::msghdr {
        // SAFETY: all-zero is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = piece;
        message.msg_iovlen = 1;
        message.msg_control = std::ptr::from_mut(self).cast();
        message.msg_controllen = mem::size_of::<Self>();
        message
    }
}

/// Sets an option of a socket, which is plain data as the kernel reads it.
pub fn set_option<T>(socket: &impl AsRawFd, level: i32, option: i32, value: &T) {
    let length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is valid for reading `length` bytes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    assert!(result == 0, "setsockopt: {}", io::Error::last_os_error());
}

/// A number that is an option of a socket.
pub fn option<T: zerocopy::FromZeros + zerocopy::FromBytes>(socket: &impl AsRawFd, level: i32, option: i32) -> T {
    let (mut value, mut length) = (T::new_zeroed(), mem::size_of::<T>() as libc::socklen_t);
    // SAFETY: both are valid for writing, `value` for `length` bytes, and any bytes are a valid `T`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    assert!(result == 0, "getsockopt: {}", io::Error::last_os_error());
    value
}

/// The domain of a socket for an address.
pub fn domain(address: IpAddr) -> i32 {
    if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

/// Connects a TCP socket.
pub fn connect(socket: OwnedFd, to: SocketAddr) -> io::Result<TcpStream> {
    let address = nix::sys::socket::SockaddrStorage::from(to);
    nix::sys::socket::connect(socket.as_raw_fd(), &address)?;
    Ok(TcpStream::from(socket))
}

/// Reads the first line: the server's name.
pub fn ask(stream: &TcpStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
