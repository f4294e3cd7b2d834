//! ICMP errors about translated packets: outside and inside, in both directions, so that path MTU discovery and "port
//! unreachable" work through a VIP.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_csum_diff};
use causeway_abi::{
    Address,
    conntrack::{DIRECTION_FORWARD, DIRECTION_REPLY, FlowKey},
};
use causeway_ebpf::{
    flow::{Translation, to_backend, to_client},
    parse::{Embedded, Headers, Version, parse_embedded},
};

use crate::{
    conntrack, rewrite,
    skb::{Refused, Skb},
};

/// What became of an ICMP error.
pub enum Errand {
    /// It is about no flow that is known; or it is no error.
    NotOurs,
    /// It was translated.
    Translated,
    /// The kernel refused to change it.
    Failed,
}

/// Translates an ICMP error about a packet of a known flow. `translation` gets its new addresses.
#[inline(always)]
pub fn translate(skb: Skb, headers: &Headers, translation: &mut Translation) -> Errand {
    if !headers.is_icmp_error() {
        return Errand::NotOurs;
    }
    rewritten(skb, headers, translation, false)
}

/// The same for an error of the node's own stack, as long as it goes to whom the stack addressed it to: its way is chosen.
#[inline(always)]
pub fn translate_own(skb: Skb, headers: &Headers, translation: &mut Translation) -> Errand {
    if !headers.is_icmp_error() {
        return Errand::NotOurs;
    }
    rewritten(skb, headers, translation, true)
}

#[inline(always)]
fn rewritten(skb: Skb, headers: &Headers, translation: &mut Translation, is_own: bool) -> Errand {
    // SAFETY: all pointers are valid.
    match unsafe { cw_icmp_error(skb.as_ptr(), headers, translation, is_own.into()) } {
        NOT_OURS => Errand::NotOurs,
        TRANSLATED if rewrite::apply(skb, headers, translation) => Errand::Translated,
        _ => Errand::Failed,
    }
}

const NOT_OURS: u32 = 0;
const TRANSLATED: u32 = 1;
const FAILED: u32 = 2;

/// Finds the flow and rewrites the quoted packet; the message's own addresses are left to the caller.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_icmp_error(
    skb: *mut __sk_buff,
    headers: *const Headers,
    translation: *mut Translation,
    is_own: u32,
) -> u32 {
    if headers.is_null() || translation.is_null() {
        return NOT_OURS;
    }
    // SAFETY: not null, and valid as `translate` passes them.
    let (headers, translation) = unsafe { (&*headers, &mut *translation) };
    let skb = Skb::new(skb);
    let Some(quoted) = parse_embedded(&skb, headers) else {
        return NOT_OURS;
    };
    // The quoted packet went the other way than the message comes.
    let mut key = FlowKey {
        source: quoted.destination,
        destination: quoted.source,
        source_port_be: quoted.destination_port_be,
        destination_port_be: quoted.source_port_be,
        protocol: quoted.protocol,
        direction: DIRECTION_REPLY,
        reserved: 0,
    };
    // First what a packet the other way would become. `end` is who speaks for the end of the flow that answers.
    let end;
    if let Some(flow) = conntrack::peek(&key) {
        // About a client's packet, as its backend saw it.
        *translation = to_client(flow);
        end = flow.backend_address;
    } else {
        key.direction = DIRECTION_FORWARD;
        let Some(flow) = conntrack::peek(&key) else {
            return NOT_OURS;
        };
        // About a backend's answer, as its client saw it.
        *translation = to_backend(flow);
        end = flow.client;
    }
    if is_own != 0 && translation.destination != headers.destination {
        *translation = Translation::none(headers);
        return NOT_OURS;
    }
    if rewrite_quoted(skb, headers, &quoted, translation).is_err() {
        return FAILED;
    }
    if headers.source != end {
        // Routers on the way speak for themselves.
        translation.source = headers.source;
    }
    translation.source_port_be = 0;
    translation.destination_port_be = 0;
    TRANSLATED
}

/// Gives the quoted packet the ends it was sent with, which are those that a packet the other way gets. Its own transport
/// checksum, which nobody verifies and which is cut off more often than not, is left as it was.
#[inline(always)]
fn rewrite_quoted(skb: Skb, headers: &Headers, quoted: &Embedded, back: &Translation) -> Result<(), Refused> {
    let checksum = headers.l4 + 2;
    let ports = (back.destination_port_be, back.source_port_be);
    port(skb, checksum, quoted.l4, quoted.source_port_be, ports.0)?;
    port(skb, checksum, quoted.l4 + 2, quoted.destination_port_be, ports.1)?;
    let (source, destination) = match headers.version {
        Version::V4 => (quoted.l3 + 12, quoted.l3 + 16),
        Version::V6 => (quoted.l3 + 8, quoted.l3 + 24),
    };
    address(skb, headers, quoted, source, &quoted.source, &back.destination)?;
    address(skb, headers, quoted, destination, &quoted.destination, &back.source)
}

#[inline(always)]
fn port(skb: Skb, checksum: u32, offset: u32, old_be: u16, new_be: u16) -> Result<(), Refused> {
    if old_be == new_be {
        return Ok(());
    }
    skb.update_l4_checksum(checksum, old_be.into(), new_be.into(), 2)?;
    skb.write(offset, &new_be.to_ne_bytes(), 0)
}

#[inline(always)]
fn address(
    skb: Skb,
    headers: &Headers,
    quoted: &Embedded,
    offset: u32,
    old: &Address,
    new: &Address,
) -> Result<(), Refused> {
    if old == new {
        return Ok(());
    }
    match headers.version {
        Version::V4 => {
            let (Some(old), Some(new)) = (old.to_v4(), new.to_v4()) else {
                return Err(Refused);
            };
            // The message's checksum covers the quoted header with its checksum, whose change cancels the address's out.
            let (from, to) = (u64::from(u32::from_ne_bytes(old)), u64::from(u32::from_ne_bytes(new)));
            skb.update_l3_checksum(quoted.l3 + 10, from, to, 4)?;
            skb.write(offset, &new, 0)
        }
        Version::V6 => {
            let (mut from, mut to) = (old.words(), new.words());
            // SAFETY: both arrays are valid for the sizes given.
            let difference = unsafe { bpf_csum_diff(from.as_mut_ptr(), 16, to.as_mut_ptr(), 16, 0) };
            skb.update_l4_checksum(headers.l4 + 2, 0, difference as u64, 0)?;
            skb.write(offset, &new.bytes, 0)
        }
    }
}
