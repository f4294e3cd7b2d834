//! IPv6 at XDP: flows that are translated, both ways, while they are established. What opens, closes or is unusual passes, as at
//! `xdp`; nodes of backends never answer clients directly. It is apart, so that IPv4 is not slower for it, and reads and writes packets
//! where they lie, as there is little stack left behind `cw_xdp`.

use aya_ebpf::bindings::{
    xdp_action::{XDP_PASS, XDP_TX},
    xdp_md,
};
use causeway_abi::{
    Address,
    conntrack::{DIRECTION_FORWARD, DIRECTION_REPLY, Flow, FlowKey},
    node::NATIVE_ROUTING,
    service::{SCOPE_NODE, SERVICE_SOURCE_RANGES, ServiceKey},
};
use causeway_ebpf::{
    parse::{L3, protocol, tcp_flags},
    plain::TUNNEL_OVERHEAD,
    plain6::Head6,
};

use super::xdp::{failed, into_tunnel};
use crate::{
    balance, conntrack, count, deliver,
    maps::SERVICES,
    next_hop::{next_hop, next_hop6},
    trace,
    xdp_frame::XdpFrame,
};

/// What in a TCP packet changes the state of its connection.
const CHANGES: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;

/// The action for an IPv6 frame, or for one `inside` a frame of this node's tunnel.
#[inline(always)]
pub fn sent(frame: XdpFrame, inside: bool) -> u32 {
    // SAFETY: the context is valid.
    unsafe { cw_xdp6(frame.as_ptr(), inside.into()) }
}

/// Global function behind [`sent`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_xdp6(ctx: *mut xdp_md, inside: u32) -> u32 {
    let frame = XdpFrame::new(ctx);
    let offset = if inside == 0 { 0 } else { TUNNEL_OVERHEAD };
    decide(frame, offset).unwrap_or(XDP_PASS)
}

/// Bytes of a frame. Apart, since LLVM would subtract pointers in a way that the verifier refuses.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_xdp_bytes(ctx: *mut xdp_md) -> u32 {
    XdpFrame::new(ctx).length() as u32
}

#[inline(always)]
fn decide(frame: XdpFrame, offset: usize) -> Option<u32> {
    let node = deliver::node()?;
    // SAFETY: the bytes lie before the end, which the verifier checks too, and frames begin at even addresses.
    let head = unsafe { &*frame.at::<Head6>(offset)? };
    // SAFETY: the context is valid.
    let bytes = unsafe { cw_xdp_bytes(frame.as_ptr()) } as usize;
    if bytes < offset || !head.is_plain(bytes - offset) {
        return None;
    }
    let flags = frame.flags6(offset, head)?;
    if head.next_header == protocol::TCP && flags & CHANGES != 0 {
        return None;
    }
    let length = u32::from(head.payload_length()) + Head6::IPV6_HEADER;
    let mut key = FlowKey {
        source: head.source_address(),
        destination: head.destination_address(),
        source_port_be: head.source_port_be,
        destination_port_be: head.destination_port_be,
        protocol: head.next_header,
        direction: DIRECTION_FORWARD,
        reserved: 0,
    };
    let is_for_router = key.destination == node.router_address6;
    if is_for_router && (offset != 0 || node.flags & NATIVE_ROUTING != 0) {
        key.direction = DIRECTION_REPLY;
    } else if offset != 0 || !is_let_in(&key) {
        return None;
    }
    if trace::is_asked_for() {
        return None;
    }
    let flow = conntrack::established(&key)?;
    let action = if key.direction == DIRECTION_REPLY {
        let hop = next_hop6(frame, &flow.client)?;
        if length > hop.mtu {
            return None;
        }
        if offset == 0 || frame.decapsulate() {
            translate(frame, flow, true, hop.macs)
        } else {
            failed(frame)
        }
    } else {
        let to = balance::backend(flow.backend)?.node_v4_be;
        // The packets of flows to this node's own pods keep their source.
        if to == 0 || flow.translated_client != node.router_address6 {
            return None;
        }
        if node.flags & NATIVE_ROUTING != 0 || node.tunnel_ifindex == 0 {
            let hop = next_hop6(frame, &flow.backend_address)?;
            if length > hop.mtu {
                return None;
            }
            translate(frame, flow, false, hop.macs)
        } else {
            let hop = next_hop(frame, to)?;
            if length + TUNNEL_OVERHEAD as u32 > hop.mtu {
                return None;
            }
            match translate(frame, flow, false, hop.macs) {
                XDP_TX => {
                    let hash = u32::from(flow.translated_client_port_be);
                    into_tunnel(frame, length + L3, hop, hash, deliver::TUNNEL_MACS)
                }
                action => action,
            }
        }
    };
    if action == XDP_TX {
        count::packet(flow.service_id, length, false);
    }
    Some(action)
}

/// Whether a packet is for a service that lets everybody in.
#[inline(always)]
fn is_let_in(flow: &FlowKey) -> bool {
    // SAFETY: the pointer is valid.
    unsafe { cw_xdp_lets_in(flow) != 0 }
}

/// Global function behind [`is_let_in`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_xdp_lets_in(flow: *const FlowKey) -> u32 {
    // SAFETY: checked for null, and valid as `is_let_in` passes it.
    let Some(flow) = (unsafe { flow.as_ref() }) else {
        return 0;
    };
    let key = ServiceKey {
        address: flow.destination,
        port_be: flow.destination_port_be,
        protocol: flow.protocol,
        scope: SCOPE_NODE,
    };
    // SAFETY: an element that is replaced meanwhile costs one packet.
    let service = unsafe { SERVICES.get(&key) };
    service
        .is_some_and(|service| service.flags & SERVICE_SOURCE_RANGES == 0)
        .into()
}

/// Translates a frame by its flow and addresses it to a neighbour. In steps, which need less stack each.
#[inline(always)]
fn translate(frame: XdpFrame, flow: &Flow, is_answer: bool, macs: [u16; 6]) -> u32 {
    let (from, to, from_port_be, to_port_be) = if is_answer {
        (&flow.vip, &flow.client, flow.vip_port_be, flow.client_port_be)
    } else {
        let ports = (flow.translated_client_port_be, flow.backend_port_be);
        (&flow.translated_client, &flow.backend_address, ports.0, ports.1)
    };
    let [first, second, third]: [u32; 3] = zerocopy::transmute!(macs);
    let macs = u64::from(first) | u64::from(second) << 32;
    let ports = u32::from(from_port_be) | u32::from(to_port_be) << 16;
    // SAFETY: all pointers are valid.
    unsafe {
        let sum = cw_xdp_address6(frame.as_ptr(), from, 0) + cw_xdp_address6(frame.as_ptr(), to, 1);
        cw_xdp_ports6(frame.as_ptr(), sum, ports, macs, third)
    }
}

/// Gives a packet another source, or destination; what the checksum's sum grows by.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_xdp_address6(ctx: *mut xdp_md, address: *const Address, is_destination: u32) -> u32 {
    // SAFETY: checked for null, and valid as `translate` passes it; the bytes lie before the end, as in `decide`.
    let (Some(address), Some(head)) = (unsafe { address.as_ref() }, XdpFrame::new(ctx).at::<Head6>(0)) else {
        return 0;
    };
    // SAFETY: as above.
    unsafe { (*head).replace(address, is_destination != 0) }
}

/// Gives a packet other ports, a hop less, its checksum, which grows by a sum and by what changes here, and its frame MAC addresses, of
/// which `macs` are the first eight bytes.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_xdp_ports6(ctx: *mut xdp_md, sum: u32, ports: u32, macs: u64, more_macs: u32) -> u32 {
    let frame = XdpFrame::new(ctx);
    let macs = [macs as u32, (macs >> 32) as u32, more_macs];
    let ports_be = [ports as u16, (ports >> 16) as u16];
    if frame.finish6(sum, ports_be, zerocopy::transmute!(macs)) {
        XDP_TX
    } else {
        failed(frame)
    }
}
