//! Where a packet goes once its addresses are final.

use core::ptr;

use aya_ebpf::{bindings::__sk_buff, btf_maps::lpm_trie::Key};
use causeway_abi::{
    Address, DropReason,
    event::Verdict,
    node::NodeConfig,
    pod::Pod,
    route::{MODE_VXLAN, Route},
    service::Service,
};
use causeway_ebpf::{
    flow::{Translation, reply_key, service_key},
    hops,
    packet::Packet as _,
    parse::Headers,
};

use crate::{
    conntrack, direct,
    fragment::{self, Later},
    icmp::{self, Errand},
    maps::{NODE, PODS, ROUTES, SERVICES},
    outcome::Outcome,
    rewrite,
    skb::Skb,
};

/// Destination and source MAC address of frames in the tunnel. The receiving node writes its own; these only have to be
/// locally administered (IEEE 802) and the same everywhere.
pub const TUNNEL_MACS: [u8; 12] = [0x02, b'c', b'w', 0, 0, 2, 0x02, b'c', b'w', 0, 0, 1];
/// Mark of packets whose tunnel key is set already, between `cw_from_pod` and `cw_to_tunnel`.
pub const MARK_TUNNEL_KEY: u32 = 0x6377_0001;

/// Where a client's packet for a service comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// A pod of this node.
    Pod,
    /// The network.
    Network,
    /// Another node, which has chosen the backend for a client in the network: the one of this index, or one that is not there any
    /// more ([`NO_BACKEND`](causeway_abi::service::NO_BACKEND)).
    Node(u32),
}

/// A pod of this node.
#[inline(always)]
pub fn pod(address: &Address) -> Option<Pod> {
    // SAFETY: the value is copied out at once; an element that is replaced meanwhile costs one packet.
    unsafe { PODS.get(address).copied() }
}

/// The route to a pod of another node.
#[inline(always)]
pub fn route(address: &Address) -> Option<Route> {
    ROUTES.get(&Key::new(128, *address)).copied()
}

/// This node.
#[inline(always)]
pub fn node() -> Option<&'static NodeConfig> {
    NODE.get(0)
}

/// Hands a packet to a pod of this node.
#[inline(always)]
fn hand_over(skb: Skb, pod: &Pod, is_v4: bool) -> Outcome {
    let macs: [u8; 12] = zerocopy::transmute!([pod.pod_mac, pod.host_mac]);
    if !skb.forward(&macs, is_v4) {
        return Outcome::drop(DropReason::HopLimitExceeded);
    }
    skb.accept();
    Outcome::sent(skb.redirect_peer(pod.ifindex), Verdict::ToPod)
}

/// Hands a packet to the pod of this node that has an address; `None` when none has it.
#[inline(always)]
pub fn to_pod(skb: Skb, address: &Address) -> Option<Outcome> {
    // SAFETY: all pointers are valid.
    match unsafe { cw_to_pod(skb.as_ptr(), address) } {
        0 => None,
        packed => Some(Outcome::unpack(packed)),
    }
}

/// Global function behind [`to_pod`]; 0 for none.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_to_pod(skb: *mut __sk_buff, address: *const Address) -> u64 {
    if address.is_null() {
        return 0;
    }
    // SAFETY: not null, and valid as `to_pod` passes it. Copied, as in `cw_onwards`.
    let address = &unsafe { ptr::read_volatile(address) };
    match pod(address) {
        Some(pod) => hand_over(Skb::new(skb), &pod, address.to_v4().is_some()).pack(),
        None => 0,
    }
}

/// Sends a packet that comes from a pod on to wherever its destination is. What is neither a pod nor behind a tunnel is
/// left to the kernel: the node itself, and the world.
#[inline(always)]
pub fn onwards(skb: Skb, destination: &Address) -> Outcome {
    // SAFETY: all pointers are valid.
    Outcome::unpack(unsafe { cw_onwards(skb.as_ptr(), destination) })
}

/// Global function behind [`onwards`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_onwards(skb: *mut __sk_buff, destination: *const Address) -> u64 {
    if destination.is_null() {
        return Outcome::drop(DropReason::MalformedPacket).pack();
    }
    let skb = Skb::new(skb);
    // SAFETY: not null, and valid as `onwards` passes it. Copied, because kernels before 6.2 take no key from memory that a
    // function was handed; volatile, so that the copy is made.
    let destination = &unsafe { ptr::read_volatile(destination) };
    let is_v4 = destination.to_v4().is_some();
    if let Some(pod) = pod(destination) {
        return hand_over(skb, &pod, is_v4).pack();
    }
    match route(destination) {
        Some(route) if route.mode == MODE_VXLAN => into_tunnel(skb, &route, &TUNNEL_MACS, is_v4).pack(),
        _ => Outcome::TO_STACK.pack(),
    }
}

/// Sends a packet on that was translated back, so that its source is no address of its sender's: what is for the network
/// goes there past the node's own stack, which would take it for forged.
#[inline(always)]
pub fn back(skb: Skb, destination: &Address) -> Outcome {
    let outcome = onwards(skb, destination);
    if !matches!(outcome.verdict, Verdict::ToStack) {
        return outcome;
    }
    // SAFETY: all pointers are valid.
    Outcome::unpack(unsafe { cw_to_network(skb.as_ptr(), destination) })
}

/// Sends a packet out of the uplink, unless it is for this node.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_to_network(skb: *mut __sk_buff, destination: *const Address) -> u64 {
    // SAFETY: checked for null, and valid as `back` passes it.
    let (Some(destination), Some(node)) = (unsafe { destination.as_ref() }, node()) else {
        return Outcome::TO_STACK.pack();
    };
    if node.uplink_ifindex == 0 || node.is_own(destination) {
        return Outcome::TO_STACK.pack();
    }
    let skb = Skb::new(skb);
    if !skb.lower_hops(destination.to_v4().is_some()) {
        return Outcome::drop(DropReason::HopLimitExceeded).pack();
    }
    Outcome::sent(skb.redirect_neighbour(node.uplink_ifindex), Verdict::ToNetwork).pack()
}

/// Whether a packet has no hop left that this node would take: it is for somebody else, and this node is its next router. `scope` is
/// the side it comes from.
#[inline(always)]
pub fn is_at_its_end(skb: Skb, headers: &Headers, scope: u8) -> bool {
    // SAFETY: all pointers are valid.
    hops::left(&skb, headers) <= 1 && unsafe { cw_is_routed(headers, scope.into()) != 0 }
}

/// Whether a packet is sent on by these programs, and not delivered to the node or left to its routing table.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_is_routed(headers: *const Headers, scope: u32) -> u32 {
    // SAFETY: checked for null, and valid as `is_at_its_end` passes it.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return 0;
    };
    // SAFETY: only asked whether it is there. So below.
    if headers.has_ports() && unsafe { SERVICES.get(service_key(headers, scope as u8)) }.is_some() {
        return 1;
    }
    // SAFETY: valid. Copied, as in `cw_onwards`.
    let destination = &unsafe { ptr::read_volatile(&raw const headers.destination) };
    if pod(destination).is_some() || route(destination).is_some_and(|route| route.mode == MODE_VXLAN) {
        return 1;
    }
    conntrack::peek(&reply_key(headers)).is_some().into()
}

/// Whether a packet from the network cannot go to an address because the tunnel in between has no room for it.
#[inline(always)]
fn is_too_large(skb: Skb, headers: &Headers, destination: &Address) -> bool {
    // SAFETY: all pointers are valid.
    skb.length() > ALWAYS_FITS && unsafe { cw_is_too_large(skb.as_ptr(), headers, destination) != 0 }
}

/// Bytes of a frame that fits into any tunnel: the smallest MTU of IPv6 (RFC 8200, 5) and the Ethernet header.
const ALWAYS_FITS: u32 = 1_280 + 14;

/// Global function behind [`is_too_large`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_is_too_large(skb: *mut __sk_buff, headers: *const Headers, destination: *const Address) -> u32 {
    if headers.is_null() || destination.is_null() {
        return 0;
    }
    // SAFETY: not null, and valid as `is_too_large` passes them. Copied, as in `cw_onwards`.
    let (headers, destination) = unsafe { (&*headers, &ptr::read_volatile(destination)) };
    let skb = Skb::new(skb);
    let is_tunnelled = pod(destination).is_none() && route(destination).is_some_and(|route| route.mode == MODE_VXLAN);
    (is_tunnelled && exceeds_tunnel(skb, headers)).into()
}

/// Whether a packet has no room in the tunnel and may not be divided. What may be is divided by the kernel, outside of it.
#[inline(always)]
pub fn exceeds_tunnel(skb: Skb, headers: &Headers) -> bool {
    skb.length() > ALWAYS_FITS && hops::is_indivisible(&skb, headers) && tunnel_excess(skb).is_some()
}

/// What the tunnel has room for, if a packet is larger.
#[inline(always)]
pub fn tunnel_excess(skb: Skb) -> Option<u32> {
    skb.exceeds_mtu_of(node()?.tunnel_ifindex)
}

/// Sends an answer on to its client; `translation` is what it becomes.
#[inline(always)]
pub fn answer(skb: Skb, headers: &Headers, translation: &Translation, dry_run: bool) -> Outcome {
    if !rewrite::apply(skb, headers, translation) {
        return Outcome::drop(DropReason::RewriteFailed);
    }
    fragment::remember(skb, headers, translation, dry_run);
    back(skb, &translation.destination)
}

/// Sends a client's packet on to a backend of a service, or says why it cannot; then `translation` names the service alone.
#[inline(always)]
pub fn to_service(
    skb: Skb,
    headers: &Headers,
    service: &Service,
    translation: &mut Translation,
    from: From,
    dry_run: bool,
) -> Result<Outcome, DropReason> {
    match conntrack::forward(headers, service, translation, from, dry_run) {
        Ok(_) if from == From::Network && is_too_large(skb, headers, &translation.destination) => {
            *translation = Translation::none_of(headers, service);
            Err(DropReason::TooLargeForTunnel)
        }
        Ok(is_new) if rewrite::apply(skb, headers, translation) => {
            fragment::remember(skb, headers, translation, dry_run);
            // A source of this node's own is not for its stack to see.
            let sent = if translation.source == headers.source {
                onwards(skb, &translation.destination)
            } else {
                back(skb, &translation.destination)
            };
            Ok(sent.beginning(is_new))
        }
        Ok(_) => Ok(Outcome::drop(DropReason::RewriteFailed)),
        Err(reason) => {
            *translation = Translation::none_of(headers, service);
            Err(reason)
        }
    }
}

/// Sends a packet on that has no ports of its own but belongs to a flow that is translated: a later fragment, or an ICMP
/// error. `None` when it does not.
#[inline(always)]
pub fn related(skb: Skb, headers: &Headers, translation: &mut Translation, dry_run: bool) -> Option<Outcome> {
    let is_rewritten = match fragment::follow(skb, headers, translation, dry_run) {
        Later::Over(outcome) => return Some(outcome),
        Later::Translated if translation.destination == headers.destination && translation.source == headers.source => {
            return Some(direct::to_node(skb, translation));
        }
        Later::Translated => rewrite::apply(skb, headers, translation),
        Later::AsItIs => match icmp::translate(skb, headers, translation) {
            Errand::NotOurs => return direct::send_error(skb, headers, translation),
            Errand::Translated => true,
            Errand::Failed => false,
        },
    };
    Some(if is_rewritten {
        back(skb, &translation.destination)
    } else {
        Outcome::drop(DropReason::RewriteFailed)
    })
}

/// Puts a packet into the tunnel to another node, in a frame with these MAC addresses.
#[inline(always)]
pub fn into_tunnel(skb: Skb, route: &Route, macs: &[u8; 12], is_v4: bool) -> Outcome {
    let tunnel = match node() {
        Some(node) => node.tunnel_ifindex,
        None => 0,
    };
    if tunnel == 0 || skb.set_tunnel(route).is_err() {
        return Outcome::drop(DropReason::TunnelFailed);
    }
    if !skb.forward(macs, is_v4) {
        return Outcome::drop(DropReason::HopLimitExceeded);
    }
    skb.set_mark(MARK_TUNNEL_KEY);
    Outcome::sent(skb.redirect(tunnel), Verdict::ToNode)
}
