//! Choosing a backend from the live maps.

use core::ptr;

use aya_ebpf::{cty::c_void, helpers::generated::bpf_loop};
use causeway_abi::{
    backend::{Backend, IN_USE},
    service::{NO_BACKEND, Service},
};
use causeway_ebpf::{
    flow::{client_hash, forward_key, hash},
    parse::Headers,
    select::{Search, quick},
};

use crate::maps::{BACKENDS, SLOTS};

/// A backend for a new connection; `None` when none takes connections.
#[inline(always)]
pub fn choose(service: &Service, hash: u32) -> Option<&'static Backend> {
    // SAFETY: the pointer is valid.
    BACKENDS.get(unsafe { cw_choose(service, hash) })
}

/// Global function behind [`choose`]: the index, or one that no backend has.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_choose(service: *const Service, hash: u32) -> u32 {
    // SAFETY: checked for null, and valid as `choose` passes it.
    unsafe { service.as_ref() }.map_or(NO_BACKEND, |service| index(service, hash))
}

/// A backend for a new flow, and its index; `None` when none takes connections.
#[inline(always)]
pub fn choose_for(headers: &Headers, service: &Service) -> Option<(u32, &'static Backend)> {
    // SAFETY: all pointers are valid.
    let index = unsafe { cw_choose_for(headers, service) };
    BACKENDS.get(index).map(|backend| (index, backend))
}

/// Global function behind [`choose_for`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_choose_for(headers: *const Headers, service: *const Service) -> u32 {
    if headers.is_null() || service.is_null() {
        return NO_BACKEND;
    }
    // SAFETY: not null, and valid as `choose_for` passes them.
    let (headers, service) = unsafe { (&*headers, &*service) };
    let hash = if service.affinity_seconds == 0 {
        hash(&forward_key(headers))
    } else {
        client_hash(&headers.source)
    };
    index(service, hash)
}

#[inline(always)]
fn index(service: &Service, hash: u32) -> u32 {
    let service = *service;
    if let Some(index) = quick(&service, hash, at) {
        return index;
    }
    let mut search = Search::new(service, hash);
    // SAFETY: the call-back has the signature the kernel calls it with, and `search` outlives the call.
    unsafe { bpf_loop(service.slot_count, step as *mut c_void, (&raw mut search).cast(), 0) };
    match search.found {
        Some(index) => index,
        None => NO_BACKEND,
    }
}

/// Whether a flow's backend is still the one it began with.
#[inline(always)]
pub fn is_alive(index: u32, generation: u32) -> bool {
    BACKENDS
        .get(index)
        .is_some_and(|backend| backend.generation == generation && flags(backend) & IN_USE != 0)
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

/// One step of the search over all slots; 1 ends the loop.
unsafe extern "C" fn step(index: u32, search: *mut Search) -> i64 {
    // SAFETY: `bpf_loop` passes on the pointer it was given.
    i64::from(unsafe { (*search).step(index, at) })
}
