//! Telling who watches what happened, and who tries a packet out how it was decided.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use causeway_abi::event::{Event, Explanation, Hook, Verdict};
use causeway_ebpf::{flow::Translation, parse::Headers};

use crate::{
    conntrack::now_ns,
    maps::{EVENTS, EVENTS_LOST, EXPLANATION, TRACE},
};

/// What is told of a packet beside its headers, in two registers: stack is short.
#[derive(Clone, Copy)]
pub struct Told {
    /// Where.
    pub hook: Hook,
    /// What became of it.
    pub verdict: Verdict,
    /// [`DropReason`](causeway_abi::DropReason), or 0.
    pub reason: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// The interface.
    pub ifindex: u32,
}

/// Whether somebody watches drops, refusals and new connections.
#[inline(always)]
pub fn is_on() -> bool {
    TRACE
        .get(0)
        .is_some_and(|trace| trace.until_ns != 0 && trace.until_ns > now_ns())
}

/// Whether somebody watches anything at all.
#[inline(always)]
pub fn is_asked_for() -> bool {
    TRACE
        .get(0)
        .is_some_and(|trace| trace.until_ns | trace.packets_until_ns != 0 && (is_on() || is_on_for_packets()))
}

/// Whether somebody watches every packet.
#[inline(always)]
pub fn is_on_for_packets() -> bool {
    TRACE
        .get(0)
        .is_some_and(|trace| trace.packets_until_ns != 0 && trace.packets_until_ns > now_ns())
}

/// Writes a record. `headers` are those the packet came with; `translation` what they became, or [`Translation::NONE`].
#[inline(always)]
pub fn tell(headers: &Headers, translation: &Translation, told: Told) {
    let decided = u64::from(told.reason) << 16 | (told.verdict as u64) << 8 | told.hook as u64;
    let place = u64::from(told.length) << 32 | u64::from(told.ifindex);
    // SAFETY: all pointers are valid.
    unsafe { cw_tell(headers, translation, decided, place) };
}

/// Global function behind [`tell`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_tell(
    headers: *const Headers,
    translation: *const Translation,
    decided: u64,
    place: u64,
) -> u32 {
    if headers.is_null() || translation.is_null() {
        return 0;
    }
    // SAFETY: not null, and valid as `tell` passes them.
    let (headers, translation) = unsafe { (&*headers, &*translation) };
    let is_translated = *translation != Translation::NONE;
    let translation = if is_translated {
        *translation
    } else {
        Translation::none(headers)
    };
    let Some(mut record) = EVENTS.reserve(0) else {
        if let Some(lost) = EVENTS_LOST.get_ptr_mut(0) {
            // SAFETY: the map returned a valid element of this CPU.
            unsafe { *lost += 1 };
        }
        return 0;
    };
    record.write(Event {
        // SAFETY: takes no argument.
        time_ns: unsafe { bpf_ktime_get_ns() },
        source: headers.source,
        destination: headers.destination,
        translated_source: translation.source,
        translated_destination: translation.destination,
        source_port_be: headers.source_port_be,
        destination_port_be: headers.destination_port_be,
        translated_source_port_be: translation.source_port_be,
        translated_destination_port_be: translation.destination_port_be,
        service_id: translation.service_id,
        backend: translation.backend,
        reason: (decided >> 16) as u32,
        length: (place >> 32) as u32,
        ifindex: place as u32,
        protocol: headers.protocol,
        hook: decided as u8,
        verdict: (decided >> 8) as u8,
        tcp_flags: headers.flags,
    });
    record.submit(0);
    1
}

/// Changes the explanation of a dry run.
#[inline(always)]
pub fn explain(change: impl FnOnce(&mut Explanation)) {
    if let Some(explanation) = EXPLANATION.get_ptr_mut(0) {
        // SAFETY: the map returned a valid element; dry runs come one at a time.
        change(unsafe { &mut *explanation });
    }
}
