//! tcx egress of the VXLAN device, which takes its destination from each packet's tunnel key.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use causeway_abi::{
    DropReason,
    event::{Hook, Verdict},
};
use causeway_ebpf::{flow::Translation, parse::Headers};

use crate::{
    deliver::{self, MARK_TUNNEL_KEY},
    outcome::{self, Outcome},
    parse::{self, Frame},
    skb::Skb,
};

/// Gives packets of the node's own processes, which the kernel routed here, their tunnel key.
#[classifier]
pub fn cw_to_tunnel(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx.skb.skb);
    let dry_run = outcome::is_dry_run(skb);
    if skb.mark() == MARK_TUNNEL_KEY {
        skb.set_mark(0);
        return TC_ACT_OK;
    }
    let (mut headers, translation) = (Headers::NONE, Translation::NONE);
    let outcome = decide(skb, &mut headers);
    outcome::finish(skb, (Hook::ToTunnel, dry_run), &headers, &translation, outcome)
}

#[inline(always)]
fn decide(skb: Skb, headers: &mut Headers) -> Outcome {
    match parse::read(skb, headers) {
        Frame::Ip => {}
        // Without a tunnel key the device itself discards it.
        Frame::Other => return Outcome::TO_STACK,
        Frame::Malformed => return Outcome::drop(DropReason::MalformedPacket),
    }
    if headers.is_link_control() {
        return Outcome::TO_STACK;
    }
    let Some(route) = deliver::route(&headers.destination) else {
        return Outcome::drop(DropReason::NoSuchPod);
    };
    match skb.set_tunnel(&route) {
        Ok(()) => Outcome::sent(TC_ACT_OK, Verdict::ToNode),
        Err(_) => Outcome::drop(DropReason::TunnelFailed),
    }
}
