//! tcx ingress of the host side of a pod's veth pair: everything a pod sends.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use causeway_abi::{DropReason, service::Service};
use causeway_ebpf::{
    flow::service_key,
    parse::{Headers, Parsed, parse},
};

use crate::{
    conntrack::{self, Failure},
    count, deliver,
    maps::SERVICES,
    refusal::refuse,
    rewrite,
    skb::Skb,
};

/// Checks that the pod sends with its own address, balances what no socket hook saw, translates its answers back, and
/// sends the packet on.
#[classifier]
pub fn cw_from_pod(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx.skb.skb);
    let headers = match parse(&skb) {
        Parsed::Ip(headers) => headers,
        // A priority tag (VLAN 0) does not keep the kernel from taking the packet, so a second tag behind it would get
        // past the source check.
        Parsed::Other => return if skb.vlan_id() == Some(0) { malformed(&skb) } else { TC_ACT_OK },
        Parsed::Malformed => return malformed(&skb),
    };
    if skb.vlan_id().is_some_and(|id| id != 0) || headers.is_link_control() {
        return TC_ACT_OK;
    }
    match deliver::pod(&headers.source) {
        Some(pod) if pod.ifindex == skb.ifindex() => {}
        _ => return count::drop(&skb, DropReason::SourceAddressNotPods),
    }
    if !headers.has_ports() {
        return deliver::onwards(&skb, &headers.destination);
    }
    // SAFETY: the value is copied out at once.
    if let Some(service) = unsafe { SERVICES.get(service_key(&headers)).copied() } {
        return to_service(&skb, &headers, &service);
    }
    match conntrack::reply(&headers) {
        Some((translation, service_id)) => {
            count::packet(service_id, packet_length(&headers));
            if rewrite::apply(&skb, &headers, &translation).is_err() {
                return count::drop(&skb, DropReason::RewriteFailed);
            }
            deliver::onwards(&skb, &translation.destination.address)
        }
        None => deliver::onwards(&skb, &headers.destination),
    }
}

#[inline(always)]
fn to_service(skb: &Skb, headers: &Headers, service: &Service) -> i32 {
    match conntrack::forward(headers, service) {
        Ok(translation) => {
            count::packet(service.service_id, packet_length(headers));
            if rewrite::apply(skb, headers, &translation).is_err() {
                return count::drop(skb, DropReason::RewriteFailed);
            }
            deliver::onwards(skb, &translation.destination.address)
        }
        Err(Failure::NoReadyBackend) => refuse(skb, headers, DropReason::NoReadyBackend, service.service_id),
        Err(Failure::BackendGone) => refuse(skb, headers, DropReason::BackendGone, service.service_id),
        Err(Failure::Full) => {
            count::refused(service.service_id);
            count::drop(skb, DropReason::ConntrackFull)
        }
    }
}

#[inline(always)]
fn malformed(skb: &Skb) -> i32 {
    count::drop(skb, DropReason::MalformedPacket)
}

/// Bytes of the IP packet.
#[inline(always)]
pub const fn packet_length(headers: &Headers) -> u32 {
    headers.end - causeway_ebpf::parse::L3
}
