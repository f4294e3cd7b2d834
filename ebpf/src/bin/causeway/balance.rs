//! Choosing a backend from the live maps.

use core::ptr;

use aya_ebpf::{cty::c_void, helpers::generated::bpf_loop};
use causeway_abi::{
    affinity::AffinityKey,
    backend::{Backend, IN_USE},
    event::Choice,
    service::{NO_BACKEND, Service},
};
use causeway_ebpf::{
    flow::{client_hash, forward_key, hash},
    parse::Headers,
    select::{Search, quick, slot},
};

use crate::{
    affinity,
    maps::{BACKENDS, SLOTS},
    trace,
};

/// A backend for a new connection of a socket, and its index; `None` when none takes connections.
#[inline(always)]
pub fn choose(service: &Service, hash: u32) -> Option<(u32, &'static Backend)> {
    // SAFETY: the pointer is valid.
    at_index(unsafe { cw_choose(service, hash) })
}

/// As [`choose`], for a client that is to keep its backend.
#[inline(always)]
pub fn choose_again(service: &Service, hash: u32, client: &AffinityKey) -> Option<(u32, &'static Backend)> {
    // SAFETY: all pointers are valid.
    at_index(unsafe { cw_choose_again(service, hash, client) })
}

/// The index of a backend for a packet that begins a flow; [`NO_BACKEND`] when none takes connections. A dry run leaves
/// nothing behind and says how it went.
#[inline(always)]
pub fn choose_for(headers: &Headers, service: &Service, dry_run: bool) -> u32 {
    // SAFETY: all pointers are valid.
    unsafe { cw_choose_for(headers, service, dry_run.into()) }
}

/// The backend of an index.
#[inline(always)]
pub fn backend(index: u32) -> Option<&'static Backend> {
    BACKENDS.get(index)
}

#[inline(always)]
fn at_index(index: u32) -> Option<(u32, &'static Backend)> {
    backend(index).map(|backend| (index, backend))
}

/// Global function behind [`choose`]: the index, or one that no backend has.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_choose(service: *const Service, hash: u32) -> u32 {
    // SAFETY: checked for null, and valid as `choose` passes it.
    unsafe { service.as_ref() }.map_or(NO_BACKEND, |service| index(service, hash).0)
}

/// Global function behind [`choose_again`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_choose_again(service: *const Service, hash: u32, client: *const AffinityKey) -> u32 {
    if service.is_null() || client.is_null() {
        return NO_BACKEND;
    }
    // SAFETY: not null, and valid as `choose_again` passes them. The key is copied, as in `cw_onwards`.
    let (service, client) = unsafe { (&*service, &ptr::read_volatile(client)) };
    let (index, ..) = kept_or_found(service, hash, Some(client));
    affinity::remember(client, index);
    index
}

/// Global function behind [`choose_for`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_choose_for(headers: *const Headers, service: *const Service, dry_run: u32) -> u32 {
    if headers.is_null() || service.is_null() {
        return NO_BACKEND;
    }
    // SAFETY: not null, and valid as `choose_for` passes them.
    let (headers, service) = unsafe { (&*headers, &*service) };
    let has_affinity = service.affinity_seconds != 0;
    let hash = if has_affinity {
        client_hash(&headers.source)
    } else {
        hash(&forward_key(headers))
    };
    let client = AffinityKey {
        client: headers.source,
        service_id: service.service_id,
        kind: AffinityKey::ADDRESS,
    };
    let (index, skipped, is_kept) = kept_or_found(service, hash, has_affinity.then_some(&client));
    if dry_run != 0 {
        let choice = match (has_affinity, is_kept) {
            (false, _) => Choice::Maglev,
            (true, false) => Choice::ClientHash,
            (true, true) => Choice::Affinity,
        };
        explain(service, hash, index, skipped, choice);
    } else if has_affinity {
        affinity::remember(&client, index);
    }
    index
}

/// The index of the backend that a client keeps, or else of one by a hash; how many slots were looked at in vain, and whether it is
/// one that was kept.
#[inline(always)]
fn kept_or_found(service: &Service, hash: u32, client: Option<&AffinityKey>) -> (u32, u32, bool) {
    match client.and_then(|client| affinity::remembered(client, service)) {
        Some(index) => (index, 0, true),
        None => {
            let (index, skipped) = index(service, hash);
            (index, skipped, false)
        }
    }
}

/// Tells who tries a packet out how its backend was chosen.
#[inline(always)]
pub fn explain(service: &Service, hash: u32, index: u32, skipped: u32, choice: Choice) {
    trace::explain(|explanation| {
        explanation.choice = choice as u32;
        explanation.hash = hash;
        explanation.first_slot = slot(service, hash);
        explanation.skipped = skipped;
        explanation.backend = index;
    });
}

/// The index of a backend, or [`NO_BACKEND`]; and how many slots were looked at in vain.
#[inline(always)]
fn index(service: &Service, hash: u32) -> (u32, u32) {
    let service = *service;
    if let Some(found) = quick(&service, hash, at) {
        return found;
    }
    let mut search = Search::new(service, hash);
    // SAFETY: the call-back has the signature the kernel calls it with, and `search` outlives the call.
    unsafe { bpf_loop(service.slot_count, step as *mut c_void, (&raw mut search).cast(), 0) };
    match search.found {
        Some(index) => (index, search.skipped),
        None => (NO_BACKEND, search.skipped),
    }
}

/// Whether a flow's backend is still the one it began with.
#[inline(always)]
pub fn is_alive(index: u32, generation: u32) -> bool {
    flags_of(index, generation).is_some_and(|flags| flags & IN_USE != 0)
}

/// The flags of a backend, if it is still the one of that generation.
#[inline(always)]
pub fn flags_of(index: u32, generation: u32) -> Option<u32> {
    let backend = BACKENDS.get(index)?;
    (backend.generation == generation).then(|| flags(backend))
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
