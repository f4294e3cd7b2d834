//! cgroup `connect4` and `connect6`: a connection's backend is chosen once, when it is made.

use aya_ebpf::{
    bindings::{BPF_ANY, bpf_func_id::BPF_FUNC_map_update_elem},
    helpers::generated::bpf_get_prandom_u32,
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use causeway_abi::{DropReason, backend::Backend, event::Hook, service::Service};
use causeway_ebpf::flow::client_hash;

use super::socket::{Family, PROCEED, Socket, refuse, tell};
use crate::{balance, count, log, maps::SOCKET_ORIGINS};

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
        let _ = SOCKET_ORIGINS.remove(socket.cookie());
        return PROCEED;
    };
    let Some(chosen) = choose(socket, &service) else {
        return refuse(Hook::Connect, socket, &service, DropReason::NoReadyBackend);
    };
    let origin = socket.origin(&service, chosen.0, chosen.1.generation);
    if let Err(error) = SOCKET_ORIGINS.insert(socket.cookie(), &origin, BPF_ANY.into()) {
        log::refused(BPF_FUNC_map_update_elem, error.into());
        return refuse(Hook::Connect, socket, &service, DropReason::SocketsFull);
    }
    if !socket.set(&chosen.1.address, chosen.1.port_be) {
        let _ = SOCKET_ORIGINS.remove(socket.cookie());
        return refuse(Hook::Connect, socket, &service, DropReason::NoReadyBackend);
    }
    count::connection(service.service_id);
    tell(Hook::Connect, &origin, &service, chosen);
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
