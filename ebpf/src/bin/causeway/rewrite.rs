//! Writing a translation into a packet.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::bpf_csum_diff,
};
use causeway_abi::Address;
use causeway_ebpf::{
    flow::Translation,
    parse::{Fragment, Headers, L3, Version, protocol},
};

use crate::skb::{Refused, Skb};

/// Where an address or a port is, and how to keep the transport checksum.
#[derive(Clone, Copy)]
struct Field {
    offset: u32,
    checksum: Option<(u32, u64)>,
}

/// Gives a packet its new source and destination; false when the kernel refuses. Addresses and ports that stay are not
/// touched.
#[inline(always)]
pub fn apply(skb: Skb, headers: &Headers, to: &Translation) -> bool {
    // SAFETY: all pointers are valid.
    unsafe { cw_rewrite(skb.as_ptr(), headers, to) == 0 }
}

/// Global function behind [`apply`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_rewrite(skb: *mut __sk_buff, headers: *const Headers, to: *const Translation) -> u32 {
    if headers.is_null() || to.is_null() {
        return 1;
    }
    // SAFETY: not null, and valid as `apply` passes them.
    let (headers, to) = unsafe { (&*headers, &*to) };
    u32::from(both(Skb::new(skb), headers, to).is_err())
}

#[inline(always)]
fn both(skb: Skb, headers: &Headers, to: &Translation) -> Result<(), Refused> {
    let checksum = checksum_field(headers);
    let (source, destination) = match headers.version {
        Version::V4 => (L3 + 12, L3 + 16),
        Version::V6 => (L3 + 8, L3 + 24),
    };
    if headers.source != to.source {
        address(
            skb,
            headers,
            Field {
                offset: source,
                checksum,
            },
            &headers.source,
            &to.source,
        )?;
    }
    if headers.destination != to.destination {
        let field = Field {
            offset: destination,
            checksum,
        };
        address(skb, headers, field, &headers.destination, &to.destination)?;
    }
    if headers.has_ports() {
        let field = Field {
            offset: headers.l4,
            checksum,
        };
        port(skb, field, headers.source_port_be, to.source_port_be)?;
        let field = Field {
            offset: headers.l4 + 2,
            checksum,
        };
        port(skb, field, headers.destination_port_be, to.destination_port_be)?;
    } else if headers.is_echo() {
        // RFC 792, RFC 4443: the identifier follows type, code and checksum.
        let field = Field {
            offset: headers.l4 + 4,
            checksum: Some((headers.l4 + 2, 0)),
        };
        if headers.is_echo_request() {
            port(skb, field, headers.source_port_be, to.source_port_be)?;
        } else {
            port(skb, field, headers.destination_port_be, to.destination_port_be)?;
        }
    }
    Ok(())
}

#[inline(always)]
fn port(skb: Skb, field: Field, old_be: u16, new_be: u16) -> Result<(), Refused> {
    if old_be == new_be {
        return Ok(());
    }
    if let Some((offset, flags)) = field.checksum {
        skb.update_l4_checksum(offset, old_be.into(), new_be.into(), 2 | flags)?;
    }
    skb.write(field.offset, &new_be.to_ne_bytes(), 0)
}

#[inline(always)]
fn address(skb: Skb, headers: &Headers, field: Field, old: &Address, new: &Address) -> Result<(), Refused> {
    match headers.version {
        Version::V4 => address_v4(skb, field, old, new),
        Version::V6 => address_v6(skb, field, old, new),
    }
}

#[inline(always)]
fn address_v4(skb: Skb, field: Field, old: &Address, new: &Address) -> Result<(), Refused> {
    let (Some(old), Some(new)) = (old.to_v4(), new.to_v4()) else {
        return Err(Refused);
    };
    let (from, to) = (u64::from(u32::from_ne_bytes(old)), u64::from(u32::from_ne_bytes(new)));
    skb.update_l3_checksum(L3 + 10, from, to, 4)?;
    if let Some((offset, flags)) = field.checksum {
        skb.update_l4_checksum(offset, from, to, 4 | u64::from(BPF_F_PSEUDO_HDR) | flags)?;
    }
    skb.write(field.offset, &new, 0)
}

#[inline(always)]
fn address_v6(skb: Skb, field: Field, old: &Address, new: &Address) -> Result<(), Refused> {
    if let Some((offset, flags)) = field.checksum {
        let (mut from, mut to) = (old.words(), new.words());
        // SAFETY: both arrays are valid for the sizes given.
        let difference = unsafe { bpf_csum_diff(from.as_mut_ptr(), 16, to.as_mut_ptr(), 16, 0) };
        skb.update_l4_checksum(offset, 0, difference as u64, u64::from(BPF_F_PSEUDO_HDR) | flags)?;
    }
    // IPv6 has no header checksum to cancel the change out, so a checksum of the whole packet that hardware computed
    // (CHECKSUM_COMPLETE) has to follow it.
    skb.write(field.offset, &new.bytes, BPF_F_RECOMPUTE_CSUM.into())
}

/// Offset of the transport checksum and the flags for updating it; `None` where there is none.
#[inline(always)]
fn checksum_field(headers: &Headers) -> Option<(u32, u64)> {
    if matches!(headers.fragment, Fragment::Later) {
        return None;
    }
    match headers.protocol {
        protocol::TCP => Some((headers.l4 + 16, 0)),
        // A UDP checksum of zero means "none" and stays; a sum of zero is written as ones.
        protocol::UDP => Some((headers.l4 + 6, BPF_F_MARK_MANGLED_0.into())),
        // Unlike that of ICMP, the checksum of ICMPv6 covers the addresses (RFC 4443, 2.3).
        protocol::ICMPV6 => Some((headers.l4 + 2, 0)),
        _ => None,
    }
}
