//! Choosing a backend from the live maps.

use core::ptr;

use aya_ebpf::{cty::c_void, helpers::generated::bpf_loop};
use causeway_abi::{
    backend::{Backend, IN_USE},
    service::{NO_BACKEND, Service},
};
use causeway_ebpf::select::{Search, quick};

use crate::maps::{BACKENDS, SLOTS};

/// A backend for a new flow, and its index; `None` when none takes connections.
#[inline(always)]
pub fn choose(service: &Service, hash: u32) -> Option<(u32, Backend)> {
    let index = match quick(service, hash, at) {
        Some(index) => index,
        None => search(service, hash),
    };
    BACKENDS.get(index).map(|backend| (index, *backend))
}

/// Whether a flow's backend is still the one it began with.
#[inline(always)]
pub fn is_alive(index: u32, generation: u32) -> bool {
    BACKENDS.get(index).is_some_and(|backend| backend.generation == generation && flags(backend) & IN_USE != 0)
}

/// The backend index and flags behind a slot.
#[inline(always)]
fn at(slot: u32) -> Option<(u32, u32)> {
    let index = SLOTS.get(slot)?.backend;
    Some((index, flags(BACKENDS.get(index)?)))
}

/// User space flips bits at any time, so they are read once.
#[inline(always)]
fn flags(backend: &Backend) -> u32 {
    // SAFETY: the reference is valid and aligned.
    unsafe { ptr::read_volatile(&raw const backend.flags) }
}

/// Looks at every slot of a service; an index no backend has when there is none.
#[inline(never)]
fn search(service: &Service, hash: u32) -> u32 {
    let mut search = Search::new(*service, hash);
    // SAFETY: the call-back has the signature the kernel calls it with, and `search` outlives the call.
    unsafe { bpf_loop(service.slot_count, step as *mut c_void, (&raw mut search).cast(), 0) };
    match search.found {
        Some(index) => index,
        None => NO_BACKEND,
    }
}

/// One step of [`search`]; 1 ends the loop.
unsafe extern "C" fn step(index: u32, search: *mut Search) -> i64 {
    // SAFETY: `bpf_loop` passes on the pointer it was given.
    i64::from(unsafe { (*search).step(index, at) })
}
