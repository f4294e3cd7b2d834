//! cgroup `connect4` and `connect6`: a connection's backend is chosen once, when it is made.

use aya_ebpf::{helpers::generated::bpf_get_prandom_u32, macros::cgroup_sock_addr, programs::SockAddrContext};
use causeway_abi::{DropReason, backend::Backend, event::Hook, service::Service};
use causeway_ebpf::flow::client_hash;

use super::socket::{Family, PROCEED, Socket, refuse, tell};
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
    let Some(chosen) = choose(socket, &service) else {
        return refuse(Hook::Connect, socket, &service, DropReason::NoReadyBackend);
    };
    let mut origin = socket.origin();
    let protocol = socket.protocol();
    if !socket.set(&chosen.1.address, chosen.1.port_be) {
        return refuse(Hook::Connect, socket, &service, DropReason::NoReadyBackend);
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
    tell(Hook::Connect, &origin, protocol, &service, chosen);
    PROCEED
}

/// At random, or as it was for the clients of this network namespace, which is a pod.
#[inline(always)]
fn choose(socket: &Socket<'_>, service: &Service) -> Option<(u32, &'static Backend)> {
    if service.affinity_seconds == 0 {
        // SAFETY: takes no argument.
        return balance::choose(service, unsafe { bpf_get_prandom_u32() });
    }
    let client = socket.client(service);
    balance::choose_again(service, client_hash(&client.client), &client)
}
