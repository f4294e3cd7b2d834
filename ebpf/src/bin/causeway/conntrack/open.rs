//! Flows that begin: which address and port their backend is shown.

use core::ptr;

use causeway_abi::{
    Address,
    conntrack::{Flow, TCP_SYN_SENT},
    node::MASQUERADE,
    service::NO_BACKEND,
};
use causeway_ebpf::{
    flow::{
        NODE_PORT_ATTEMPTS, PORT_ATTEMPTS, PORT_ATTEMPTS_STRICT, Translation, forward_key_of, hairpin_source, hash,
        node_port_be, to_backend, translated_port_be,
    },
    parse::Headers,
};

use super::{DONE, FULL, TAKEN, draft, halves::cw_enter, now_ns};
use crate::{balance, deliver};

/// Drafts a flow of the service and to the backend that `translation` names; which ports its client may show.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) unsafe extern "C" fn cw_open(
    headers: *const Headers,
    translation: *const Translation,
    from_network: u32,
) -> u32 {
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
pub(super) unsafe extern "C" fn cw_masquerade(headers: *const Headers) -> u32 {
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

/// Begins the drafted flow, with the first of those ports that is free; `translation` gets what its packets become.
#[inline(always)]
pub(super) fn begin(protocol: u8, ports: u32, translation: &mut Translation, dry_run: bool) -> bool {
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
