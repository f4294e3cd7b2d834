//! What an interface leaves to others, as `ethtool -K` sets it.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ifreq`, as `SIOCETHTOOL` takes it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: *mut Value,
    rest: [u8; 16],
}

/// Makes an interface of this thread's namespace compute the checksums of what it sends, instead of leaving them to its peer: a peer
/// with XDP would see none at all.
///
/// # Panics
///
/// When the kernel refuses.
pub fn leave_no_checksums(interface: &str) {
    /// `linux/ethtool.h`.
    const ETHTOOL_STXCSUM: u32 = 0x17;
    /// `linux/sockios.h`.
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    // SAFETY: takes no pointer; a descriptor that is returned is ours alone.
    let socket = unsafe {
        let descriptor = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        assert!(descriptor >= 0, "a socket: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(descriptor)
    };
    let mut value = Value {
        command: ETHTOOL_STXCSUM,
        data: 0,
    };
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        value: &raw mut value,
        rest: [0; 16],
    };
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    // SAFETY: the request and the value it points to outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    assert_eq!(result, 0, "checksums of {interface}: {}", io::Error::last_os_error());
}
