//! Writing a translation into a packet.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::bpf_csum_diff,
};
use causeway_abi::Address;
use causeway_ebpf::{
    flow::{Endpoint, Translation},
    parse::{Headers, L3, Version, protocol},
};

use crate::skb::{Refused, Skb};

/// Offsets of an endpoint's fields, and how to keep the transport checksum.
struct Fields {
    address: u32,
    port: u32,
    checksum: Option<(u32, u64)>,
}

/// Gives a packet its new source and destination. Addresses and ports that stay are not touched.
#[inline(always)]
pub fn apply(skb: &Skb, headers: &Headers, to: &Translation) -> Result<(), Refused> {
    let checksum = checksum_field(headers);
    let (source, destination) = match headers.version {
        Version::V4 => (L3 + 12, L3 + 16),
        Version::V6 => (L3 + 8, L3 + 24),
    };
    let old = Endpoint { address: headers.source, port_be: headers.source_port_be };
    replace(skb, headers, &Fields { address: source, port: headers.l4, checksum }, &old, &to.source)?;
    let old = Endpoint { address: headers.destination, port_be: headers.destination_port_be };
    replace(skb, headers, &Fields { address: destination, port: headers.l4 + 2, checksum }, &old, &to.destination)
}

#[inline(always)]
fn replace(skb: &Skb, headers: &Headers, fields: &Fields, old: &Endpoint, new: &Endpoint) -> Result<(), Refused> {
    if old.address != new.address {
        match headers.version {
            Version::V4 => address_v4(skb, fields, &old.address, &new.address)?,
            Version::V6 => address_v6(skb, fields, &old.address, &new.address)?,
        }
    }
    if old.port_be != new.port_be && headers.has_ports() {
        if let Some((offset, flags)) = fields.checksum {
            skb.update_l4_checksum(offset, old.port_be.into(), new.port_be.into(), 2 | flags)?;
        }
        skb.write(fields.port, &new.port_be.to_ne_bytes(), 0)?;
    }
    Ok(())
}

#[inline(always)]
fn address_v4(skb: &Skb, fields: &Fields, old: &Address, new: &Address) -> Result<(), Refused> {
    let (Some(old), Some(new)) = (old.to_v4(), new.to_v4()) else { return Err(Refused) };
    let (from, to) = (u64::from(u32::from_ne_bytes(old)), u64::from(u32::from_ne_bytes(new)));
    skb.update_l3_checksum(L3 + 10, from, to, 4)?;
    if let Some((offset, flags)) = fields.checksum {
        skb.update_l4_checksum(offset, from, to, 4 | u64::from(BPF_F_PSEUDO_HDR) | flags)?;
    }
    skb.write(fields.address, &new, 0)
}

#[inline(always)]
fn address_v6(skb: &Skb, fields: &Fields, old: &Address, new: &Address) -> Result<(), Refused> {
    if let Some((offset, flags)) = fields.checksum {
        let (mut from, mut to) = (old.words(), new.words());
        // SAFETY: both arrays are valid for the sizes given.
        let difference = unsafe { bpf_csum_diff(from.as_mut_ptr(), 16, to.as_mut_ptr(), 16, 0) };
        skb.update_l4_checksum(offset, 0, difference as u64, u64::from(BPF_F_PSEUDO_HDR) | flags)?;
    }
    // IPv6 has no header checksum to cancel the change out, so a checksum of the whole packet that hardware computed
    // (CHECKSUM_COMPLETE) has to follow it.
    skb.write(fields.address, &new.0, BPF_F_RECOMPUTE_CSUM.into())
}

/// Offset of the transport checksum and the flags for updating it; `None` where there is none.
#[inline(always)]
fn checksum_field(headers: &Headers) -> Option<(u32, u64)> {
    if !headers.has_ports() {
        return None;
    }
    match headers.protocol {
        protocol::TCP => Some((headers.l4 + 16, 0)),
        // A UDP checksum of zero means "none" and stays; a sum of zero is written as ones.
        protocol::UDP => Some((headers.l4 + 6, BPF_F_MARK_MANGLED_0.into())),
        _ => None,
    }
}
