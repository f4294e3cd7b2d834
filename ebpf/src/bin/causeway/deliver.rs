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
use causeway_ebpf::{flow::Translation, parse::Headers};

use crate::{
    conntrack, direct, fragment,
    icmp::{self, Errand},
    maps::{NODE, PODS, ROUTES},
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
pub fn to_pod(skb: Skb, pod: &Pod) -> Outcome {
    let macs: [u8; 12] = zerocopy::transmute!([pod.pod_mac, pod.host_mac]);
    if skb.write(0, &macs, 0).is_err() {
        return Outcome::drop(DropReason::RewriteFailed);
    }
    skb.accept();
    Outcome::sent(skb.redirect_peer(pod.ifindex), Verdict::ToPod)
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
    if let Some(pod) = pod(destination) {
        return to_pod(skb, &pod).pack();
    }
    match route(destination) {
        Some(route) if route.mode == MODE_VXLAN => into_tunnel(skb, &route, &TUNNEL_MACS).pack(),
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
    let Some(node) = node() else { return outcome };
    if node.uplink_ifindex == 0 || node.is_own(destination) {
        return outcome;
    }
    Outcome::sent(skb.redirect_neighbour(node.uplink_ifindex), Verdict::ToNetwork)
}

/// Sends an answer on to its client; `translation` is what it becomes.
#[inline(always)]
pub fn answer(skb: Skb, headers: &Headers, translation: &Translation, dry_run: bool) -> Outcome {
    if !rewrite::apply(skb, headers, translation) {
        return Outcome::drop(DropReason::RewriteFailed);
    }
    fragment::remember(headers, translation, dry_run);
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
        Ok(is_new) if rewrite::apply(skb, headers, translation) => {
            fragment::remember(headers, translation, dry_run);
            Ok(onwards(skb, &translation.destination).beginning(is_new))
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
pub fn related(skb: Skb, headers: &Headers, translation: &mut Translation) -> Option<Outcome> {
    let is_rewritten = if fragment::follow(headers, translation) {
        if translation.destination == headers.destination {
            return Some(direct::to_node(skb, translation));
        }
        rewrite::apply(skb, headers, translation)
    } else {
        match icmp::translate(skb, headers, translation) {
            Errand::NotOurs => return direct::send_error(skb, headers, translation),
            Errand::Translated => true,
            Errand::Failed => false,
        }
    };
    Some(if is_rewritten {
        back(skb, &translation.destination)
    } else {
        Outcome::drop(DropReason::RewriteFailed)
    })
}

/// Puts a packet into the tunnel to another node, in a frame with these MAC addresses.
#[inline(always)]
pub fn into_tunnel(skb: Skb, route: &Route, macs: &[u8; 12]) -> Outcome {
    let tunnel = match node() {
        Some(node) => node.tunnel_ifindex,
        None => 0,
    };
    if tunnel == 0 || skb.set_tunnel(route).is_err() {
        return Outcome::drop(DropReason::TunnelFailed);
    }
    if skb.write(0, macs, 0).is_err() {
        return Outcome::drop(DropReason::RewriteFailed);
    }
    skb.set_mark(MARK_TUNNEL_KEY);
    Outcome::sent(skb.redirect(tunnel), Verdict::ToNode)
}
