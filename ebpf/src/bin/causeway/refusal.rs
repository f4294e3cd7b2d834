//! Turning a refused packet into the answer that says so.

use causeway_abi::DropReason;
use causeway_ebpf::{
    parse::Headers,
    refuse::{Answer, Kind, kind, reset_v4, reset_v6, unreachable_v4, unreachable_v6},
};

use crate::{count, skb::Skb};

/// Counts the drop and, where the protocol has a way to say it, sends the packet back to its pod as a TCP reset or an ICMP
/// port unreachable.
#[inline(always)]
pub fn refuse(skb: &Skb, headers: &Headers, reason: DropReason, service_id: u32) -> i32 {
    count::refused(service_id);
    let verdict = count::drop(skb, reason);
    let answered = match kind(headers) {
        Kind::ResetV4 => answer_reset_v4(skb, headers),
        Kind::ResetV6 => answer_reset_v6(skb, headers),
        Kind::UnreachableV4 => answer_unreachable_v4(skb),
        Kind::UnreachableV6 => answer_unreachable_v6(skb),
        Kind::Silence => false,
    };
    if answered { skb.redirect_peer(skb.ifindex()) } else { verdict }
}

// Each has a stack frame of its own, which the common case does not pay for.

#[inline(never)]
fn answer_reset_v4(skb: &Skb, headers: &Headers) -> bool {
    reset_v4(skb, headers)
}

#[inline(never)]
fn answer_reset_v6(skb: &Skb, headers: &Headers) -> bool {
    reset_v6(skb, headers)
}

#[inline(never)]
fn answer_unreachable_v4(skb: &Skb) -> bool {
    unreachable_v4(skb)
}

#[inline(never)]
fn answer_unreachable_v6(skb: &Skb) -> bool {
    unreachable_v6(skb)
}

impl Answer for Skb {
    #[inline(always)]
    fn resize(&self, length: u32) -> bool {
        self.set_length(length).is_ok()
    }

    #[inline(always)]
    fn put<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> bool {
        self.write(offset, bytes, 0).is_ok()
    }
}
