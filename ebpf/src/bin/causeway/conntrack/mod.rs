//! The connection table: who talks to which backend through which VIP.
//!
//! A flow has two halves, one for each direction, holding the same description. While only its client was seen it lives
//! in `CONNTRACK_NEW`, whose least recently used elements make room for others; once the backend has answered and the
//! client gone on, it moves to `CONNTRACK`, where nothing pushes it out. When that is full a flow stays where it is: less
//! safe, but served.
//!
//! | file | holds |
//! |---|---|
//! | `known` | flows that go on: packets of either side, and when a flow is over |
//! | `open` | flows that begin: what their backend is shown |
//! | `halves` | both halves in the tables: entering, settling, forgetting |

mod halves;
mod known;
mod open;

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use causeway_abi::{
    DropReason,
    conntrack::{DIRECTION_REPLY, Flow, FlowKey, TCP_ESTABLISHED},
    service::{NO_BACKEND, Service},
};
use causeway_ebpf::{
    flow::{Translation, expired, forward_key_of, reply_key_of},
    parse::Headers,
};

use crate::{
    balance,
    deliver::From,
    direct,
    maps::{CONNTRACK, CONNTRACK_NEW, FLOW_DRAFT},
};

use known::{TOUCH_NS, cw_continue, cw_reply, is_over};
use open::{begin, cw_masquerade, cw_open};

/// Monotonic time in nanoseconds, at the resolution of a timer tick.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes no argument.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Translates a client's packet to its backend, choosing one for a new flow.
///
/// Tells whether the flow is a new one, or why there is no translation: no backend takes it, its connection's backend is gone,
/// or there is no room or no distinct reply tuple. A dry run leaves the table as it is. Of packets from the network those to backends on
/// other nodes get this node as their source, so that the answer comes back through it.
#[inline(always)]
pub fn forward(
    headers: &Headers,
    service: &Service,
    translation: &mut Translation,
    from: From,
    dry_run: bool,
) -> Result<bool, DropReason> {
    // SAFETY: all pointers are valid. So below.
    match unsafe { cw_continue(headers, translation, dry_run.into()) } {
        DONE => return Ok(false),
        BACKEND_GONE => return Err(DropReason::BackendGone),
        _ => {}
    }
    // Chosen here, not in `cw_open`: the calls below each other would need more stack than there is.
    let backend = match from {
        From::Node(backend) => backend,
        From::Pod | From::Network => balance::choose_for(headers, service, dry_run),
    };
    if backend == NO_BACKEND {
        return Err(DropReason::NoReadyBackend);
    }
    translation.service_id = service.service_id;
    translation.backend = backend;
    if from != From::Pod {
        direct::strike_out(headers, dry_run);
    }
    let ports = unsafe { cw_open(headers, translation, (from != From::Pod).into()) };
    if begin(headers.protocol, ports, translation, dry_run) {
        Ok(true)
    } else {
        Err(DropReason::ConntrackFull)
    }
}

/// Translates a packet of a flow that is known from its client to its backend; false, with nothing changed, for others.
#[inline(always)]
pub fn continued(headers: &Headers, translation: &mut Translation) -> bool {
    // SAFETY: all pointers are valid.
    unsafe { cw_continue(headers, translation, KNOWN_ONLY) == DONE }
}

/// Gives a pod's packet to the network the node's address; tells whether it began a flow, `None` when no port is left.
#[inline(always)]
pub fn masquerade(headers: &Headers, translation: &mut Translation, dry_run: bool) -> Option<bool> {
    // SAFETY: all pointers are valid. So below.
    match unsafe { cw_continue(headers, translation, dry_run.into()) } {
        DONE => return Some(false),
        NEW => {}
        _ => return None,
    }
    let ports = unsafe { cw_masquerade(headers) };
    begin(headers.protocol, ports, translation, dry_run).then_some(true)
}

const DONE: u32 = 0;
const BACKEND_GONE: u32 = 2;
const FULL: u32 = 3;
const NEW: u32 = 4;
const TAKEN: u32 = 5;

/// Of [`cw_continue`]: nothing is to be left behind.
const DRY_RUN: u32 = 1;
/// Of [`cw_continue`]: a flow that cannot go on is left to whoever begins another, or refuses it.
const KNOWN_ONLY: u32 = 2;

/// Translates a backend's packet back to its client; false for packets of no known flow.
#[inline(always)]
pub fn reply(headers: &Headers, translation: &mut Translation, dry_run: bool) -> bool {
    // SAFETY: all pointers are valid.
    unsafe { cw_reply(headers, translation, dry_run.into()) != 0 }
}

/// The flow of a key, to look at.
#[inline(always)]
pub fn peek(key: &FlowKey) -> Option<&'static Flow> {
    // SAFETY: the map returned a valid element; one that is reused meanwhile costs one packet.
    find(key).map(|(flow, _)| unsafe { &*flow })
}

/// Whether there is a flow of a key that its packets still belong to.
#[inline(always)]
pub fn is_known(key: &FlowKey) -> bool {
    peek(key).is_some_and(|flow| {
        let is_answer = key.direction == DIRECTION_REPLY;
        !is_over(flow, key.protocol, now_ns(), is_answer)
    })
}

/// A flow that both sides have begun and neither has closed, for a packet that changes nothing about it but when it was seen.
#[inline(always)]
pub fn established(key: &FlowKey) -> Option<&'static Flow> {
    // SAFETY: as in `peek`.
    let flow = unsafe { &mut *CONNTRACK.get_ptr_mut(key)? };
    let now = now_ns();
    let is_over = flow.tcp_state != TCP_ESTABLISHED || expired(flow, key.protocol, now);
    if is_over || !balance::is_alive(flow.backend, flow.generation) {
        return None;
    }
    if now > flow.last_seen_ns + TOUCH_NS {
        flow.last_seen_ns = now;
    }
    Some(flow)
}

#[inline(always)]
fn find(key: &FlowKey) -> Option<(*mut Flow, bool)> {
    if let Some(flow) = CONNTRACK.get_ptr_mut(key) {
        return Some((flow, false));
    }
    CONNTRACK_NEW.get_ptr_mut(key).map(|flow| (flow, true))
}

/// The half of a flow in the other direction.
#[inline(always)]
fn other_half(half: &Flow, protocol: u8, is_answer: bool) -> Option<*mut Flow> {
    let key = if is_answer {
        forward_key_of(half, protocol)
    } else {
        reply_key_of(half, protocol)
    };
    find(&key).map(|(other, _)| other)
}

/// The flow that is about to begin, on this processor.
#[inline(always)]
fn draft() -> Option<&'static mut Flow> {
    // SAFETY: the map returned a valid element. It is this processor's, and no program of ours interrupts another.
    FLOW_DRAFT.get_ptr_mut(0).map(|flow| unsafe { &mut *flow })
}
