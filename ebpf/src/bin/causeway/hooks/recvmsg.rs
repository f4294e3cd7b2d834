//! cgroup `recvmsg4` and `recvmsg6`: a reply shows the VIP that was asked, not the backend that answered.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use super::socket::{Family, PROCEED, Socket};
use crate::maps::SOCKET_REPLIES;

/// A datagram for an IPv4 socket.
#[cgroup_sock_addr(recvmsg4)]
pub fn cw_recvmsg4(ctx: SockAddrContext) -> i32 {
    receive(&Socket::new(&ctx, Family::V4))
}

/// A datagram for an IPv6 socket.
#[cgroup_sock_addr(recvmsg6)]
pub fn cw_recvmsg6(ctx: SockAddrContext) -> i32 {
    receive(&Socket::new(&ctx, Family::V6))
}

#[inline(always)]
fn receive(socket: &Socket<'_>) -> i32 {
    let (address, port_be) = (socket.address(), socket.port_be());
    if socket.is_connected_to(&address, port_be) {
        socket.show_origin();
        return PROCEED;
    }
    // SAFETY: the value is copied out at once.
    if let Some(origin) = unsafe { SOCKET_REPLIES.get(socket.reply_key(&address, port_be)).copied() } {
        socket.set(&origin.vip, origin.port_be);
    }
    PROCEED
}
