//! tcx egress of the uplink: what leaves for the network.

use aya_ebpf::{macros::classifier, programs::TcContext};
use causeway_abi::{
    DropReason,
    event::{Hook, Verdict},
    node::MASQUERADE,
};
use causeway_ebpf::{
    flow::Translation,
    parse::{Fragment, Headers, protocol},
};

use crate::{
    conntrack, deliver,
    hooks::from_host,
    outcome::{self, Outcome},
    parse::{self, Frame},
    rewrite,
    skb::Skb,
};

/// Gives packets that pods send to the network the node's address, and answers of backends in the node's own network their
/// service's.
#[classifier]
pub fn cw_to_uplink(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx.skb.skb);
    let dry_run = outcome::is_dry_run(skb);
    let (mut headers, mut translation) = (Headers::NONE, Translation::NONE);
    let outcome = decide(skb, &mut headers, &mut translation, dry_run);
    outcome::finish(skb, (Hook::ToUplink, dry_run), &headers, &translation, outcome)
}

#[inline(always)]
fn decide(skb: Skb, headers: &mut Headers, translation: &mut Translation, dry_run: bool) -> Outcome {
    let Some(node) = deliver::node() else {
        return Outcome::TO_STACK;
    };
    if parse::read(skb, headers) != Frame::Ip {
        return Outcome::TO_STACK;
    }
    if node.is_node_address(&headers.source) {
        let is_tunnel = headers.protocol == protocol::UDP && headers.destination_port_be == node.tunnel_port_be;
        return if is_tunnel {
            Outcome::TO_STACK
        } else {
            from_host::answer(skb, headers, translation, dry_run)
        };
    }
    if node.flags & MASQUERADE == 0
        || deliver::pod(&headers.source).is_none()
        || deliver::route(&headers.destination).is_some()
    {
        return Outcome::TO_STACK;
    }
    // Without an address of the family there is nothing to hide behind.
    let Some(node_address) = node.node_address_like(&headers.source) else {
        return Outcome::TO_STACK;
    };
    let is_known = if matches!(headers.fragment, Fragment::Later) {
        // Ports are in the first fragment alone; the address is the same for all.
        *translation = Translation {
            source: node_address,
            ..Translation::none(headers)
        };
        Some(false)
    } else if headers.has_ports() || headers.is_echo_request() {
        conntrack::masquerade(headers, translation, dry_run)
    } else {
        return Outcome::drop(DropReason::NotMasqueradable);
    };
    match is_known {
        None => Outcome::drop(DropReason::ConntrackFull),
        Some(is_new) if rewrite::apply(skb, headers, translation) => {
            Outcome::sent(Outcome::TO_STACK.action, Verdict::ToNetwork).beginning(is_new)
        }
        Some(_) => Outcome::drop(DropReason::RewriteFailed),
    }
}
