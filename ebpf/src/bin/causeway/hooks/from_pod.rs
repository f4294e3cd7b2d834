//! tcx ingress of the host side of a pod's veth pair: everything a pod sends.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use causeway_abi::{DropReason, service::Service};
use causeway_ebpf::{
    flow::{Translation, service_key},
    parse::Headers,
};

use crate::{
    conntrack::{self, Failure},
    count, deliver,
    maps::SERVICES,
    parse::{self, Frame},
    refusal::refuse,
    rewrite,
    skb::Skb,
};

/// Checks that the pod sends with its own address, balances what no socket hook saw, translates its answers back, and
/// sends the packet on.
#[classifier]
pub fn cw_from_pod(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx.skb.skb);
    let mut headers = Headers::NONE;
    match parse::read(skb, &mut headers) {
        Frame::Ip => {}
        // A priority tag (VLAN 0) does not keep the kernel from taking the packet, so a second tag behind it would get
        // past the source check.
        Frame::Other if skb.vlan_id() == Some(0) => return count::drop(skb, DropReason::MalformedPacket),
        Frame::Other => return TC_ACT_OK,
        Frame::Malformed => return count::drop(skb, DropReason::MalformedPacket),
    }
    if skb.vlan_id().is_some_and(|id| id != 0) || headers.is_link_control() {
        return TC_ACT_OK;
    }
    match deliver::pod(&headers.source) {
        Some(pod) if pod.ifindex == skb.ifindex() => {}
        _ => return count::drop(skb, DropReason::SourceAddressNotPods),
    }
    if !headers.has_ports() {
        return deliver::onwards(skb, &headers.destination);
    }
    // SAFETY: the value is copied out at once.
    if let Some(service) = unsafe { SERVICES.get(service_key(&headers)).copied() } {
        return to_service(skb, &headers, &service);
    }
    let mut translation = Translation::NONE;
    match conntrack::reply(&headers, &mut translation) {
        Some(service_id) => translated(skb, &headers, &translation, service_id),
        None => deliver::onwards(skb, &headers.destination),
    }
}

#[inline(always)]
fn to_service(skb: Skb, headers: &Headers, service: &Service) -> i32 {
    let mut translation = Translation::NONE;
    match conntrack::forward(headers, service, &mut translation) {
        Ok(()) => translated(skb, headers, &translation, service.service_id),
        Err(Failure::NoReadyBackend) => refuse(skb, headers, DropReason::NoReadyBackend, service.service_id),
        Err(Failure::BackendGone) => refuse(skb, headers, DropReason::BackendGone, service.service_id),
        Err(Failure::Full) => {
            count::refused(service.service_id);
            count::drop(skb, DropReason::ConntrackFull)
        }
    }
}

#[inline(always)]
fn translated(skb: Skb, headers: &Headers, translation: &Translation, service_id: u32) -> i32 {
    count::packet(service_id, headers.packet_length());
    if rewrite::apply(skb, headers, translation) {
        deliver::onwards(skb, &translation.destination)
    } else {
        count::drop(skb, DropReason::RewriteFailed)
    }
}
