//! tcx egress of the VXLAN device, which takes its destination from each packet's tunnel key.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use causeway_abi::DropReason;
use causeway_ebpf::parse::Headers;

use crate::{
    count,
    deliver::{self, MARK_TUNNEL_KEY},
    parse::{self, Frame},
    skb::Skb,
};

/// Gives packets of the node's own processes, which the kernel routed here, their tunnel key.
#[classifier]
pub fn cw_to_tunnel(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx.skb.skb);
    if skb.mark() == MARK_TUNNEL_KEY {
        skb.set_mark(0);
        return TC_ACT_OK;
    }
    let mut headers = Headers::NONE;
    match parse::read(skb, &mut headers) {
        Frame::Ip => {}
        // Without a tunnel key the device itself discards it.
        Frame::Other => return TC_ACT_OK,
        Frame::Malformed => return count::drop(skb, DropReason::MalformedPacket),
    }
    if headers.is_link_control() {
        return TC_ACT_OK;
    }
    let Some(route) = deliver::route(&headers.destination) else {
        return count::drop(skb, DropReason::NoSuchPod);
    };
    match skb.set_tunnel(&route) {
        Ok(()) => TC_ACT_OK,
        Err(_) => count::drop(skb, DropReason::TunnelFailed),
    }
}
