//! tcx ingress of the host side of a pod's veth pair: everything a pod sends.

use aya_ebpf::{macros::classifier, programs::TcContext};
use causeway_abi::{DropReason, event::Hook, service::SCOPE_CLUSTER};
use causeway_ebpf::{
    flow::{Translation, service_key},
    parse::Headers,
};

use crate::{
    conntrack,
    deliver::{self, From},
    fragment,
    maps::SERVICES,
    outcome::{self, Outcome},
    parse::{self, Frame},
    refusal::refuse,
    skb::Skb,
};

/// Checks that the pod sends with its own address, balances what no socket hook saw, translates its answers back, and
/// sends the packet on.
#[classifier]
pub fn cw_from_pod(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx.skb.skb);
    let dry_run = outcome::is_dry_run(skb);
    let (mut headers, mut translation) = (Headers::NONE, Translation::NONE);
    let outcome = decide(skb, &mut headers, &mut translation, dry_run);
    outcome::finish(skb, (Hook::FromPod, dry_run), &headers, &translation, outcome)
}

#[inline(always)]
fn decide(skb: Skb, headers: &mut Headers, translation: &mut Translation, dry_run: bool) -> Outcome {
    match parse::read(skb, headers) {
        Frame::Ip => {}
        // A priority tag (VLAN 0) does not keep the kernel from taking the packet, so a second tag behind it would get
        // past the source check.
        Frame::Other if skb.vlan_id() == Some(0) => return Outcome::drop(DropReason::MalformedPacket),
        Frame::Other => return Outcome::TO_STACK,
        Frame::Malformed => return Outcome::drop(DropReason::MalformedPacket),
    }
    if headers.is_link_control() {
        return Outcome::TO_STACK;
    }
    match deliver::pod(&headers.source) {
        Some(pod) if pod.ifindex == skb.ifindex() => {}
        _ => return Outcome::drop(DropReason::SourceAddressNotPods),
    }
    if deliver::is_at_its_end(skb, headers, SCOPE_CLUSTER) {
        return refuse(skb, headers, DropReason::HopLimitExceeded);
    }
    if !headers.has_ports() {
        if let Some(outcome) = deliver::related(skb, headers, translation, dry_run) {
            return outcome;
        }
        fragment::remember_as_it_is(skb, headers, dry_run);
        return deliver::onwards(skb, &headers.destination);
    }
    // SAFETY: the value is copied out at once.
    if let Some(service) = unsafe { SERVICES.get(service_key(headers, SCOPE_CLUSTER)).copied() } {
        return match deliver::to_service(skb, headers, &service, translation, From::Pod, dry_run) {
            Ok(outcome) => outcome,
            Err(reason) => refuse(skb, headers, reason),
        };
    }
    if conntrack::reply(headers, translation, dry_run) {
        deliver::answer(skb, headers, translation, dry_run)
    } else {
        fragment::remember_as_it_is(skb, headers, dry_run);
        deliver::onwards(skb, &headers.destination)
    }
}
