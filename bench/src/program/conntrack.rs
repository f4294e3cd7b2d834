//! Emptying a namespace's connection table.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

use crate::site::Netns;

// include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;

/// Deletes every entry of the namespace's connection table: a delete message that names none (`nfnetlink_conntrack`).
pub(super) fn flush(node: &Netns) -> Result<()> {
    node.run(|| send_delete().context("cannot empty the connection table"))
}

fn send_delete() -> io::Result<()> {
    // SAFETY: takes no pointer.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_NETFILTER,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let message = message();
    // SAFETY: `message` is valid for reading; a netlink socket that is not connected sends to the kernel.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = [0_u8; 256];
    // SAFETY: `answer` is valid for writing.
    let got = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    if got < 20 {
        return Err(io::Error::last_os_error());
    }
    // An acknowledgement is an nlmsghdr (16 bytes) and an error number, negative or zero (netlink(7)).
    let number = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    match number {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(-number)),
    }
}

/// `nlmsghdr` and `nfgenmsg`, without attributes.
fn message() -> [u8; 20] {
    let mut message = [0; 20];
    let kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    message[0..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[16] = libc::AF_UNSPEC as u8;
    message
}
