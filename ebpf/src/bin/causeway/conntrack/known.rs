//! Flows that go on: packets of either side, and when a flow is over.

use causeway_abi::{
    conntrack::{Flow, TCP_RESET},
    event::Choice,
    service::NO_BACKEND,
};
use causeway_ebpf::{
    flow::{
        Translation, begins_again, both_expired, expired, forward_key, next_state, reply_key, to_backend, to_client,
    },
    parse::{Headers, protocol},
};

use super::{
    BACKEND_GONE, DONE, DRY_RUN, FULL, NEW, find,
    halves::{cw_forget, cw_settle},
    now_ns, other_half,
};
use crate::{balance, trace};

/// `last_seen_ns` is written at most this often, so that a busy flow does not bounce its cache line between CPUs.
pub(super) const TOUCH_NS: u64 = 1_000_000_000;

/// Goes on with a known flow; `NEW` when there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) unsafe extern "C" fn cw_continue(
    headers: *const Headers,
    translation: *mut Translation,
    dry_run: u32,
) -> u32 {
    if headers.is_null() || translation.is_null() {
        return FULL;
    }
    // SAFETY: not null, and valid as `forward` passes them.
    let (headers, translation) = unsafe { (&*headers, &mut *translation) };
    let Some((flow, is_new)) = find(&forward_key(headers)) else {
        return NEW;
    };
    let now = now_ns();
    // SAFETY: the map returned a valid element. Elements are reused only after an RCU grace period or, when preallocated,
    // may change under our eyes; a torn read then costs one packet.
    let found = unsafe { &mut *flow };
    if begins_again(found, headers) || is_over(found, headers.protocol, now, false) {
        if dry_run == 0 {
            // Its halves may be in the table that is looked at first, before those of the flow that is about to begin.
            // SAFETY: a valid pointer, not used after.
            unsafe { cw_forget(flow, headers.protocol.into()) };
        }
        return NEW;
    }
    if found.backend != NO_BACKEND && !balance::is_alive(found.backend, found.generation) {
        if dry_run == 0 {
            // SAFETY: a valid pointer, not used after.
            unsafe { cw_forget(flow, headers.protocol.into()) };
        }
        return if headers.protocol == protocol::TCP && !headers.opens_connection() {
            BACKEND_GONE
        } else {
            NEW
        };
    }
    *translation = to_backend(found);
    if dry_run == DRY_RUN {
        let backend = found.backend;
        trace::explain(|explanation| {
            explanation.choice = Choice::Conntrack as u32;
            explanation.backend = backend;
        });
        return DONE;
    }
    if touch(found, headers, now, false) {
        // SAFETY: a valid pointer.
        unsafe { cw_reset(flow, headers.protocol.into(), 0) };
    }
    if is_new {
        // SAFETY: a valid pointer.
        unsafe { cw_settle(flow, headers.protocol.into(), headers.opens_connection().into(), now) };
    }
    DONE
}

/// Global function behind [`reply`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) unsafe extern "C" fn cw_reply(headers: *const Headers, translation: *mut Translation, dry_run: u32) -> u32 {
    if headers.is_null() || translation.is_null() {
        return 0;
    }
    // SAFETY: not null, and valid as `reply` passes them.
    let (headers, translation) = unsafe { (&*headers, &mut *translation) };
    let Some((flow, _)) = find(&reply_key(headers)) else {
        return 0;
    };
    let now = now_ns();
    // SAFETY: as in `cw_continue`.
    let found = unsafe { &mut *flow };
    if is_over(found, headers.protocol, now, true) {
        return 0;
    }
    *translation = to_client(found);
    if dry_run != 0 {
        let backend = found.backend;
        trace::explain(|explanation| {
            explanation.choice = Choice::Reply as u32;
            explanation.backend = backend;
        });
        return 1;
    }
    if touch(found, headers, now, true) {
        // SAFETY: a valid pointer.
        unsafe { cw_reset(flow, headers.protocol.into(), 1) };
    }
    1
}

/// Tells whether the packet reset the connection.
#[inline(always)]
fn touch(flow: &mut Flow, headers: &Headers, now: u64, answered: bool) -> bool {
    let state = next_state(flow.tcp_state, headers.protocol, headers.flags, answered);
    if state != flow.tcp_state {
        flow.tcp_state = state;
        flow.last_seen_ns = now;
        return state == TCP_RESET;
    }
    if now > flow.last_seen_ns + TOUCH_NS {
        flow.last_seen_ns = now;
    }
    false
}

/// Whether a flow is over of which one half was found; the other is looked at only when this one has been silent for long.
#[inline(always)]
pub(super) fn is_over(half: &Flow, protocol: u8, now: u64, is_answer: bool) -> bool {
    // SAFETY: a valid pointer.
    expired(half, protocol, now) && unsafe { cw_is_over(half, protocol.into(), now, is_answer.into()) != 0 }
}

/// Global function behind [`is_over`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_is_over(half: *const Flow, protocol: u32, now: u64, is_answer: u32) -> u32 {
    if half.is_null() {
        return 1;
    }
    // SAFETY: not null, and valid as `is_over` passes it.
    let half = unsafe { &*half };
    let protocol = protocol as u8;
    match other_half(half, protocol, is_answer != 0) {
        // SAFETY: as in `cw_continue`.
        Some(other) => both_expired(half, unsafe { &*other }, protocol, now).into(),
        None => 1,
    }
}

/// Tells the other half of a flow that the connection was reset.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_reset(half: *const Flow, protocol: u32, is_answer: u32) -> u32 {
    if half.is_null() {
        return 0;
    }
    // SAFETY: not null, and valid as its callers pass it; the map returned a valid element.
    unsafe {
        if let Some(other) = other_half(&*half, protocol as u8, is_answer != 0) {
            (*other).tcp_state = TCP_RESET;
        }
    }
    0
}
