//! Turning a refused packet into the answer that says so.

use core::ptr;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_csum_diff};
use causeway_abi::{Address, DropReason, icmp, route::MODE_VXLAN};
use causeway_ebpf::{
    budget, csum,
    packet::Packet as _,
    parse::Headers,
    refuse::{Answer, IcmpError, Kind, error_kind, error_v4, error_v6, kind, reset_v4, reset_v6},
};

use crate::{
    conntrack::now_ns,
    count, deliver,
    maps::ICMP_BUDGET,
    outcome::{self, Outcome},
    skb::Skb,
};

/// Sends the packet back to its pod as a TCP reset or an ICMP error, where its protocol has a way to say why it goes no further;
/// else drops it.
#[inline(always)]
pub fn refuse(skb: Skb, headers: &Headers, reason: DropReason) -> Outcome {
    if answer(skb, headers, reason, false) {
        Outcome::refuse(skb.redirect_peer(skb.ifindex()), reason)
    } else {
        Outcome::drop(reason)
    }
}

/// The same, for a packet that came from the network by the interface it goes back by.
#[inline(always)]
pub fn refuse_to_network(skb: Skb, headers: &Headers, reason: DropReason) -> Outcome {
    if answer(skb, headers, reason, true) {
        Outcome::refuse(skb.redirect(skb.ifindex()), reason)
    } else {
        Outcome::drop(reason)
    }
}

/// The same, for a packet that another node sent here through the tunnel: the answer goes to that node's pod, or to the client in
/// the network.
#[inline(always)]
pub fn refuse_from_tunnel(skb: Skb, headers: &Headers, reason: DropReason) -> Outcome {
    if !answer(skb, headers, reason, false) {
        return Outcome::drop(reason);
    }
    // SAFETY: all pointers are valid.
    let action = unsafe { cw_return(skb.as_ptr(), &headers.source) };
    if action == u32::MAX {
        Outcome::drop(reason)
    } else {
        Outcome::refuse(action as i32, reason)
    }
}

/// Sends an answer to whom it is for, through the tunnel or to the network; the action, or `u32::MAX` when there is no way.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_return(skb: *mut __sk_buff, to: *const Address) -> u32 {
    if to.is_null() {
        return u32::MAX;
    }
    let skb = Skb::new(skb);
    // SAFETY: not null, and valid as `refuse_from_tunnel` passes it. Copied, as in `cw_onwards`.
    let to = &unsafe { ptr::read_volatile(to) };
    match (deliver::route(to), deliver::node()) {
        (Some(route), _) if route.mode == MODE_VXLAN => {
            let outcome = deliver::into_tunnel(skb, &route, &deliver::TUNNEL_MACS, to.to_v4().is_some());
            if outcome.reason == 0 {
                outcome.action as u32
            } else {
                u32::MAX
            }
        }
        (_, Some(node)) => skb.redirect_neighbour(node.uplink_ifindex) as u32,
        _ => u32::MAX,
    }
}

/// Makes the packet its answer; false when none is to be given.
#[inline(always)]
fn answer(skb: Skb, headers: &Headers, reason: DropReason, to_network: bool) -> bool {
    // SAFETY: all pointers are valid.
    unsafe { cw_answer(skb.as_ptr(), headers, reason as u32, to_network.into()) != 0 }
}

/// Global function behind [`answer`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_answer(skb: *mut __sk_buff, headers: *const Headers, reason: u32, to_network: u32) -> u32 {
    const NO_READY_BACKEND: u32 = DropReason::NoReadyBackend as u32;
    const BACKEND_GONE: u32 = DropReason::BackendGone as u32;
    const HOP_LIMIT_EXCEEDED: u32 = DropReason::HopLimitExceeded as u32;
    const TOO_LARGE_FOR_TUNNEL: u32 = DropReason::TooLargeForTunnel as u32;
    // SAFETY: checked for null, and valid as `answer` passes it.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return 0;
    };
    let version = headers.version;
    // Those about backends come from whom the packet was for, as if it had got there; the others from this node.
    let (kind, error, is_own) = match reason {
        NO_READY_BACKEND | BACKEND_GONE => (kind(headers), IcmpError::port_unreachable(version), false),
        HOP_LIMIT_EXCEEDED => (error_kind(headers), IcmpError::hops_exceeded(version), true),
        TOO_LARGE_FOR_TUNNEL => {
            let mtu = deliver::tunnel_excess(Skb::new(skb)).unwrap_or(0);
            (error_kind(headers), IcmpError::too_big(version, mtu), true)
        }
        _ => return 0,
    };
    let mut source = headers.destination;
    if is_own {
        let Some(node) = deliver::node() else { return 0 };
        let own = if to_network == 0 {
            node.router_address_like(&headers.source)
        } else {
            node.node_address_like(&headers.source)
        };
        let Some(own) = own else { return 0 };
        source = own;
    }
    if Skb::new(skb).length() < kind.least_length() {
        return 0;
    }
    if matches!(kind, Kind::ErrorV4 | Kind::ErrorV6)
        && !outcome::is_dry_run(Skb::new(skb))
        && !may_tell(reason == TOO_LARGE_FOR_TUNNEL)
    {
        count::dropped(DropReason::IcmpErrorSuppressed as u32, headers.end.into());
        return 0;
    }
    let packed = u64::from(error.kind) << 40 | u64::from(error.code) << 32 | u64::from(error.rest);
    // SAFETY: all pointers are valid.
    unsafe {
        match kind {
            Kind::ResetV4 => cw_reset_v4(skb, headers),
            Kind::ResetV6 => cw_reset_v6(skb, headers),
            Kind::ErrorV4 => cw_error_v4(skb, source.words()[3], packed),
            Kind::ErrorV6 => cw_error_v6(skb, &source, packed),
            Kind::Silence => 0,
        }
    }
}

/// Whether one more ICMP error may be sent. Processors that ask at the same moment may both be given the last one: exact counting
/// would cost a shared lock in every flood, and the limit is there for floods.
#[inline(always)]
fn may_tell(is_too_big: bool) -> bool {
    let Some(budget) = ICMP_BUDGET.get_ptr_mut(if is_too_big { icmp::TOO_BIG } else { icmp::OTHERS }) else {
        return false;
    };
    // SAFETY: the map returned a valid, aligned element; it is one word, which other processors read and write at any time.
    unsafe {
        let full_ns = &raw mut (*budget).full_ns;
        match budget::spend(ptr::read_volatile(full_ns), now_ns()) {
            Some(next) => {
                ptr::write_volatile(full_ns, next);
                true
            }
            None => false,
        }
    }
}

#[inline(always)]
const fn unpacked(packed: u64) -> IcmpError {
    IcmpError {
        kind: (packed >> 40) as u8,
        code: (packed >> 32) as u8,
        rest: packed as u32,
    }
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
unsafe extern "C" fn cw_error_v4(skb: *mut __sk_buff, source: u32, packed: u64) -> u32 {
    error_v4(&Skb::new(skb), source.to_ne_bytes(), unpacked(packed)).into()
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_error_v6(skb: *mut __sk_buff, source: *const Address, packed: u64) -> u32 {
    // SAFETY: checked for null, and valid as `cw_answer` passes it.
    unsafe { source.as_ref() }.map_or(0, |source| {
        error_v6(&Skb::new(skb), &source.bytes, unpacked(packed)).into()
    })
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
