//! Counters. They are per CPU and no program is preempted by another of its kind, so plain additions do.

use crate::maps::{DROPS, SERVICE_COUNTERS};

/// Counts a drop for a reason ([`causeway_abi::DropReason`]), or a refused connect with no bytes.
#[inline(always)]
pub fn dropped(reason: u32, bytes: u64) {
    if let Some(counters) = DROPS.get_ptr_mut(reason) {
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

/// Counts a translated packet, and the flow it began.
#[inline(always)]
pub fn packet(service_id: u32, bytes: u32, is_new: bool) {
    if let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(service_id) {
        // SAFETY: as in `dropped`.
        unsafe {
            (*counters).packets += 1;
            (*counters).bytes += u64::from(bytes);
            (*counters).connections += u64::from(is_new);
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
