//! Turning a refused packet into the answer that says so.

use core::ptr;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_csum_diff};
use causeway_abi::DropReason;
use causeway_ebpf::{
    csum,
    parse::Headers,
    refuse::{Answer, Kind, kind, reset_v4, reset_v6, unreachable_v4, unreachable_v6},
};

use crate::{deliver, outcome::Outcome, skb::Skb};

/// Sends the packet back to its pod as a TCP reset or an ICMP port unreachable, where no backend takes it and its protocol has
/// a way to say so; else drops it.
#[inline(always)]
pub fn refuse(skb: Skb, headers: &Headers, reason: DropReason) -> Outcome {
    if is_answered(reason) && answer(skb, headers) {
        Outcome::refuse(skb.redirect_peer(skb.ifindex()), reason)
    } else {
        Outcome::drop(reason)
    }
}

/// The same, for a packet that came from the network by the interface it goes back by.
#[inline(always)]
pub fn refuse_to_network(skb: Skb, headers: &Headers, reason: DropReason) -> Outcome {
    if is_answered(reason) && answer(skb, headers) {
        Outcome::refuse(skb.redirect(skb.ifindex()), reason)
    } else {
        Outcome::drop(reason)
    }
}

/// The same, for a client's packet that another node sent here through the tunnel: the answer goes to the network.
#[inline(always)]
pub fn refuse_from_tunnel(skb: Skb, headers: &Headers, reason: DropReason) -> Outcome {
    if is_answered(reason)
        && let Some(node) = deliver::node()
        && answer(skb, headers)
    {
        Outcome::refuse(skb.redirect_neighbour(node.uplink_ifindex), reason)
    } else {
        Outcome::drop(reason)
    }
}

/// Whether the service's backends are to blame, and not this node or the client.
#[inline(always)]
const fn is_answered(reason: DropReason) -> bool {
    matches!(reason, DropReason::NoReadyBackend | DropReason::BackendGone)
}

#[inline(always)]
fn answer(skb: Skb, headers: &Headers) -> bool {
    // SAFETY: all pointers are valid.
    let answered = unsafe {
        match kind(headers) {
            Kind::ResetV4 => cw_reset_v4(skb.as_ptr(), headers),
            Kind::ResetV6 => cw_reset_v6(skb.as_ptr(), headers),
            Kind::UnreachableV4 => cw_unreach_v4(skb.as_ptr()),
            Kind::UnreachableV6 => cw_unreach_v6(skb.as_ptr()),
            Kind::Silence => 0,
        }
    };
    answered != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_reset_v4(skb: *mut __sk_buff, headers: *const Headers) -> u32 {
    // SAFETY: checked for null, and valid as `refuse` passes it. So below.
    unsafe { headers.as_ref() }.map_or(0, |headers| reset_v4(&Skb::new(skb), headers).into())
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_reset_v6(skb: *mut __sk_buff, headers: *const Headers) -> u32 {
    // SAFETY: as above.
    unsafe { headers.as_ref() }.map_or(0, |headers| reset_v6(&Skb::new(skb), headers).into())
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_unreach_v4(skb: *mut __sk_buff) -> u32 {
    unreachable_v4(&Skb::new(skb)).into()
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_unreach_v6(skb: *mut __sk_buff) -> u32 {
    unreachable_v6(&Skb::new(skb)).into()
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

    #[inline(always)]
    fn sum<const N: usize>(&self, bytes: &[u8; N]) -> u16 {
        const { assert!(N % 4 == 0, "the helper takes words") };
        // SAFETY: `bytes` is readable for `N` bytes; nothing is read from the null pointer, whose size is zero.
        let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, bytes.as_ptr().cast_mut().cast(), N as u32, 0) };
        csum::fold(sum as u32)
    }
}
