//! Both halves of a flow in the tables: entering them, moving them on, forgetting them.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use causeway_abi::conntrack::{Flow, TCP_ESTABLISHED, TCP_RESET, TCP_SYN_SENT};
use causeway_ebpf::flow::{both_expired, expired, forward_key_of, is_closing, reply_key_of};

use super::{DONE, FULL, TAKEN, draft, find, other_half};
use crate::maps::{CONNTRACK, CONNTRACK_NEW};

/// Writes both halves of the drafted flow; `TAKEN` when another already looks like it to the backend (the same client port through
/// another VIP). If `from_closed`, one that both sides have closed is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn cw_enter(protocol: u32, from_closed: u32) -> u32 {
    let Some(flow) = draft() else { return FULL };
    let flow = &*flow;
    let protocol = protocol as u8;
    let from_closed = from_closed != 0;
    // One key after the other in the same place: stack is short.
    let mut key = reply_key_of(flow, protocol);
    if let Some((other, _)) = find(&key) {
        // SAFETY: as in `cw_continue`.
        let other = unsafe { &*other };
        if !gives_way(other, flow, protocol, from_closed) {
            return TAKEN;
        }
        // SAFETY: a valid pointer, not used after.
        unsafe { cw_forget(other, protocol.into()) };
    }
    key = reply_key_of(flow, protocol);
    if CONNTRACK_NEW.insert(&key, flow, BPF_NOEXIST.into()).is_err() {
        // Another processor was faster, or there is no room.
        return if find(&key).is_some() { TAKEN } else { FULL };
    }
    key = forward_key_of(flow, protocol);
    if CONNTRACK_NEW.insert(&key, flow, BPF_ANY.into()).is_err() {
        key = reply_key_of(flow, protocol);
        let _ = CONNTRACK_NEW.remove(&key);
        return FULL;
    }
    DONE
}

/// Whether a flow may take the place of another, of whom this is the backend's half: its own earlier self, or one that is over.
#[inline(always)]
fn gives_way(other: &Flow, flow: &Flow, protocol: u8, from_closed: bool) -> bool {
    let same = other.client == flow.client
        && other.client_port_be == flow.client_port_be
        && other.vip == flow.vip
        && other.vip_port_be == flow.vip_port_be;
    if same || other.tcp_state == TCP_RESET {
        return true;
    }
    // SAFETY: a valid pointer.
    unsafe { cw_is_free(other, protocol.into(), flow.last_seen_ns, from_closed.into()) != 0 }
}

/// Whether a flow is over, of whom this is the backend's half; or, if `from_closed`, was closed by both sides.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_is_free(half: *const Flow, protocol: u32, now: u64, from_closed: u32) -> u32 {
    if half.is_null() {
        return 0;
    }
    // SAFETY: not null, and valid as `gives_way` passes it.
    let half = unsafe { &*half };
    let protocol = protocol as u8;
    let Some(other) = other_half(half, protocol, true) else {
        return (expired(half, protocol, now) || from_closed != 0 && is_closing(half.tcp_state)).into();
    };
    // SAFETY: as in `cw_continue`.
    let other = unsafe { &*other };
    let is_closed = is_closing(half.tcp_state) && is_closing(other.tcp_state);
    (both_expired(half, other, protocol, now) || from_closed != 0 && is_closed).into()
}

/// Goes on with a flow that is not yet established: moves it to `CONNTRACK` once it was answered, and restores its other
/// half if that was pushed out.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) unsafe extern "C" fn cw_settle(flow: *const Flow, protocol: u32, opens_connection: u32, now: u64) -> u32 {
    if flow.is_null() {
        return 0;
    }
    // Where flows are drafted: the stack is short.
    let Some(half) = draft() else { return 0 };
    // SAFETY: not null, and valid as `cw_continue` passes it.
    *half = unsafe { *flow };
    let reply_key = reply_key_of(half, protocol as u8);
    let own_state = half.tcp_state;
    half.last_seen_ns = now;
    half.tcp_state = TCP_SYN_SENT;
    match CONNTRACK_NEW.get_ptr_mut(&reply_key) {
        // SAFETY: as in `cw_continue`.
        Some(other) => half.tcp_state = unsafe { (*other).tcp_state },
        None => return CONNTRACK_NEW.insert(&reply_key, &*half, BPF_ANY.into()).is_ok().into(),
    }
    // What was reset needs no shelter, and openings that are reset at once must not fill the table either.
    if matches!(half.tcp_state, TCP_SYN_SENT | TCP_RESET) || opens_connection != 0 {
        return 0;
    }
    if CONNTRACK.insert(&reply_key, &*half, BPF_ANY.into()).is_err() {
        return 0;
    }
    half.tcp_state = if is_closing(own_state) {
        own_state
    } else {
        TCP_ESTABLISHED
    };
    let forward_key = forward_key_of(half, protocol as u8);
    if CONNTRACK.insert(&forward_key, &*half, BPF_ANY.into()).is_err() {
        let _ = CONNTRACK.remove(&reply_key);
        return 0;
    }
    let _ = CONNTRACK_NEW.remove(&forward_key);
    let _ = CONNTRACK_NEW.remove(&reply_key);
    1
}

/// Removes both halves of a flow, wherever they are.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) unsafe extern "C" fn cw_forget(flow: *const Flow, protocol: u32) -> u32 {
    if flow.is_null() {
        return 0;
    }
    // Both keys first: the flow may lie in an element that is about to be removed.
    // SAFETY: not null, and valid as its callers pass it.
    let (forward, reply) = unsafe {
        (
            forward_key_of(&*flow, protocol as u8),
            reply_key_of(&*flow, protocol as u8),
        )
    };
    let _ = CONNTRACK.remove(&forward);
    let _ = CONNTRACK_NEW.remove(&forward);
    let _ = CONNTRACK.remove(&reply);
    let _ = CONNTRACK_NEW.remove(&reply);
    0
}
