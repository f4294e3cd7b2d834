//! tcx ingress of the VXLAN device: everything other nodes send to this one's pods and to itself.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use causeway_abi::{Address, DropReason};
use causeway_ebpf::{flow::Translation, parse::Headers};

use crate::{
    conntrack, count, deliver,
    parse::{self, Frame},
    rewrite,
    skb::Skb,
};

/// Translates answers of remote backends back and delivers to pods; packets for the node itself go to its stack.
#[classifier]
pub fn cw_from_tunnel(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx.skb.skb);
    let mut headers = Headers::NONE;
    match parse::read(skb, &mut headers) {
        Frame::Ip => {}
        Frame::Other => return TC_ACT_OK,
        Frame::Malformed => return count::drop(skb, DropReason::MalformedPacket),
    }
    let mut destination = headers.destination;
    let mut translation = Translation::NONE;
    if headers.has_ports()
        && let Some(service_id) = conntrack::reply(&headers, &mut translation)
    {
        count::packet(service_id, headers.packet_length());
        if !rewrite::apply(skb, &headers, &translation) {
            return count::drop(skb, DropReason::RewriteFailed);
        }
        destination = translation.destination;
    }
    if let Some(pod) = deliver::pod(&destination) {
        return deliver::to_pod(skb, &pod);
    }
    if is_node(&destination) {
        skb.accept();
        return TC_ACT_OK;
    }
    count::drop(skb, DropReason::NoSuchPod)
}

#[inline(always)]
fn is_node(address: &Address) -> bool {
    deliver::node().is_some_and(|node| *address == node.router_address || *address == node.node_address)
}
