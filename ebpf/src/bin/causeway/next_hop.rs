//! The neighbour a frame goes to, as the kernel's own tables have it.
//!
//! Asking the kernel costs more than everything else XDP does for a packet, so each processor remembers the answers for the
//! blink of an eye. The memory is a table with one place for each address; addresses that share one take turns.

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup, xdp_md},
    helpers::generated::{bpf_fib_lookup, bpf_jiffies64},
};

use causeway_abi::Address;

use crate::{
    deliver,
    maps::{NEXT_HOPS, NEXT_HOPS6},
    xdp_frame::XdpFrame,
};

/// Places for answers; a power of two.
pub const PLACES: usize = 256;

/// Timer ticks an answer counts: from 64 ms (with 1000 ticks a second) to 640 ms.
const VALID_TICKS: u64 = 64;

/// `AF_INET`.
const IPV4: u8 = 2;
/// `AF_INET6`.
const IPV6: u8 = 10;

/// Element of `NEXT_HOPS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct NextHop {
    /// Timer ticks (`bpf_jiffies64`) up to which this counts.
    pub valid_until: u64,
    /// The address it is about, bytes as in a packet.
    pub address: u32,
    /// Bytes of IP that a frame may carry there.
    pub mtu: u32,
    /// MAC addresses of a frame: the neighbour's, then the uplink's own.
    pub macs: [u16; 6],
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<NextHop>() == 32);

/// Element of `NEXT_HOPS6`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct NextHop6 {
    /// As of [`NextHop`].
    pub valid_until: u64,
    /// The address it is about.
    pub address: [u32; 4],
    /// As of [`NextHop`].
    pub mtu: u32,
    /// As of [`NextHop`].
    pub macs: [u16; 6],
    /// Zero.
    pub reserved: [u32; 2],
}
const _: () = assert!(size_of::<NextHop6>() == 48);

/// Where frames for an IPv4 address go; `None` when that is not a neighbour on the interface that this frame came in on, or not
/// known yet.
#[inline(always)]
pub fn next_hop(frame: XdpFrame, address: u32) -> Option<&'static NextHop> {
    let place = NEXT_HOPS.get_ptr_mut(place(address))?;
    // SAFETY: the map returned a valid element of this CPU; no program that writes to it runs on it at the same time. The
    // helper takes no argument.
    let (known, now) = unsafe { (&*place, bpf_jiffies64()) };
    if known.address == address && now < known.valid_until {
        return Some(known);
    }
    // SAFETY: the context is valid. So is the element.
    unsafe { (cw_next_hop(frame.as_ptr(), address) != 0).then(|| &*place) }
}

#[inline(always)]
const fn place(address: u32) -> u32 {
    (address.wrapping_mul(0x9e37_79b1) >> 24) & (PLACES as u32 - 1)
}

/// A question without an address yet.
#[inline(always)]
fn blank() -> FibLookup {
    // SAFETY: the structure is plain integers, for which zero is valid.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Asks the kernel where a frame that came in on this interface goes on it; the path's MTU, and `fib` has the MAC addresses.
#[inline(always)]
fn ask(frame: XdpFrame, fib: &mut FibLookup) -> Option<u32> {
    fib.ifindex = frame.ifindex();
    // A length makes the kernel answer with the path's MTU.
    fib.__bindgen_anon_1.tot_len = 1;
    // SAFETY: `fib` is valid for the size given, and the helper writes the member of the union.
    unsafe {
        let answer = bpf_fib_lookup(frame.as_ptr().cast(), fib, size_of::<FibLookup>() as i32, 0);
        (answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS) && fib.ifindex == frame.ifindex())
            .then(|| fib.__bindgen_anon_1.mtu_result.into())
    }
}

/// Asks the kernel and remembers what it says.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_next_hop(ctx: *mut xdp_md, address: u32) -> u32 {
    let frame = XdpFrame::new(ctx);
    let (Some(node), Some(place)) = (deliver::node(), NEXT_HOPS.get_ptr_mut(place(address))) else {
        return 0;
    };
    let mut fib = blank();
    fib.family = IPV4;
    fib.__bindgen_anon_3.ipv4_src = node.node_address.words()[3];
    fib.__bindgen_anon_4.ipv4_dst = address;
    let Some(mtu) = ask(frame, &mut fib) else { return 0 };
    // SAFETY: as in `next_hop`.
    unsafe {
        *place = NextHop {
            valid_until: bpf_jiffies64() + VALID_TICKS,
            address,
            mtu,
            macs: zerocopy::transmute!([fib.dmac, fib.smac]),
            reserved: 0,
        };
    }
    1
}

/// As [`next_hop`], for an IPv6 address.
#[inline(always)]
pub fn next_hop6(frame: XdpFrame, address: &Address) -> Option<&'static NextHop6> {
    let words = address.words();
    let place = NEXT_HOPS6.get_ptr_mut(place6(words))?;
    // SAFETY: as in `next_hop`.
    let (known, now) = unsafe { (&*place, bpf_jiffies64()) };
    if known.address == words && now < known.valid_until {
        return Some(known);
    }
    // SAFETY: all pointers are valid.
    unsafe { (cw_next_hop6(frame.as_ptr(), address) != 0).then(|| &*place) }
}

#[inline(always)]
const fn place6([a, b, c, d]: [u32; 4]) -> u32 {
    place(a ^ b ^ c ^ d)
}

/// Asks the kernel and remembers what it says.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_next_hop6(ctx: *mut xdp_md, address: *const Address) -> u32 {
    if address.is_null() {
        return 0;
    }
    // SAFETY: not null, and valid as `next_hop6` passes it.
    let words = unsafe { ptr::read_volatile(address) }.words();
    let frame = XdpFrame::new(ctx);
    let (Some(node), Some(place)) = (deliver::node(), NEXT_HOPS6.get_ptr_mut(place6(words))) else {
        return 0;
    };
    let mut fib = blank();
    fib.family = IPV6;
    fib.__bindgen_anon_3.ipv6_src = node.node_address6.words();
    fib.__bindgen_anon_4.ipv6_dst = words;
    let Some(mtu) = ask(frame, &mut fib) else { return 0 };
    // SAFETY: as in `next_hop`.
    unsafe {
        *place = NextHop6 {
            valid_until: bpf_jiffies64() + VALID_TICKS,
            address: words,
            mtu,
            macs: zerocopy::transmute!([fib.dmac, fib.smac]),
            reserved: [0; 2],
        };
    }
    1
}
