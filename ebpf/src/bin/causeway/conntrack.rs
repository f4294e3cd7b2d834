//! The connection table: who talks to which backend through which VIP.
//!
//! A flow has two halves, one for each direction, holding the same description. While only its client was seen it lives
//! in `CONNTRACK_NEW`, whose least recently used elements make room for others; once the backend has answered and the
//! client gone on, it moves to `CONNTRACK`, where nothing pushes it out. When that is full a flow stays where it is: less
//! safe, but served.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_ktime_get_coarse_ns,
};
use causeway_abi::{
    conntrack::{Flow, FlowKey, TCP_CLOSING, TCP_ESTABLISHED, TCP_SYN_SENT},
    service::Service,
};
use causeway_ebpf::{
    flow::{
        PORT_ALTERNATIVES, Translation, alternative_port_be, client_hash, client_seen_by, continues, expired,
        forward_key, forward_key_of, hash, next_state, reply_key, reply_key_of, to_backend, to_client,
    },
    parse::{Headers, protocol},
};

use crate::{
    balance, count,
    maps::{CONNTRACK, CONNTRACK_NEW},
};

/// `last_seen_ns` is written at most this often, so that a busy flow does not bounce its cache line between CPUs.
const TOUCH_NS: u64 = 1_000_000_000;

/// Why a client's packet got no translation.
pub enum Failure {
    /// The service has no backend for it.
    NoReadyBackend,
    /// Its connection's backend is gone.
    BackendGone,
    /// No room, or no distinct reply tuple.
    Full,
}

/// Monotonic time in nanoseconds, at the resolution of a timer tick.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes no argument.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Translates a client's packet to its backend, choosing one for a new flow.
#[inline(always)]
pub fn forward(headers: &Headers, service: &Service) -> Result<Translation, Failure> {
    let key = forward_key(headers);
    let now = now_ns();
    if let Some((flow, is_new)) = find(&key) {
        // SAFETY: the map returned a valid element. Elements are reused only after an RCU grace period or, when
        // preallocated, may change under our eyes; a torn read then costs one packet.
        let found = unsafe { &mut *flow };
        if continues(found, headers, now) {
            if balance::is_alive(found.backend, found.generation) {
                touch(found, headers, now, false);
                let copy = *found;
                if is_new {
                    settle(&copy, headers, now);
                }
                return Ok(to_backend(&copy));
            }
            let gone = *found;
            forget(&gone, headers.protocol);
            if headers.protocol == protocol::TCP && !headers.opens_connection() {
                return Err(Failure::BackendGone);
            }
        }
    }
    open(headers, service, &key, now)
}

/// Translates a backend's packet back to its client; also the service's id. `None` for packets of no known flow.
#[inline(always)]
pub fn reply(headers: &Headers) -> Option<(Translation, u32)> {
    let (flow, _) = find(&reply_key(headers))?;
    let now = now_ns();
    // SAFETY: as in `forward`.
    let found = unsafe { &mut *flow };
    if expired(found, headers.protocol, now) {
        return None;
    }
    touch(found, headers, now, true);
    Some((to_client(found), found.service_id))
}

#[inline(always)]
fn find(key: &FlowKey) -> Option<(*mut Flow, bool)> {
    if let Some(flow) = CONNTRACK.get_ptr_mut(key) {
        return Some((flow, false));
    }
    CONNTRACK_NEW.get_ptr_mut(key).map(|flow| (flow, true))
}

#[inline(always)]
fn touch(flow: &mut Flow, headers: &Headers, now: u64, answered: bool) {
    let state = next_state(flow.tcp_state, headers.protocol, headers.flags, answered);
    if state != flow.tcp_state {
        flow.tcp_state = state;
        flow.last_seen_ns = now;
    } else if now > flow.last_seen_ns + TOUCH_NS {
        flow.last_seen_ns = now;
    }
}

/// Begins a flow.
#[inline(always)]
fn open(headers: &Headers, service: &Service, key: &FlowKey, now: u64) -> Result<Translation, Failure> {
    let hash = if service.affinity_seconds == 0 { hash(key) } else { client_hash(&headers.source) };
    let (index, backend) = balance::choose(service, hash).ok_or(Failure::NoReadyBackend)?;
    let mut flow = Flow {
        last_seen_ns: now,
        backend: index,
        generation: backend.generation,
        vip: headers.destination,
        vip_port_be: headers.destination_port_be,
        tcp_state: TCP_SYN_SENT,
        reserved: 0,
        service_id: service.service_id,
        client: headers.source,
        translated_client: client_seen_by(&backend.address, &headers.source),
        backend_address: backend.address,
        client_port_be: headers.source_port_be,
        translated_client_port_be: headers.source_port_be,
        backend_port_be: backend.port_be,
        reserved2: 0,
    };
    if !claim(&mut flow, headers.protocol, hash) {
        return Err(Failure::Full);
    }
    if CONNTRACK_NEW.insert(key, &flow, BPF_ANY.into()).is_err() {
        let _ = CONNTRACK_NEW.remove(reply_key_of(&flow, headers.protocol));
        return Err(Failure::Full);
    }
    count::connection(service.service_id);
    Ok(to_backend(&flow))
}

/// Writes the backend's half of a flow. When another flow already looks like it to the backend (the same client port
/// through another VIP), the client is given another port there.
#[inline(never)]
fn claim(flow: &mut Flow, protocol: u8, hash: u32) -> bool {
    for attempt in 0..=PORT_ALTERNATIVES {
        if attempt > 0 {
            flow.translated_client_port_be = alternative_port_be(hash, attempt);
        }
        let key = reply_key_of(flow, protocol);
        // SAFETY: as in `forward`.
        let taken = unsafe { CONNTRACK.get(&key) };
        if let Some(other) = taken {
            if !gives_way(other, flow, protocol) {
                continue;
            }
            let other = *other;
            forget(&other, protocol);
        }
        match CONNTRACK_NEW.insert(&key, &*flow, BPF_NOEXIST.into()) {
            Ok(()) => return true,
            Err(_) => {
                // SAFETY: as in `forward`.
                let taken = unsafe { CONNTRACK_NEW.get(&key) };
                if taken.is_some_and(|other| gives_way(other, flow, protocol)) {
                    return CONNTRACK_NEW.insert(&key, &*flow, BPF_ANY.into()).is_ok();
                }
            }
        }
    }
    false
}

/// Whether a flow may take the place of another with the same reply tuple: its own earlier self, or one that is over.
#[inline(always)]
fn gives_way(other: &Flow, flow: &Flow, protocol: u8) -> bool {
    let same = other.client == flow.client
        && other.client_port_be == flow.client_port_be
        && other.vip == flow.vip
        && other.vip_port_be == flow.vip_port_be;
    same || expired(other, protocol, flow.last_seen_ns)
}

/// Goes on with a flow that is not yet established: moves it to `CONNTRACK` once it was answered, and restores its other
/// half if that was pushed out.
#[inline(never)]
fn settle(flow: &Flow, headers: &Headers, now: u64) {
    let reply_key = reply_key_of(flow, headers.protocol);
    let mut state = TCP_SYN_SENT;
    if let Some(other) = CONNTRACK_NEW.get_ptr_mut(&reply_key) {
        // SAFETY: as in `forward`.
        state = unsafe { (*other).tcp_state };
        if state == TCP_SYN_SENT || headers.opens_connection() {
            return;
        }
    }
    let mut half = *flow;
    half.last_seen_ns = now;
    half.tcp_state = state;
    if state == TCP_SYN_SENT {
        let _ = CONNTRACK_NEW.insert(&reply_key, &half, BPF_ANY.into());
        return;
    }
    if CONNTRACK.insert(&reply_key, &half, BPF_ANY.into()).is_err() {
        return;
    }
    half.tcp_state = if flow.tcp_state == TCP_CLOSING { TCP_CLOSING } else { TCP_ESTABLISHED };
    let forward_key = forward_key_of(flow, headers.protocol);
    if CONNTRACK.insert(&forward_key, &half, BPF_ANY.into()).is_err() {
        let _ = CONNTRACK.remove(&reply_key);
        return;
    }
    let _ = CONNTRACK_NEW.remove(&forward_key);
    let _ = CONNTRACK_NEW.remove(&reply_key);
}

/// Removes both halves of a flow, wherever they are.
#[inline(never)]
fn forget(flow: &Flow, protocol: u8) {
    let key = forward_key_of(flow, protocol);
    let _ = CONNTRACK.remove(&key);
    let _ = CONNTRACK_NEW.remove(&key);
    let key = reply_key_of(flow, protocol);
    let _ = CONNTRACK.remove(&key);
    let _ = CONNTRACK_NEW.remove(&key);
}
