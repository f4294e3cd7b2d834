//! What a packet costs in XDP, measured. Never attached: a benchmark runs it by `BPF_PROG_TEST_RUN`.
//!
//! That repeats a program but does not restore the packet, so a program that rewrites would see its own output. Here the work is
//! done in a loop that restores it, from a copy that the frame carries behind its headers. How it is to be done the frame says in
//! its source MAC address, which the work does not look at.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{xdp_action::XDP_ABORTED, xdp_md},
    helpers::generated::bpf_loop,
    macros::xdp,
    programs::XdpContext,
};
use causeway_ebpf::plain::{Head, TUNNEL_OVERHEAD};

use super::xdp::forward;
use crate::xdp_frame::XdpFrame;

/// Packets for each run.
const PACKETS: u32 = 256;
/// Of the MAC address: leave the work out, so that what the loop costs is known.
const EMPTY: u16 = 1;

/// Where the frame's payload has a copy of its headers.
const COPY: usize = 64;
/// Ethernet, IPv4 and TCP, in units of 16 bits.
type Headers = [u16; 27];

/// What the loop keeps: little, because a packet's work needs nearly all of the stack.
struct Loop {
    context: *mut xdp_md,
    /// The last packet's action.
    action: u32,
}

/// Does the work of `cw_xdp` for [`PACKETS`] packets; answers the action of the last.
///
/// The first 16 bits of the source MAC address are a mask: the packet's number, as far as it is in the mask, is added to the
/// client's port. If the last bit of the address is set, the work is left out.
#[xdp]
pub fn cw_measure(ctx: XdpContext) -> u32 {
    let mut all = Loop {
        context: ctx.ctx,
        action: XDP_ABORTED,
    };
    // SAFETY: the call-back has the signature the kernel calls it with, and `all` outlives the call.
    unsafe { bpf_loop(PACKETS, one as *mut c_void, (&raw mut all).cast(), 0) };
    all.action
}

/// One packet; 1 ends the loop.
unsafe extern "C" fn one(number: u32, all: *mut Loop) -> i64 {
    // SAFETY: `bpf_loop` passes on the pointer it was given.
    let all = unsafe { &mut *all };
    let frame = XdpFrame::new(all.context);
    let (Some(copy), Some(headers)) = (frame.at::<Headers>(COPY), frame.at::<Headers>(0)) else {
        return 1;
    };
    let Some(head) = frame.at::<Head>(0) else { return 1 };
    // SAFETY: all lie before the end, as the verifier checks too.
    let is_empty = unsafe {
        *headers = *copy;
        let mask = u32::from(u16::from_be((*head).macs[3]));
        let port = u32::from(u16::from_be((*head).source_port_be)) + (number & mask);
        (*head).source_port_be = (port as u16).to_be();
        u16::from_be((*head).macs[5]) & EMPTY != 0
    };
    let length = frame.length();
    if !is_empty {
        all.action = forward(frame);
    }
    // Also where nothing was put before the frame, so that every packet costs the loop the same.
    let added = frame.length() - length;
    (added > TUNNEL_OVERHEAD || !frame.cut(added as u32)).into()
}
