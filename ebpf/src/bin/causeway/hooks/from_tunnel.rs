//! tcx ingress of the VXLAN device: everything other nodes send to this one's pods and to itself.

use aya_ebpf::{macros::classifier, programs::TcContext};
use causeway_abi::{DropReason, event::Hook, service::SCOPE_NODE};
use causeway_ebpf::{
    direct::Chosen,
    flow::{Translation, service_key},
    parse::Headers,
};

use crate::{
    conntrack, deliver, direct, fragment,
    maps::SERVICES,
    outcome::{self, Outcome},
    parse::{self, Frame},
    refusal::refuse_from_tunnel,
    skb::Skb,
};

/// Translates answers of remote backends back and delivers to pods; packets for the node itself go to its stack.
#[classifier]
pub fn cw_from_tunnel(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx.skb.skb);
    let dry_run = outcome::is_dry_run(skb);
    let (mut headers, mut translation) = (Headers::NONE, Translation::NONE);
    let outcome = decide(skb, &mut headers, &mut translation, dry_run);
    outcome::finish(skb, (Hook::FromTunnel, dry_run), &headers, &translation, outcome)
}

#[inline(always)]
fn decide(skb: Skb, headers: &mut Headers, translation: &mut Translation, dry_run: bool) -> Outcome {
    match parse::read(skb, headers) {
        Frame::Ip => {}
        Frame::Other => return Outcome::TO_STACK,
        Frame::Malformed => return Outcome::drop(DropReason::MalformedPacket),
    }
    if deliver::is_at_its_end(skb, headers, SCOPE_NODE) {
        return refuse_from_tunnel(skb, headers, DropReason::HopLimitExceeded);
    }
    if let Some(chosen) = direct::chosen(skb)
        && headers.has_ports()
    {
        return chosen_elsewhere(skb, headers, chosen, translation, dry_run);
    }
    if headers.has_ports() && conntrack::reply(headers, translation, dry_run) {
        return deliver::answer(skb, headers, translation, dry_run);
    }
    if !headers.has_ports()
        && let Some(outcome) = deliver::related(skb, headers, translation, dry_run)
    {
        return outcome;
    }
    fragment::remember_as_it_is(skb, headers, dry_run);
    if let Some(outcome) = deliver::to_pod(skb, &headers.destination) {
        return outcome;
    }
    if deliver::node().is_some_and(|node| node.is_own(&headers.destination)) {
        skb.accept();
        return Outcome::TO_STACK;
    }
    Outcome::drop(DropReason::NoSuchPod)
}

/// Hands a client's packet to the pod that another node chose for it.
#[inline(always)]
fn chosen_elsewhere(
    skb: Skb,
    headers: &Headers,
    chosen: Chosen,
    translation: &mut Translation,
    dry_run: bool,
) -> Outcome {
    // SAFETY: the value is copied out at once.
    let Some(service) = (unsafe { SERVICES.get(service_key(headers, SCOPE_NODE)).copied() }) else {
        return Outcome::drop(DropReason::NoSuchPod);
    };
    match direct::receive(skb, headers, &service, chosen, translation, dry_run) {
        Ok(outcome) => outcome,
        Err(reason) => refuse_from_tunnel(skb, headers, reason),
    }
}
