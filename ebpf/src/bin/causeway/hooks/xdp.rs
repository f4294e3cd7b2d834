//! XDP on the uplink: packets from the network for services whose backend is on another node, and their answers.
//!
//! What is taken here is sent out of the uplink again before the kernel makes a socket buffer of it. Everything unusual passes, and
//! `cw_from_uplink` or `cw_from_tunnel` do the same with it, more slowly: packets with options, fragments, new flows that
//! are written down, backends of this node, services with session affinity or source ranges, slots that are changing hands,
//! and all packets for services while somebody watches.

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX},
        xdp_md,
    },
    macros::xdp,
    programs::XdpContext,
};
use causeway_abi::{
    DropReason,
    node::{DIRECT_RETURN, NATIVE_ROUTING, NodeConfig},
    service::{SCOPE_NODE, SERVICE_SOURCE_RANGES, Service, ServiceKey},
};
use causeway_ebpf::{
    direct::Chosen,
    flow::{Translation, forward_key, hash},
    parse::{Headers, protocol},
    plain::{Ends, Head, Outer, TUNNEL_OVERHEAD},
    plain6::IPV6,
};

use super::xdp6;
use crate::{
    balance, conntrack, count, deliver, direct,
    maps::SERVICES,
    next_hop::{NextHop, next_hop},
    trace,
    xdp_frame::XdpFrame,
};

/// Forwards packets for services to other nodes, and answers from there to clients.
#[xdp]
pub fn cw_xdp(ctx: XdpContext) -> u32 {
    sent(XdpFrame::new(ctx.ctx)).unwrap_or(XDP_PASS)
}

/// The action for a frame that is taken here; `None` for one that passes.
#[inline(always)]
fn sent(frame: XdpFrame) -> Option<u32> {
    let mut head = frame.read::<Head>(0)?;
    if !head.is_plain(frame.length()) {
        return (head.ethertype == IPV6).then(|| xdp6::sent(frame, false));
    }
    let node = deliver::node()?;
    // One place on the stack for both ways.
    let mut offset = 0;
    let mut service = None;
    if head.protocol == protocol::UDP && head.destination_port_be == node.tunnel_port_be {
        head = inside(frame, node)?;
        if head.ethertype == IPV6 {
            return Some(xdp6::sent(frame, true));
        }
        if !head.is_plain(frame.length() - TUNNEL_OVERHEAD) || head.destination_address() != node.router_address {
            return None;
        }
        offset = TUNNEL_OVERHEAD;
    } else {
        let key = ServiceKey {
            address: head.destination_address(),
            port_be: head.destination_port_be,
            protocol: head.protocol,
            scope: SCOPE_NODE,
        };
        // SAFETY: an element that is replaced meanwhile costs one packet.
        service = unsafe { SERVICES.get(&key) };
        let is_for_xdp = match service {
            Some(service) => service.flags & SERVICE_SOURCE_RANGES == 0,
            // An answer, where it does not come through the tunnel.
            None => node.flags & NATIVE_ROUTING != 0 && key.address == node.router_address,
        };
        if !is_for_xdp {
            return None;
        }
    }
    if trace::is_asked_for() {
        return None;
    }
    let headers = head.headers(frame.flags(offset, &head)?);
    let mut translation = Translation::NONE;
    let action = match service {
        None => answer(frame, &headers, &mut translation, offset),
        Some(service) if node.flags & DIRECT_RETURN != 0 => {
            translation.service_id = service.service_id;
            directly(frame, &headers, node, service)
        }
        Some(_) => translated(frame, &headers, node, &mut translation),
    }?;
    if action == XDP_TX {
        // Only directly are flows begun here.
        let is_new = service.is_some() && node.flags & DIRECT_RETURN != 0 && headers.opens_connection();
        count::packet(translation.service_id, headers.packet_length(), is_new);
    }
    Some(action)
}

/// What is inside a frame that is out of this node's tunnel.
#[inline(always)]
fn inside(frame: XdpFrame, node: &NodeConfig) -> Option<Head> {
    let (outer, head) = (frame.read::<Outer>(0)?, frame.read::<Head>(TUNNEL_OVERHEAD)?);
    let is_ours = outer.is_of(node.node_address.words()[3], node.tunnel_port_be, node.tunnel_id);
    is_ours.then_some(head)
}

/// Sends a client's packet as it is to the node of the backend that the service's table alone decides on.
#[inline(always)]
fn directly(frame: XdpFrame, headers: &Headers, node: &NodeConfig, service: &Service) -> Option<u32> {
    let hash = hash(&forward_key(headers));
    let (_, backend) = direct::decided(service, hash)?;
    if node.tunnel_ifindex == 0 {
        return None;
    }
    let hop = next_hop(frame, backend.node_v4_be)?;
    if !fits(headers, hop) {
        return None;
    }
    let chosen = Chosen {
        address: backend.address.to_v4()?,
        port_be: backend.port_be,
    };
    if !frame.lower_hops() {
        return Some(failed(frame));
    }
    Some(into_tunnel(frame, headers.end, hop, hash, chosen.to_macs()))
}

/// Sends a client's packet of a known flow to its backend's node, with this node as its source.
#[inline(always)]
fn translated(frame: XdpFrame, headers: &Headers, node: &NodeConfig, translation: &mut Translation) -> Option<u32> {
    // One that opens a connection may end the flow that it finds, and begin another where it is looked at again.
    if headers.opens_connection() || !conntrack::continued(headers, translation) {
        return None;
    }
    let to = balance::backend(translation.backend)?.node_v4_be;
    // The packets of flows to this node's own pods keep their source.
    if to == 0 || translation.source != node.router_address {
        return None;
    }
    if node.flags & NATIVE_ROUTING != 0 || node.tunnel_ifindex == 0 {
        let hop = next_hop(frame, translation.destination.words()[3])?;
        return (headers.packet_length() <= hop.mtu).then(|| translate(frame, translation, hop));
    }
    let hop = next_hop(frame, to)?;
    if !fits(headers, hop) {
        return None;
    }
    let hash = u32::from(translation.source_port_be);
    let action = translate(frame, translation, hop);
    Some(if action == XDP_TX {
        into_tunnel(frame, headers.end, hop, hash, deliver::TUNNEL_MACS)
    } else {
        action
    })
}

/// Sends an answer on to its client; `offset` are the bytes of the tunnel's headers that it came with.
#[inline(always)]
fn answer(frame: XdpFrame, headers: &Headers, translation: &mut Translation, offset: usize) -> Option<u32> {
    if !conntrack::reply(headers, translation, false) {
        return None;
    }
    let hop = next_hop(frame, translation.destination.words()[3])?;
    if headers.packet_length() > hop.mtu {
        return None;
    }
    Some(if offset == 0 || frame.decapsulate() {
        translate(frame, translation, hop)
    } else {
        failed(frame)
    })
}

/// Whether a packet can go through the tunnel in one piece.
#[inline(always)]
fn fits(headers: &Headers, hop: &NextHop) -> bool {
    headers.packet_length() + TUNNEL_OVERHEAD as u32 <= hop.mtu
}

/// Translates a frame and addresses it to a neighbour.
#[inline(always)]
fn translate(frame: XdpFrame, translation: &Translation, hop: &NextHop) -> u32 {
    // SAFETY: all pointers are valid.
    unsafe { cw_xdp_rewrite(frame.as_ptr(), translation, hop) }
}

/// Global function behind [`translate`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_xdp_rewrite(ctx: *mut xdp_md, translation: *const Translation, hop: *const NextHop) -> u32 {
    let frame = XdpFrame::new(ctx);
    if translation.is_null() || hop.is_null() {
        return failed(frame);
    }
    // SAFETY: not null, and valid as `translate` passes them.
    let (translation, hop) = unsafe { (&*translation, &*hop) };
    match frame.read::<Head>(0) {
        Some(head) if frame.translate(&head, translation, hop.macs) => XDP_TX,
        _ => failed(frame),
    }
}

/// Puts a frame into the tunnel to a node that is a neighbour.
#[inline(always)]
pub fn into_tunnel(frame: XdpFrame, length: u32, hop: &NextHop, hash: u32, inner_macs: [u8; 12]) -> u32 {
    let [first, second, third]: [u32; 3] = zerocopy::transmute!(inner_macs);
    let macs = u64::from(first) | u64::from(second) << 32;
    let flow = u64::from(hash) | u64::from(length) << 32;
    // SAFETY: all pointers are valid.
    unsafe { cw_xdp_tunnel(frame.as_ptr(), hop, flow, macs, third) }
}

/// Global function behind [`into_tunnel`]; `flow` is the hash and the length of the inner frame, `macs` are the first eight bytes of its
/// addresses.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_xdp_tunnel(ctx: *mut xdp_md, hop: *const NextHop, flow: u64, macs: u64, more_macs: u32) -> u32 {
    let frame = XdpFrame::new(ctx);
    let Some(node) = deliver::node() else {
        return failed(frame);
    };
    if hop.is_null() {
        return failed(frame);
    }
    // SAFETY: not null, and valid as `into_tunnel` passes it.
    let hop = unsafe { &*hop };
    let ends = Ends {
        from: node.node_address.words()[3],
        to: hop.address,
        port_be: node.tunnel_port_be,
        tunnel_id: node.tunnel_id,
    };
    let outer = Outer::new(&ends, hop.macs, flow as u32, (flow >> 32) as u16);
    let macs = [macs as u32, (macs >> 32) as u32, more_macs];
    if frame.encapsulate(&outer, zerocopy::transmute!(macs)) {
        XDP_TX
    } else {
        failed(frame)
    }
}

/// Drops a frame that could not be changed.
#[inline(always)]
pub fn failed(frame: XdpFrame) -> u32 {
    // SAFETY: the context is valid.
    unsafe { cw_xdp_failed(frame.as_ptr()) }
}

/// Global function behind [`failed`]: where it is inlined behind a change of the frame's length, LLVM subtracts pointers in a way that the
/// verifier does not see through.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_xdp_failed(ctx: *mut xdp_md) -> u32 {
    let frame = XdpFrame::new(ctx);
    count::dropped(DropReason::RewriteFailed as u32, frame.length() as u64);
    XDP_ABORTED
}
