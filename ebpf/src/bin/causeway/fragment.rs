//! Fragments of datagrams: the later ones, which have no ports, follow the first; those that come before it wait for it.
//!
//! A fragment that overtook its first one is copied to `HELD`. When the first one comes, its packet is made into each of those
//! in turn, a clone of which comes in again by the interface the fragment came from, and so takes the way of any later fragment.
//! A datagram whose first fragment never comes could not have been put together anyway.
//!
//! Each datagram has a few places of `HELD` where its fragments may wait, and shares them with others. A fragment takes one that is
//! free, or whose fragment has waited for too long; else it takes that of the one among other datagrams' that has waited longest.
//! Either is counted.
//!
//! Two processors may have a datagram's first and a later fragment at once. The later one is kept first and then looks for the
//! first one's route; the first one writes its route first and then looks for fragments that are kept. So one of them sees the
//! other, and where both do, who removes the fragment from `HELD` sends it on.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY, BPF_NOEXIST, TC_ACT_SHOT},
    helpers::generated::bpf_ktime_get_ns,
};
use causeway_abi::{
    Address, DropReason,
    event::Verdict,
    fragment::{FRAGMENT_TIMEOUT_NS, FragmentKey, FragmentRoute, HELD_MAX, HeldFragment, held_place},
    service::NO_BACKEND,
};
use causeway_ebpf::{
    flow::Translation,
    parse::{Fragment, Headers, Version, fragment_offset},
};

use crate::{
    conntrack::now_ns,
    count, deliver,
    maps::{FRAGMENTS, HELD, HELD_DRAFT},
    outcome::Outcome,
    skb::Skb,
};

/// What a later fragment is to do.
#[derive(Clone, Copy)]
pub enum Later {
    /// It is none, or goes on as it is, like its first one.
    AsItIs,
    /// It is to be translated like its first one.
    Translated,
    /// It is kept, or cannot be: what becomes of it.
    Over(Outcome),
}

/// Remembers what became of a datagram's first fragment, for those that follow, and sends those after it that came before. To be
/// called when the packet has its addresses, and not yet its next hop.
#[inline(always)]
pub fn remember(skb: Skb, headers: &Headers, translation: &Translation, dry_run: bool) {
    if !matches!(headers.fragment, Fragment::First) || dry_run {
        return;
    }
    // SAFETY: all pointers are valid. So below.
    if unsafe { cw_remember(headers, translation) } == HELD_BACK {
        unsafe { cw_release(skb.as_ptr(), headers) };
    }
}

/// The same, for one that goes on as it is.
#[inline(always)]
pub fn remember_as_it_is(skb: Skb, headers: &Headers, dry_run: bool) {
    if matches!(headers.fragment, Fragment::First) {
        remember(skb, headers, &Translation::none(headers), dry_run);
    }
}

/// The same for datagrams of the node's own stack, which sends the first fragment first: nothing is kept for it.
#[inline(always)]
pub fn remember_own(headers: &Headers, translation: &Translation, dry_run: bool) {
    if matches!(headers.fragment, Fragment::First) && !dry_run {
        // SAFETY: all pointers are valid.
        unsafe { cw_remember(headers, translation) };
    }
}

/// Forgets an earlier datagram of the node's own stack with the identification of this one, which goes on as it is.
#[inline(always)]
pub fn forget_own(headers: &Headers, dry_run: bool) {
    if matches!(headers.fragment, Fragment::First) && !dry_run {
        // SAFETY: the pointer is valid.
        unsafe { cw_forget_route(headers) };
    }
}

/// Global function behind [`forget_own`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_forget_route(headers: *const Headers) -> u32 {
    // SAFETY: checked for null, and valid as `forget_own` passes it.
    unsafe { headers.as_ref() }.map_or(0, |headers| FRAGMENTS.remove(&key(headers)).is_ok().into())
}

/// Whether a packet of the node's own stack is a later fragment of a datagram that was translated; `translation` gets what it becomes.
#[inline(always)]
pub fn follow_own(headers: &Headers, translation: &mut Translation) -> bool {
    // SAFETY: all pointers are valid.
    matches!(headers.fragment, Fragment::Later)
        && unsafe { cw_follow(headers, translation) } == KNOWN
        && translation.source != headers.source
}

/// Finds out what a later fragment becomes; keeps it until its first one comes.
#[inline(always)]
pub fn follow(skb: Skb, headers: &Headers, translation: &mut Translation, dry_run: bool) -> Later {
    if !matches!(headers.fragment, Fragment::Later) {
        return Later::AsItIs;
    }
    // SAFETY: all pointers are valid. So below.
    let mut found = unsafe { cw_follow(headers, translation) };
    if found == UNKNOWN && !dry_run {
        found = match unsafe { cw_hold(skb.as_ptr(), headers) } {
            // Its first one came in this moment.
            KNOWN => unsafe { cw_follow(headers, translation) },
            answer => answer,
        };
    }
    match found {
        KNOWN if is_translation(headers, translation) => Later::Translated,
        KNOWN => {
            *translation = Translation::NONE;
            Later::AsItIs
        }
        HELD_BACK => Later::Over(Outcome::sent(TC_ACT_SHOT, Verdict::Held)),
        NOT_HELD => Later::Over(Outcome::drop(DropReason::FragmentNotHeld)),
        _ => Later::AsItIs,
    }
}

/// Whether it says more than that the packet goes on as it is.
#[inline(always)]
fn is_translation(headers: &Headers, translation: &Translation) -> bool {
    translation.backend != NO_BACKEND
        || translation.source != headers.source
        || translation.destination != headers.destination
}

/// No first fragment was seen.
const UNKNOWN: u32 = 0;
/// The first fragment was seen.
const KNOWN: u32 = 1;
/// The fragment is kept; of a first one, others are kept for it.
const HELD_BACK: u32 = 2;
/// The fragment cannot be kept.
const NOT_HELD: u32 = 3;

/// The route of fragments whose first one has not come.
const WAITING: Address = Address::from_words([0; 4]);

/// Global function behind [`remember`]; `HELD_BACK` when fragments are waiting.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_remember(headers: *const Headers, translation: *const Translation) -> u32 {
    if headers.is_null() || translation.is_null() {
        return KNOWN;
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
    let key = key(headers);
    if FRAGMENTS.insert(&key, &route, BPF_NOEXIST.into()).is_ok() {
        return KNOWN;
    }
    // SAFETY: read at once; an element that is reused meanwhile costs a look in vain.
    let is_waiting = unsafe { FRAGMENTS.get(&key) }.is_some_and(|route| route.source == WAITING);
    let _ = FRAGMENTS.insert(&key, &route, BPF_ANY.into());
    if is_waiting { HELD_BACK } else { KNOWN }
}

/// Finds the route of a later fragment.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_follow(headers: *const Headers, translation: *mut Translation) -> u32 {
    if headers.is_null() || translation.is_null() {
        return UNKNOWN;
    }
    // SAFETY: not null, and valid as `follow` passes them.
    let (headers, translation) = unsafe { (&*headers, &mut *translation) };
    // SAFETY: read at once; an element that is reused meanwhile costs one packet.
    let Some(route) = (unsafe { FRAGMENTS.get(&key(headers)) }) else {
        return UNKNOWN;
    };
    if route.source == WAITING || now_ns() > route.seen_ns + FRAGMENT_TIMEOUT_NS {
        return UNKNOWN;
    }
    *translation = Translation {
        source: route.source,
        destination: route.destination,
        source_port_be: 0,
        destination_port_be: 0,
        service_id: route.service_id,
        backend: route.backend,
    };
    KNOWN
}

/// Keeps a fragment; `KNOWN` when its first one came meanwhile.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_hold(skb: *mut __sk_buff, headers: *const Headers) -> u32 {
    // SAFETY: checked for null, and valid as `follow` passes it.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return NOT_HELD;
    };
    let skb = Skb::new(skb);
    let Some(draft) = HELD_DRAFT.get_ptr_mut(0) else {
        return NOT_HELD;
    };
    // SAFETY: the map returned a valid element. It is this processor's, and no program of ours interrupts another.
    let draft = unsafe { &mut *draft };
    let Some(length) = skb.save(&mut draft.frame) else {
        return NOT_HELD;
    };
    draft.length = length;
    draft.ifindex = skb.ifindex();
    // SAFETY: takes no argument.
    draft.seen_ns = unsafe { bpf_ktime_get_ns() };
    let Some(offset) = fragment_offset(&skb, headers) else {
        return NOT_HELD;
    };
    let key = key(headers);
    draft.datagram = key;
    // One place for each KiB of the datagram; smaller fragments take the next ones.
    let place = cw_place(key.home(), offset >> 10);
    if place == NO_PLACE {
        return NOT_HELD;
    }
    let route = FragmentRoute {
        seen_ns: now_ns(),
        source: WAITING,
        destination: WAITING,
        service_id: 0,
        backend: NO_BACKEND,
    };
    if FRAGMENTS.insert(&key, &route, BPF_NOEXIST.into()).is_ok() {
        return HELD_BACK;
    }
    // SAFETY: read at once; an element that is reused meanwhile costs one packet.
    match unsafe { FRAGMENTS.get(&key) } {
        Some(known) if known.source != WAITING => {
            if route.seen_ns > known.seen_ns + FRAGMENT_TIMEOUT_NS {
                let _ = FRAGMENTS.insert(&key, &route, BPF_ANY.into());
                return HELD_BACK;
            }
            if HELD.remove(&place).is_ok() { KNOWN } else { HELD_BACK }
        }
        _ => HELD_BACK,
    }
}

/// Places tried for a fragment.
const PLACES_TRIED: u32 = 8;
/// There is none.
const NO_PLACE: u32 = u32::MAX;

/// Puts the drafted fragment at one of its places, from the one of that number on; which.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cw_place(home: u32, first: u32) -> u32 {
    let (Some(draft), Some(node)) = (HELD_DRAFT.get_ptr_mut(0), deliver::node()) else {
        return NO_PLACE;
    };
    // SAFETY: as in `cw_hold`.
    let draft = unsafe { &*draft };
    let now = now_ns();
    let (mut oldest, mut oldest_ns) = (NO_PLACE, u64::MAX);
    for step in 0..PLACES_TRIED {
        let Some(place) = held_place(home, first + step, node.held_fragments.into()) else {
            return NO_PLACE;
        };
        // SAFETY: read at once; an element that is reused meanwhile costs one fragment.
        if let Some(held) = unsafe { HELD.get(&place) } {
            let seen_ns = held.seen_ns;
            if now <= seen_ns + FRAGMENT_TIMEOUT_NS {
                if seen_ns < oldest_ns && held.datagram != draft.datagram {
                    (oldest, oldest_ns) = (place, seen_ns);
                }
                continue;
            }
            lose(place, held, DropReason::FragmentExpired);
        }
        if HELD.insert(&place, draft, BPF_NOEXIST.into()).is_ok() {
            return place;
        }
    }
    // SAFETY: as above.
    if oldest != NO_PLACE
        && let Some(held) = unsafe { HELD.get(&oldest) }
    {
        lose(oldest, held, DropReason::FragmentEvicted);
        if HELD.insert(&oldest, draft, BPF_NOEXIST.into()).is_ok() {
            return oldest;
        }
    }
    NO_PLACE
}

/// Removes a fragment that is not to be sent on, and counts it.
#[inline(always)]
fn lose(place: u32, held: &HeldFragment, reason: DropReason) {
    let length = held.length;
    // Who removes it counts it.
    if HELD.remove(&place).is_ok() {
        count::dropped(reason as u32, length.into());
    }
}

/// Sends on the fragments that are kept for a datagram; `skb` is its first one, and unchanged afterwards.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_release(skb: *mut __sk_buff, headers: *const Headers) -> u32 {
    // SAFETY: checked for null, and valid as `remember` passes it.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return 0;
    };
    let skb = Skb::new(skb);
    let (Some(saved), Some(node)) = (HELD_DRAFT.get_ptr_mut(1), deliver::node()) else {
        return 0;
    };
    // SAFETY: as in `cw_hold`.
    let saved = unsafe { &mut *saved };
    let Some(length) = skb.save(&mut saved.frame) else {
        return 0;
    };
    let key = key(headers);
    let (home, now) = (key.home(), now_ns());
    let mut released = 0;
    for number in 0..u32::from(HELD_MAX) {
        let Some(place) = held_place(home, number, node.held_fragments.into()) else {
            break;
        };
        // SAFETY: whether the element was reused meanwhile is looked at below.
        let Some(held) = (unsafe { HELD.get(&place) }) else {
            continue;
        };
        if held.datagram != key {
            continue;
        }
        let (seen_ns, ifindex) = (held.seen_ns, held.ifindex);
        if now > seen_ns + FRAGMENT_TIMEOUT_NS {
            lose(place, held, DropReason::FragmentExpired);
            continue;
        }
        if skb.restore(&held.frame, held.length).is_err() {
            break;
        }
        // SAFETY: as above.
        let is_same = unsafe { HELD.get(&place) }.is_some_and(|held| held.seen_ns == seen_ns);
        if is_same && HELD.remove(&place).is_ok() {
            skb.clone_in(ifindex);
            released += 1;
        }
    }
    if skb.restore(&saved.frame, length).is_err() {
        // The first fragment is no more; the datagram will not be put together.
        return released;
    }
    released
}

#[inline(always)]
fn key(headers: &Headers) -> FragmentKey {
    FragmentKey {
        source: headers.source,
        destination: headers.destination,
        identification_be: headers.identification_be,
        protocol: match headers.version {
            Version::V4 => headers.protocol,
            // RFC 8200, 4.5: that of the first fragment counts.
            Version::V6 => 0,
        },
        reserved: [0; 3],
    }
}
