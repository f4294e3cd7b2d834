//! Counters. They are per CPU and no program is preempted by another of its kind, so plain additions do.

use aya_ebpf::bindings::TC_ACT_SHOT;
use causeway_abi::DropReason;
use causeway_ebpf::packet::Packet;

use crate::{
    maps::{DROPS, SERVICE_COUNTERS},
    skb::Skb,
};

/// Drops a packet: the only way to.
#[inline(always)]
pub fn drop(skb: Skb, reason: DropReason) -> i32 {
    dropped(reason, u64::from(skb.length()));
    TC_ACT_SHOT
}

/// Counts a drop, or a refused connect with no bytes.
#[inline(always)]
pub fn dropped(reason: DropReason, bytes: u64) {
    if let Some(counters) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the map returned a valid element of this CPU.
        unsafe {
            (*counters).packets += 1;
            (*counters).bytes += bytes;
        }
    }
}

/// Counts a connection that was given a backend.
#[inline(always)]
pub fn connection(service_id: u32) {
    if let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(service_id) {
        // SAFETY: as in `dropped`.
        unsafe { (*counters).connections += 1 };
    }
}

/// Counts a translated packet.
#[inline(always)]
pub fn packet(service_id: u32, bytes: u32) {
    if let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(service_id) {
        // SAFETY: as in `dropped`.
        unsafe {
            (*counters).packets += 1;
            (*counters).bytes += u64::from(bytes);
        }
    }
}

/// Counts a refusal by a service.
#[inline(always)]
pub fn refused(service_id: u32) {
    if let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(service_id) {
        // SAFETY: as in `dropped`.
        unsafe { (*counters).drops += 1 };
    }
}
