//! tcx egress of the host side of a pod's veth pair: what the node's own network stack sends to the pod. What these programs send
//! there themselves does not come by.

use aya_ebpf::{macros::classifier, programs::TcContext};
use causeway_abi::{
    DropReason,
    event::{Hook, Verdict},
};
use causeway_ebpf::{flow::Translation, parse::Headers};

use crate::{
    conntrack, fragment,
    icmp::{self, Errand},
    outcome::{self, Outcome},
    parse::{self, Frame},
    rewrite,
    skb::Skb,
};

/// Gives answers of backends in the node's own network, and the stack's ICMP errors about what such backends were sent, the address and
/// port of the service that the pod asked.
#[classifier]
pub fn cw_from_host(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx.skb.skb);
    let dry_run = outcome::is_dry_run(skb);
    let (mut headers, mut translation) = (Headers::NONE, Translation::NONE);
    let outcome = decide(skb, &mut headers, &mut translation, dry_run);
    outcome::finish(skb, (Hook::FromHost, dry_run), &headers, &translation, outcome)
}

#[inline(always)]
fn decide(skb: Skb, headers: &mut Headers, translation: &mut Translation, dry_run: bool) -> Outcome {
    match parse::read(skb, headers) {
        Frame::Ip => answer(skb, headers, translation, dry_run),
        Frame::Other | Frame::Malformed => Outcome::TO_STACK,
    }
}

/// Translates an answer of the node's own stack back, if it is one: all of its fragments, or an ICMP error in its place. It goes on the
/// way that the stack has chosen.
#[inline(always)]
pub fn answer(skb: Skb, headers: &Headers, translation: &mut Translation, dry_run: bool) -> Outcome {
    let is_answer = if headers.has_ports() {
        conntrack::reply(headers, translation, dry_run)
    } else {
        match icmp::translate_own(skb, headers, translation) {
            Errand::Translated => return Outcome::sent(Outcome::TO_STACK.action, Verdict::ToStack),
            Errand::Failed => return Outcome::drop(DropReason::RewriteFailed),
            Errand::NotOurs => fragment::follow_own(headers, translation),
        }
    };
    // The answer to a client that hides behind this node comes from elsewhere, and by another way.
    if !is_answer || translation.destination != headers.destination {
        *translation = Translation::none(headers);
        fragment::forget_own(headers, dry_run);
        return Outcome::TO_STACK;
    }
    fragment::remember_own(headers, translation, dry_run);
    if rewrite::apply(skb, headers, translation) {
        Outcome::sent(Outcome::TO_STACK.action, Verdict::ToStack)
    } else {
        Outcome::drop(DropReason::RewriteFailed)
    }
}
