//! cgroup `sendmsg4` and `sendmsg6`: datagrams of UDP sockets that are not connected.

use aya_ebpf::{bindings::BPF_ANY, macros::cgroup_sock_addr, programs::SockAddrContext};
use causeway_abi::{DropReason, event::Hook};
use causeway_ebpf::flow::{client_hash, cookie_hash};

use super::socket::{Family, PROCEED, Socket, refuse, tell};
use crate::{balance, count, maps::SOCKET_REPLIES};

/// A datagram of an IPv4 socket.
#[cgroup_sock_addr(sendmsg4)]
pub fn cw_sendmsg4(ctx: SockAddrContext) -> i32 {
    send(&Socket::new(&ctx, Family::V4))
}

/// A datagram of an IPv6 socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn cw_sendmsg6(ctx: SockAddrContext) -> i32 {
    send(&Socket::new(&ctx, Family::V6))
}

#[inline(always)]
fn send(socket: &Socket<'_>) -> i32 {
    let (address, port_be) = (socket.address(), socket.port_be());
    let Some(service) = socket.service() else {
        // Sent to an address for its own sake: its replies are to show that one.
        let _ = SOCKET_REPLIES.remove(socket.reply_key(&address, port_be));
        return PROCEED;
    };
    // One socket's datagrams to one VIP keep to one backend while it is ready, as they would with a connection table.
    let chosen = if service.affinity_seconds == 0 {
        balance::choose(&service, cookie_hash(socket.cookie(), &address, port_be))
    } else {
        let client = socket.client(&service);
        balance::choose_again(&service, client_hash(&client.client), &client)
    };
    let Some((index, backend)) = chosen else {
        return refuse(Hook::Sendmsg, socket, &service, DropReason::NoReadyBackend);
    };
    let key = socket.reply_key(&backend.address, backend.port_be);
    let origin = socket.origin(&service, index, backend.generation);
    // SAFETY: only compared, before the map is written.
    let is_known = unsafe { SOCKET_REPLIES.get(&key) }.is_some_and(|known| *known == origin);
    if !is_known {
        if SOCKET_REPLIES.insert(&key, &origin, BPF_ANY.into()).is_err() {
            return refuse(Hook::Sendmsg, socket, &service, DropReason::SocketsFull);
        }
        count::connection(service.service_id);
        tell(Hook::Sendmsg, &origin, &service, (index, backend));
    }
    if socket.set(&backend.address, backend.port_be) {
        PROCEED
    } else {
        refuse(Hook::Sendmsg, socket, &service, DropReason::NoReadyBackend)
    }
}
