//! Sockets of other processes, by their inode numbers.
//!
//! `sock_diag` shows the socket storage of TCP sockets only (`inet_sk_diag_fill` in `net/ipv4/inet_diag.c` leaves it out for others), so
//! a UDP socket is looked at through a descriptor of it, which `pidfd_getfd(2)` copies from a process that has one.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Calls `found` with a descriptor of each socket among `inodes` that a process has; once for each inode for which one could be had.
pub fn each_socket(inodes: &HashSet<u32>, mut found: impl FnMut(u32, &OwnedFd)) -> io::Result<()> {
    let mut left = inodes.clone();
    for process in fs::read_dir("/proc")?.flatten() {
        if left.is_empty() {
            return Ok(());
        }
        let Some(process) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process may end at any time, and then has no descriptors.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Some(inode) = fs::read_link(descriptor.path())
                .ok()
                .and_then(|link| inode(link.to_str()?))
            else {
                continue;
            };
            if !left.contains(&inode) {
                continue;
            }
            let number = descriptor.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(socket) = number.and_then(|number| copy(process, number).ok()) {
                left.remove(&inode);
                found(inode, &socket);
            }
        }
    }
    Ok(())
}

/// The inode number in "socket:[123]".
fn inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Another process's descriptor as one of this process.
fn copy(process: i32, descriptor: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let handle = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })?;
    // SAFETY: the call takes three integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, handle.as_raw_fd(), descriptor, 0) })
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the kernel just made this descriptor for us; nobody else knows it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::unix::fs::MetadataExt as _};

    use super::*;

    #[test]
    fn a_socket_is_found_by_its_inode() {
        assert_eq!(inode("socket:[4711]"), Some(4711));
        assert_eq!(inode("pipe:[4711]"), None);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let inode = fs::metadata(path).unwrap().ino() as u32;
        let mut seen = Vec::new();
        each_socket(&HashSet::from([inode]), |inode, descriptor| {
            let copy = UdpSocket::from(descriptor.try_clone().unwrap());
            seen.push((inode, copy.local_addr().unwrap()));
        })
        .unwrap();
        assert_eq!(seen, [(inode, address)]);
    }
}
