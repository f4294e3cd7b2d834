//! Fragments of translated datagrams: the later ones follow the first.

use aya_ebpf::bindings::BPF_ANY;
use causeway_abi::fragment::{FRAGMENT_TIMEOUT_NS, FragmentKey, FragmentRoute};
use causeway_ebpf::{
    flow::Translation,
    parse::{Fragment, Headers},
};

use crate::{conntrack::now_ns, maps::FRAGMENTS};

/// Remembers what became of a datagram's first fragment, for those that follow.
#[inline(always)]
pub fn remember(headers: &Headers, translation: &Translation, dry_run: bool) {
    if matches!(headers.fragment, Fragment::First) && !dry_run {
        // SAFETY: all pointers are valid.
        unsafe { cw_remember(headers, translation) };
    }
}

/// What a later fragment becomes; false when its first one was not translated, or did not come yet.
#[inline(always)]
pub fn follow(headers: &Headers, translation: &mut Translation) -> bool {
    // SAFETY: all pointers are valid.
    matches!(headers.fragment, Fragment::Later) && unsafe { cw_follow(headers, translation) != 0 }
}

/// Global function behind [`remember`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_remember(headers: *const Headers, translation: *const Translation) -> u32 {
    if headers.is_null() || translation.is_null() {
        return 0;
    }
    // SAFETY: not null, and valid as `remember` passes them.
    let (headers, translation) = unsafe { (&*headers, &*translation) };
    let route = FragmentRoute {
        seen_ns: now_ns(),
        source: translation.source,
        destination: translation.destination,
        service_id: translation.service_id,
        backend: translation.backend,
    };
    FRAGMENTS.insert(&key(headers), &route, BPF_ANY.into()).is_ok().into()
}

/// Global function behind [`follow`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_follow(headers: *const Headers, translation: *mut Translation) -> u32 {
    if headers.is_null() || translation.is_null() {
        return 0;
    }
    // SAFETY: not null, and valid as `follow` passes them.
    let (headers, translation) = unsafe { (&*headers, &mut *translation) };
    // SAFETY: read at once; an element that is reused meanwhile costs one packet.
    let Some(route) = (unsafe { FRAGMENTS.get(&key(headers)) }) else {
        return 0;
    };
    if now_ns() > route.seen_ns + FRAGMENT_TIMEOUT_NS {
        return 0;
    }
    *translation = Translation {
        source: route.source,
        destination: route.destination,
        source_port_be: 0,
        destination_port_be: 0,
        service_id: route.service_id,
        backend: route.backend,
    };
    1
}

#[inline(always)]
fn key(headers: &Headers) -> FragmentKey {
    FragmentKey {
        source: headers.source,
        destination: headers.destination,
        identification_be: headers.identification_be,
        protocol: headers.protocol,
        place: 0,
        reserved: [0; 2],
    }
}
