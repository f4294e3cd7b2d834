//! Direct server return, where packets have socket buffers: what XDP leaves to it at the node that the client reaches, and all of
//! it at the backend's node.
//!
//! The service's table alone decides where a flow goes, at every node alike, so nothing is written down of it, and a flood of
//! openings leaves no trace. It is not enough while a slot is changing hands, or its backend takes no new connections, or did not a moment
//! ago: of flows that meet such a slot the backend is kept in `DIRECT_FLOWS`. User space sees to it that nothing is kept there of the
//! flows of other slots, where a later connection from the same port would leave it as it is.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY},
    cty::c_void,
    helpers::generated::bpf_loop,
};
use causeway_abi::{
    Address, DropReason,
    backend::{Backend, IN_USE, LOCAL, READY, TERMINATING, UNSETTLED},
    conntrack::TCP_SYN_SENT,
    direct::DirectFlow,
    event::Choice,
    node::DIRECT_RETURN,
    route::{MODE_VXLAN, Route},
    service::{NO_BACKEND, SCOPE_NODE, Service},
};
use causeway_ebpf::{
    direct::{Chosen, expired, next_state},
    flow::{Translation, forward_key, hash, service_key},
    packet::Packet as _,
    parse::{Headers, parse_embedded, protocol},
    select::{Eligibility, eligibility, slot},
};

use crate::{
    balance, conntrack,
    conntrack::now_ns,
    deliver::{self, From},
    fragment,
    maps::{BACKENDS, DIRECT_FLOWS, SERVICES, SLOTS},
    outcome::Outcome,
    refusal::refuse_to_network,
    skb::Skb,
};

/// `last_seen_ns` is written at most this often.
const TOUCH_NS: u64 = 1_000_000_000;

/// The backend of every packet of every flow with this hash, if it is on another node and the service's table alone decides.
#[inline(always)]
pub fn decided(service: &Service, hash: u32) -> Option<(u32, &'static Backend)> {
    if service.affinity_seconds != 0 || service.slot_count == 0 {
        return None;
    }
    let slot = SLOTS.get(slot(service, hash))?;
    if slot.previous != NO_BACKEND {
        return None;
    }
    let backend = BACKENDS.get(slot.backend)?;
    let takes_all = backend.flags & (IN_USE | READY | TERMINATING | LOCAL | UNSETTLED) == IN_USE | READY;
    (takes_all && backend.node_v4_be != 0).then_some((slot.backend, backend))
}

/// Sends a client's packet from the network on to its backend's node as it is. `None` when its backend is on this node, when
/// its flow is being translated already, and when nodes do not answer directly.
#[inline(always)]
pub fn send(
    skb: Skb,
    headers: &Headers,
    service: &Service,
    translation: &mut Translation,
    dry_run: bool,
) -> Option<Outcome> {
    let node = deliver::node()?;
    if node.flags & DIRECT_RETURN == 0 || node.tunnel_ifindex == 0 || headers.destination.to_v4().is_none() {
        return None;
    }
    // SAFETY: all pointers are valid. So below.
    let mut index = match unsafe { cw_direct(headers, service, dry_run.into()) } {
        TRANSLATED => {
            if headers.opens_connection() {
                strike_out(headers, dry_run);
            }
            return None;
        }
        index => index,
    };
    if index == NO_BACKEND as u64 {
        let chosen = balance::choose_for(headers, service, dry_run);
        if chosen == NO_BACKEND {
            return None;
        }
        index = u64::from(chosen) | WRITE_DOWN;
    }
    let backend = balance::backend(index as u32)?;
    if backend.node_v4_be == 0 || backend.address.to_v4().is_none() {
        return None;
    }
    if index & WRITE_DOWN != 0 && !dry_run {
        unsafe { cw_write_down(headers, index as u32, backend.generation) };
    }
    *translation = Translation {
        backend: index as u32,
        ..Translation::none_of(headers, service)
    };
    if deliver::exceeds_tunnel(skb, headers) {
        return Some(refuse_to_network(skb, headers, DropReason::TooLargeForTunnel));
    }
    fragment::remember(skb, headers, translation, dry_run);
    Some(to_node(skb, translation).beginning(headers.opens_connection()))
}

/// The flow is in the connection table: not of this kind.
const TRANSLATED: u64 = 1 << 33;
/// The flow is to be written down.
const WRITE_DOWN: u64 = 1 << 32;

/// The index of the backend that a packet's flow has, with [`WRITE_DOWN`] or without; [`NO_BACKEND`] when one is to be chosen.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_direct(headers: *const Headers, service: *const Service, dry_run: u32) -> u64 {
    if headers.is_null() || service.is_null() {
        return TRANSLATED;
    }
    // SAFETY: not null, and valid as `send` passes them.
    let (headers, service) = unsafe { (&*headers, &*service) };
    let key = forward_key(headers);
    let hash = hash(&key);
    if let Some((index, _)) = decided(service, hash) {
        if dry_run != 0 {
            balance::explain(service, hash, index, 0, Choice::Maglev);
        }
        return index.into();
    }
    if conntrack::is_known(&key) {
        return TRANSLATED;
    }
    if headers.opens_connection() {
        // Whoever had the same ports before it, a new connection goes to one that the service has now.
        return NO_BACKEND.into();
    }
    if let Some(flow) = DIRECT_FLOWS.get_ptr_mut(&key) {
        // SAFETY: the map returned a valid element; one that is reused meanwhile costs one packet.
        let flow = unsafe { &mut *flow };
        let now = now_ns();
        if balance::is_alive(flow.backend, flow.generation) && !expired(flow, headers.protocol, now) {
            if dry_run != 0 {
                balance::explain(service, hash, flow.backend, 0, Choice::Conntrack);
                return flow.backend.into();
            }
            let state = next_state(flow.tcp_state, headers.protocol, headers.flags);
            if state != flow.tcp_state || now > flow.last_seen_ns + TOUCH_NS {
                flow.tcp_state = state;
                flow.last_seen_ns = now;
            }
            return flow.backend.into();
        }
    }
    match unwritten(service, hash, headers.protocol) {
        NO_BACKEND => NO_BACKEND.into(),
        index => u64::from(index) | WRITE_DOWN,
    }
}

/// The backend of a flow that began before it had to be written down: whoever had its slot then. [`NO_BACKEND`] when that is not
/// known.
#[inline(always)]
fn unwritten(service: &Service, hash: u32, protocol: u8) -> u32 {
    if service.affinity_seconds != 0 || service.slot_count == 0 {
        return NO_BACKEND;
    }
    let Some(slot) = SLOTS.get(slot(service, hash)) else {
        return NO_BACKEND;
    };
    let keeps = |index: u32| {
        BACKENDS.get(index).is_some_and(|backend| {
            let takes = if protocol == protocol::TCP {
                backend.flags & IN_USE != 0
            } else {
                // Datagrams do not tell whether their flow is new.
                matches!(eligibility(backend.flags), Eligibility::Ready)
            };
            // The connection table has the flows of the others.
            takes && backend.node_v4_be != 0
        })
    };
    if slot.previous != NO_BACKEND && keeps(slot.previous) {
        slot.previous
    } else if keeps(slot.backend) {
        slot.backend
    } else {
        NO_BACKEND
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_write_down(headers: *const Headers, backend: u32, generation: u32) -> u32 {
    // SAFETY: checked for null, and valid as `send` passes it.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return 0;
    };
    let flow = DirectFlow {
        last_seen_ns: now_ns(),
        backend,
        generation,
        tcp_state: next_state(TCP_SYN_SENT, headers.protocol, headers.flags),
        reserved: [0; 7],
    };
    DIRECT_FLOWS
        .insert(&forward_key(headers), &flow, BPF_ANY.into())
        .is_ok()
        .into()
}

/// Forgets what was written down of an earlier flow from the same port, when another begins that is translated here: by its own
/// choice of a backend, or because the client's packets come by way of another node now. It must not come back when that one is over.
#[inline(always)]
pub fn strike_out(headers: &Headers, dry_run: bool) {
    if !dry_run {
        // SAFETY: the pointer is valid.
        unsafe { cw_strike_out(headers) };
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_strike_out(headers: *const Headers) -> u32 {
    // SAFETY: checked for null, and valid as `strike_out` passes it.
    match unsafe { headers.as_ref() } {
        Some(headers) => DIRECT_FLOWS.remove(forward_key(headers)).is_ok().into(),
        None => 0,
    }
}

/// Sends a packet whose translation only names its backend to that backend's node.
#[inline(always)]
pub fn to_node(skb: Skb, translation: &Translation) -> Outcome {
    // SAFETY: the context is valid.
    Outcome::unpack(unsafe { cw_to_node(skb.as_ptr(), translation.backend) })
}

/// Global function behind [`to_node`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_to_node(skb: *mut __sk_buff, backend: u32) -> u64 {
    let failed = Outcome::drop(DropReason::TunnelFailed).pack();
    let (Some(backend), Some(node)) = (balance::backend(backend), deliver::node()) else {
        return failed;
    };
    let Some(address) = backend.address.to_v4() else {
        return failed;
    };
    let chosen = Chosen {
        address,
        port_be: backend.port_be,
    };
    let route = Route {
        node: Address::from_v4(backend.node_v4_be.to_ne_bytes()),
        tunnel_id: node.tunnel_id,
        mode: MODE_VXLAN,
    };
    deliver::into_tunnel(Skb::new(skb), &route, &chosen.to_macs(), true).pack()
}

/// Sends an ICMP error about the answer to a client on to the backend that gave it.
#[inline(always)]
pub fn send_error(skb: Skb, headers: &Headers, translation: &mut Translation) -> Option<Outcome> {
    let node = deliver::node()?;
    if node.flags & DIRECT_RETURN == 0 || !headers.is_icmp_error() {
        return None;
    }
    // SAFETY: all pointers are valid.
    let index = unsafe { cw_direct_error(skb.as_ptr(), headers) };
    if index == NO_BACKEND {
        return None;
    }
    *translation = Translation {
        backend: index,
        ..Translation::none(headers)
    };
    Some(to_node(skb, translation))
}

/// The backend on another node whose answer an ICMP error is about, or [`NO_BACKEND`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_direct_error(skb: *mut __sk_buff, headers: *const Headers) -> u32 {
    // SAFETY: checked for null, and valid as `send_error` passes it.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return NO_BACKEND;
    };
    let Some(quoted) = parse_embedded(&Skb::new(skb), headers) else {
        return NO_BACKEND;
    };
    // What the client sent, as it went the other way than what is quoted.
    let sent = Headers {
        source: quoted.destination,
        destination: quoted.source,
        source_port_be: quoted.destination_port_be,
        destination_port_be: quoted.source_port_be,
        protocol: quoted.protocol,
        ..*headers
    };
    // SAFETY: the value is copied out at once.
    let Some(service) = (unsafe { SERVICES.get(service_key(&sent, SCOPE_NODE)).copied() }) else {
        return NO_BACKEND;
    };
    let key = forward_key(&sent);
    let hash = hash(&key);
    if let Some((index, _)) = decided(&service, hash) {
        return index;
    }
    // SAFETY: as above.
    match unsafe { DIRECT_FLOWS.get(&key) } {
        Some(flow) if balance::is_alive(flow.backend, flow.generation) && !expired(flow, sent.protocol, now_ns()) => {
            flow.backend
        }
        _ => unwritten(&service, hash, sent.protocol),
    }
}

/// What another node chose for a packet that came out of the tunnel.
#[inline(always)]
pub fn chosen(skb: Skb) -> Option<Chosen> {
    // SAFETY: the context is valid.
    let packed = unsafe { cw_chosen(skb.as_ptr()) };
    (packed != 0).then_some(Chosen {
        address: (packed as u32).to_ne_bytes(),
        port_be: (packed >> 32) as u16,
    })
}

/// Global function behind [`chosen`]: address, port, and a bit that says that there is one.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_chosen(skb: *mut __sk_buff) -> u64 {
    match Skb::new(skb).read_at::<0, [u8; 12]>().and_then(Chosen::from_macs) {
        Some(chosen) => 1 << 48 | u64::from(chosen.port_be) << 32 | u64::from(u32::from_ne_bytes(chosen.address)),
        None => 0,
    }
}

/// Hands a packet to the pod of this node that another node chose for it; or says why it cannot.
#[inline(always)]
pub fn receive(
    skb: Skb,
    headers: &Headers,
    service: &Service,
    chosen: Chosen,
    translation: &mut Translation,
    dry_run: bool,
) -> Result<Outcome, DropReason> {
    let address = u32::from_ne_bytes(chosen.address);
    // SAFETY: all pointers are valid.
    let backend = unsafe { cw_backend_at(headers, service, address, chosen.port_be.into()) };
    deliver::to_service(skb, headers, service, translation, From::Node(backend), dry_run)
}

/// Which of a service's backends this is.
struct Wanted {
    base: u32,
    address: Address,
    port_be: u16,
    found: u32,
}

/// The index of a service's backend, or [`NO_BACKEND`]. Other nodes have it under another.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_backend_at(
    headers: *const Headers,
    service: *const Service,
    address: u32,
    port_be: u32,
) -> u32 {
    if headers.is_null() || service.is_null() {
        return NO_BACKEND;
    }
    // SAFETY: not null, and valid as `receive` passes them.
    let (headers, service) = unsafe { (&*headers, &*service) };
    let mut wanted = Wanted {
        base: service.slot_base,
        address: Address::from_v4(address.to_ne_bytes()),
        port_be: port_be as u16,
        found: NO_BACKEND,
    };
    // The same table at every node: the slot is nearly always right.
    let likely = slot(service, hash(&forward_key(headers)));
    if service.slot_count != 0 && !wanted.is_at(likely) {
        // SAFETY: the call-back has the signature the kernel calls it with, and `wanted` outlives the call.
        unsafe { bpf_loop(service.slot_count, step as *mut c_void, (&raw mut wanted).cast(), 0) };
    }
    wanted.found
}

impl Wanted {
    #[inline(always)]
    fn is_at(&mut self, slot: u32) -> bool {
        let Some(slot) = SLOTS.get(slot) else { return false };
        self.is(slot.backend) || self.is(slot.previous)
    }

    #[inline(always)]
    fn is(&mut self, index: u32) -> bool {
        let Some(backend) = BACKENDS.get(index) else {
            return false;
        };
        // SAFETY: the reference is valid and aligned. User space flips bits at any time, so they are read once.
        let flags = unsafe { ptr::read_volatile(&raw const backend.flags) };
        let is = flags & IN_USE != 0 && backend.port_be == self.port_be && backend.address == self.address;
        if is {
            self.found = index;
        }
        is
    }
}

/// One step of the search; 1 ends the loop.
unsafe extern "C" fn step(number: u32, wanted: *mut Wanted) -> i64 {
    // SAFETY: `bpf_loop` passes on the pointer it was given.
    let wanted = unsafe { &mut *wanted };
    let slot = wanted.base + number;
    wanted.is_at(slot).into()
}
