//! cgroup `getpeername4` and `getpeername6`: the peer of a connection is the VIP that was asked for.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use super::socket::{Family, PROCEED, Socket};

/// `getpeername` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn cw_getpeername4(ctx: SockAddrContext) -> i32 {
    name(&Socket::new(&ctx, Family::V4))
}

/// `getpeername` of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn cw_getpeername6(ctx: SockAddrContext) -> i32 {
    name(&Socket::new(&ctx, Family::V6))
}

#[inline(always)]
fn name(socket: &Socket<'_>) -> i32 {
    socket.show_origin();
    PROCEED
}
