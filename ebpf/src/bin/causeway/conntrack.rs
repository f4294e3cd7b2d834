//! The connection table: who talks to which backend through which VIP.
//!
//! A flow has two halves, one for each direction, holding the same description. While only its client was seen it lives
//! in `CONNTRACK_NEW`, whose least recently used elements make room for others; once the backend has answered and the
//! client gone on, it moves to `CONNTRACK`, where nothing pushes it out. When that is full a flow stays where it is: less
//! safe, but served.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_ktime_get_coarse_ns,
};
use causeway_abi::{
    Address, DropReason,
    conntrack::{Flow, FlowKey, TCP_ESTABLISHED, TCP_RESET, TCP_SYN_SENT},
    event::Choice,
    node::MASQUERADE,
    service::{NO_BACKEND, Service},
};
use causeway_ebpf::{
    flow::{
        NODE_PORT_ATTEMPTS, PORT_ATTEMPTS, PORT_ATTEMPTS_STRICT, Translation, begins_again, both_expired, expired,
        forward_key, forward_key_of, hairpin_source, hash, is_closing, next_state, node_port_be, reply_key,
        reply_key_of, to_backend, to_client, translated_port_be,
    },
    parse::{Headers, protocol},
};

use crate::{
    balance,
    deliver::{self, From},
    maps::{CONNTRACK, CONNTRACK_NEW, FLOW_DRAFT},
    trace,
};

/// `last_seen_ns` is written at most this often, so that a busy flow does not bounce its cache line between CPUs.
const TOUCH_NS: u64 = 1_000_000_000;

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

/// Goes on with a known flow; `NEW` when there is none.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_continue(headers: *const Headers, translation: *mut Translation, dry_run: u32) -> u32 {
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

/// Translates a backend's packet back to its client; false for packets of no known flow.
#[inline(always)]
pub fn reply(headers: &Headers, translation: &mut Translation, dry_run: bool) -> bool {
    // SAFETY: all pointers are valid.
    unsafe { cw_reply(headers, translation, dry_run.into()) != 0 }
}

/// Global function behind [`reply`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_reply(headers: *const Headers, translation: *mut Translation, dry_run: u32) -> u32 {
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

/// The flow of a key, to look at.
#[inline(always)]
pub fn peek(key: &FlowKey) -> Option<&'static Flow> {
    // SAFETY: the map returned a valid element; one that is reused meanwhile costs one packet.
    find(key).map(|(flow, _)| unsafe { &*flow })
}

#[inline(always)]
fn find(key: &FlowKey) -> Option<(*mut Flow, bool)> {
    if let Some(flow) = CONNTRACK.get_ptr_mut(key) {
        return Some((flow, false));
    }
    CONNTRACK_NEW.get_ptr_mut(key).map(|flow| (flow, true))
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
fn is_over(half: &Flow, protocol: u8, now: u64, is_answer: bool) -> bool {
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

/// Drafts a flow of the service and to the backend that `translation` names; which ports its client may show.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_open(headers: *const Headers, translation: *const Translation, from_network: u32) -> u32 {
    if headers.is_null() || translation.is_null() {
        return PORTS_NONE;
    }
    // SAFETY: not null, and valid as `forward` passes them.
    let (headers, translation) = unsafe { (&*headers, &*translation) };
    let Some(backend) = balance::backend(translation.backend) else {
        return PORTS_NONE;
    };
    let Some(flow) = draft() else { return PORTS_NONE };
    *flow = Flow {
        last_seen_ns: now_ns(),
        backend: translation.backend,
        generation: backend.generation,
        vip: headers.destination,
        vip_port_be: headers.destination_port_be,
        tcp_state: TCP_SYN_SENT,
        reserved: 0,
        service_id: translation.service_id,
        client: headers.source,
        translated_client: headers.source,
        backend_address: backend.address,
        client_port_be: headers.source_port_be,
        translated_client_port_be: headers.source_port_be,
        backend_port_be: backend.port_be,
        reserved2: 0,
    };
    if flow.backend_address == flow.client {
        // Nobody else sends from there.
        flow.translated_client = hairpin_source(&flow.client);
        return PORTS_OWN;
    }
    let Some(node) = deliver::node() else { return PORTS_NONE };
    // SAFETY: a valid pointer.
    let behind = match unsafe { cw_behind(&raw const flow.backend_address, from_network) } {
        BEHIND_NOBODY if from_network == 0 => return PORTS_CLIENT,
        BEHIND_NOBODY => return PORTS_OWN,
        BEHIND_ROUTER => node.router_address_like(&flow.client),
        _ => node.node_address_like(&flow.client),
    };
    let Some(address) = behind else { return PORTS_NONE };
    flow.translated_client = address;
    PORTS_NODE
}

/// The backend sees the client's own address.
const BEHIND_NOBODY: u32 = 0;
/// It sees this node's address among the pods.
const BEHIND_ROUTER: u32 = 1;
/// It sees this node's address in the network.
const BEHIND_NODE: u32 = 2;

/// Behind which address a client has to hide from a backend, so that the answer comes back through here. What answers a pod of this
/// node comes through here anyway, but for backends that are no pods: theirs come to the address that pods leave the cluster with.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_behind(backend: *const Address, from_network: u32) -> u32 {
    let Some(node) = deliver::node() else {
        return BEHIND_NOBODY;
    };
    if backend.is_null() {
        return BEHIND_NOBODY;
    }
    // SAFETY: not null, and valid as `cw_open` passes it. Copied, as in `cw_onwards`.
    let backend = &unsafe { ptr::read_volatile(backend) };
    if deliver::pod(backend).is_some() || node.is_own(backend) {
        return BEHIND_NOBODY;
    }
    let is_pod = deliver::route(backend).is_some();
    match (from_network != 0, is_pod) {
        (true, true) => BEHIND_ROUTER,
        (true, false) => BEHIND_NODE,
        (false, false) if node.flags & MASQUERADE != 0 => BEHIND_NODE,
        (false, _) => BEHIND_NOBODY,
    }
}

/// Drafts a pod's flow to the network, with the node's address and a port of its own; which ports it may be.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_masquerade(headers: *const Headers) -> u32 {
    // SAFETY: checked for null, and valid as `masquerade` passes it.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return PORTS_NONE;
    };
    let Some(node) = deliver::node() else { return PORTS_NONE };
    let Some(node_address) = node.node_address_like(&headers.source) else {
        return PORTS_NONE;
    };
    let Some(flow) = draft() else { return PORTS_NONE };
    *flow = Flow {
        last_seen_ns: now_ns(),
        backend: NO_BACKEND,
        generation: 0,
        vip: headers.destination,
        vip_port_be: headers.destination_port_be,
        tcp_state: TCP_SYN_SENT,
        reserved: 0,
        service_id: 0,
        client: headers.source,
        translated_client: node_address,
        backend_address: headers.destination,
        client_port_be: headers.source_port_be,
        translated_client_port_be: headers.source_port_be,
        backend_port_be: headers.destination_port_be,
        reserved2: 0,
    };
    PORTS_NODE
}

/// Nothing was drafted.
const PORTS_NONE: u32 = 0;
/// A flow's client may show its backend the ports of [`translated_port_be`].
const PORTS_CLIENT: u32 = 1;
/// The client's own, and those others only when it is taken.
const PORTS_OWN: u32 = 2;
/// Those of [`node_port_be`].
const PORTS_NODE: u32 = 3;

/// The flow that is about to begin, on this processor.
#[inline(always)]
fn draft() -> Option<&'static mut Flow> {
    // SAFETY: the map returned a valid element. It is this processor's, and no program of ours interrupts another.
    FLOW_DRAFT.get_ptr_mut(0).map(|flow| unsafe { &mut *flow })
}

/// Begins the drafted flow, with the first of those ports that is free; `translation` gets what its packets become.
#[inline(always)]
fn begin(protocol: u8, ports: u32, translation: &mut Translation, dry_run: bool) -> bool {
    // SAFETY: a valid pointer.
    ports != PORTS_NONE
        && cw_begin(protocol.into(), ports, dry_run.into()) == DONE
        && unsafe { cw_drafted(translation) != 0 }
}

/// Tries the ports.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cw_begin(protocol: u32, ports: u32, dry_run: u32) -> u32 {
    for attempt in 0..PORT_ATTEMPTS {
        cw_port(protocol, ports, attempt);
        let begun = if dry_run == 0 {
            cw_enter(protocol, (attempt >= PORT_ATTEMPTS_STRICT).into())
        } else {
            DONE
        };
        if begun != TAKEN {
            return begun;
        }
    }
    FULL
}

/// Gives the drafted flow the port of an attempt.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cw_port(protocol: u32, ports: u32, attempt: u32) -> u32 {
    const { assert!(NODE_PORT_ATTEMPTS == PORT_ATTEMPTS, "one loop for both") };
    let Some(flow) = draft() else { return FULL };
    let hash = hash(&forward_key_of(flow, protocol as u8));
    let attempt = if ports == PORTS_OWN {
        attempt.wrapping_sub(1)
    } else {
        attempt
    };
    flow.translated_client_port_be = if ports == PORTS_NODE {
        node_port_be(hash, attempt)
    } else if attempt == u32::MAX {
        flow.client_port_be
    } else {
        translated_port_be(flow.client_port_be, flow.backend_port_be, hash, attempt)
    };
    DONE
}

/// What packets of the drafted flow become.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_drafted(translation: *mut Translation) -> u32 {
    // SAFETY: checked for null, and valid as `begin` passes it.
    let (Some(translation), Some(flow)) = (unsafe { translation.as_mut() }, draft()) else {
        return 0;
    };
    *translation = to_backend(flow);
    1
}

/// Writes both halves of the drafted flow; `TAKEN` when another already looks like it to the backend (the same client port through
/// another VIP). If `from_closed`, one that both sides have closed is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cw_enter(protocol: u32, from_closed: u32) -> u32 {
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
unsafe extern "C" fn cw_settle(flow: *const Flow, protocol: u32, opens_connection: u32, now: u64) -> u32 {
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
unsafe extern "C" fn cw_forget(flow: *const Flow, protocol: u32) -> u32 {
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
