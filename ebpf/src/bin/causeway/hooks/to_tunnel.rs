//! tcx egress of the VXLAN device, which takes its destination from each packet's tunnel key.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use causeway_abi::{
    DropReason,
    event::{Hook, Verdict},
};
use causeway_ebpf::{flow::Translation, parse::Headers};

use crate::{
    deliver::{self, MARK_TUNNEL_KEY},
    hooks::from_host,
    outcome::{self, Outcome},
    parse::{self, Frame},
    skb::Skb,
};

/// Gives packets of the node's own processes, which the kernel routed here, their tunnel key, and answers of backends in the node's own
/// network their service's address.
#[classifier]
pub fn cw_to_tunnel(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx.skb.skb);
    let dry_run = outcome::is_dry_run(skb);
    if skb.mark() == MARK_TUNNEL_KEY {
        skb.set_mark(0);
        return TC_ACT_OK;
    }
    let (mut headers, mut translation) = (Headers::NONE, Translation::NONE);
    let outcome = decide(skb, &mut headers, &mut translation, dry_run);
    outcome::finish(skb, (Hook::ToTunnel, dry_run), &headers, &translation, outcome)
}

#[inline(always)]
fn decide(skb: Skb, headers: &mut Headers, translation: &mut Translation, dry_run: bool) -> Outcome {
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
    // Pods know the node by its address among them; by another one they know only a service of it.
    if deliver::node().is_some_and(|node| node.is_node_address(&headers.source)) {
        let answered = from_host::answer(skb, headers, translation, dry_run);
        if answered.reason != 0 {
            return answered;
        }
    }
    match skb.set_tunnel(&route) {
        Ok(()) => Outcome::sent(TC_ACT_OK, Verdict::ToNode),
        Err(_) => Outcome::drop(DropReason::TunnelFailed),
    }
}
