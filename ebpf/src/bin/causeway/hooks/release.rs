//! cgroup `sock_release`: what a closed socket asked for is forgotten.

use aya_ebpf::{helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock, programs::SockContext};

use super::socket::PROCEED;
use crate::maps::SOCKET_ORIGINS;

/// The last descriptor of a socket is closed.
#[cgroup_sock(sock_release)]
pub fn cw_sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the context is valid.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock.cast()) };
    let _ = SOCKET_ORIGINS.remove(cookie);
    PROCEED
}
