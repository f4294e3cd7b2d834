//! tcx ingress of the uplink: everything the network sends to this node.

use aya_ebpf::{btf_maps::lpm_trie::Key, macros::classifier, programs::TcContext};
use causeway_abi::{
    Address, DropReason,
    event::Hook,
    service::{SCOPE_NODE, SERVICE_SOURCE_RANGES, Service},
};
use causeway_ebpf::{
    flow::{Translation, service_key},
    parse::{Headers, protocol},
};

use crate::{
    conntrack,
    deliver::{self, From},
    direct, fragment,
    maps::{SERVICES, SOURCE_RANGES, SourceRange},
    outcome::{self, Outcome},
    parse::{self, Frame},
    refusal::refuse_to_network,
    skb::Skb,
};

/// Balances node ports, external and load-balancer addresses; translates answers to pods that left the cluster behind the
/// node's address; hands packets for pods to them. The rest goes to the node's own stack.
#[classifier]
pub fn cw_from_uplink(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx.skb.skb);
    let dry_run = outcome::is_dry_run(skb);
    let (mut headers, mut translation) = (Headers::NONE, Translation::NONE);
    let outcome = decide(skb, &mut headers, &mut translation, dry_run);
    outcome::finish(skb, (Hook::FromUplink, dry_run), &headers, &translation, outcome)
}

#[inline(always)]
fn decide(skb: Skb, headers: &mut Headers, translation: &mut Translation, dry_run: bool) -> Outcome {
    match parse::read(skb, headers) {
        Frame::Ip => {}
        // What is malformed is not for a pod, so the stack may judge it.
        Frame::Other | Frame::Malformed => return Outcome::TO_STACK,
    }
    if headers.is_link_control() || is_tunnel(headers) {
        // Where the underlay's MTU is small, the tunnel's own packets are divided.
        fragment::remember_as_it_is(skb, headers, dry_run);
        return Outcome::TO_STACK;
    }
    if deliver::is_at_its_end(skb, headers, SCOPE_NODE) {
        return refuse_to_network(skb, headers, DropReason::HopLimitExceeded);
    }
    if headers.has_ports() {
        // SAFETY: the value is copied out at once.
        if let Some(service) = unsafe { SERVICES.get(service_key(headers, SCOPE_NODE)).copied() } {
            return to_service(skb, headers, &service, translation, dry_run);
        }
    }
    if (headers.has_ports() || headers.is_echo()) && conntrack::reply(headers, translation, dry_run) {
        return deliver::answer(skb, headers, translation, dry_run);
    }
    if !headers.has_ports()
        && let Some(outcome) = deliver::related(skb, headers, translation, dry_run)
    {
        return outcome;
    }
    fragment::remember_as_it_is(skb, headers, dry_run);
    deliver::to_pod(skb, &headers.destination).unwrap_or(Outcome::TO_STACK)
}

/// Whether a packet is one of the tunnel's own, which are the most frequent here.
#[inline(always)]
fn is_tunnel(headers: &Headers) -> bool {
    headers.protocol == protocol::UDP
        && deliver::node().is_some_and(|node| {
            node.tunnel_port_be == headers.destination_port_be && node.is_node_address(&headers.destination)
        })
}

#[inline(always)]
fn to_service(skb: Skb, headers: &Headers, service: &Service, translation: &mut Translation, dry_run: bool) -> Outcome {
    if service.flags & SERVICE_SOURCE_RANGES != 0 && !is_let_in(service, &headers.source) {
        *translation = Translation::none_of(headers, service);
        return Outcome::drop(DropReason::SourceNotAllowed);
    }
    if let Some(outcome) = direct::send(skb, headers, service, translation, dry_run) {
        return outcome;
    }
    match deliver::to_service(skb, headers, service, translation, From::Network, dry_run) {
        Ok(outcome) => outcome,
        Err(reason) => refuse_to_network(skb, headers, reason),
    }
}

#[inline(always)]
fn is_let_in(service: &Service, client: &Address) -> bool {
    // SAFETY: the pointer is valid.
    unsafe { cw_is_let_in(service.service_id, client) != 0 }
}

/// Global function behind [`is_let_in`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_is_let_in(service_id: u32, client: *const Address) -> u32 {
    // SAFETY: checked for null, and valid as `is_let_in` passes it.
    let Some(client) = (unsafe { client.as_ref() }) else {
        return 0;
    };
    let range = SourceRange {
        service_id,
        address: *client,
    };
    SOURCE_RANGES.get(&Key::new(160, range)).is_some().into()
}
