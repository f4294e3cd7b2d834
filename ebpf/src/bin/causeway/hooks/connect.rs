//! cgroup `connect4` and `connect6`: a connection's backend is chosen once, when it is made.

use aya_ebpf::{
    helpers::generated::{bpf_get_netns_cookie, bpf_get_prandom_u32},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use causeway_abi::{DropReason, service::Service};
use causeway_ebpf::flow::cookie_hash;

use super::socket::{Family, PROCEED, Socket, refuse};
use crate::{balance, count, maps::SOCKET_ORIGIN};

/// `connect` of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn cw_connect4(ctx: SockAddrContext) -> i32 {
    connect(&Socket::new(&ctx, Family::V4))
}

/// `connect` of an IPv6 socket, to v4-mapped addresses too.
#[cgroup_sock_addr(connect6)]
pub fn cw_connect6(ctx: SockAddrContext) -> i32 {
    connect(&Socket::new(&ctx, Family::V6))
}

#[inline(always)]
fn connect(socket: &Socket<'_>) -> i32 {
    let Some(service) = socket.service() else {
        // A socket can be connected again, elsewhere.
        // SAFETY: the pointer comes from the kernel.
        let _ = unsafe { SOCKET_ORIGIN.delete(socket.kernel_socket()) };
        return PROCEED;
    };
    let Some(backend) = balance::choose(&service, hash(socket, &service)) else {
        return refuse(&service, DropReason::NoReadyBackend);
    };
    let mut origin = socket.origin();
    if !socket.set(&backend.address, backend.port_be) {
        return refuse(&service, DropReason::NoReadyBackend);
    }
    // SAFETY: storage of a valid socket; the pointer is not kept.
    unsafe {
        let stored = SOCKET_ORIGIN.get_or_insert_ptr_mut(socket.context(), Some(&mut origin));
        // The value given is used only for new storage.
        if !stored.is_null() {
            *stored = origin;
        }
    }
    count::connection(service.service_id);
    PROCEED
}

/// Random, or always the same for the clients of one network namespace, which is a pod.
#[inline(always)]
fn hash(socket: &Socket<'_>, service: &Service) -> u32 {
    // SAFETY: the context is valid.
    unsafe {
        if service.affinity_seconds == 0 {
            bpf_get_prandom_u32()
        } else {
            let cookie = bpf_get_netns_cookie(socket.context().sock_addr.cast());
            cookie_hash(cookie, &socket.address(), socket.port_be())
        }
    }
}
