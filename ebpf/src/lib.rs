//! Pure packet logic: no maps, no helpers, no aya. Compiled into the BPF object and, unchanged, tested on the host.
//!
//! Everything here takes values or a [`packet::Packet`] and returns values. Offsets count from the Ethernet header.
//! Invariant: nothing panics, whatever the packet holds, because a BPF program has nowhere to panic to.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "the verifier sees through inlined code; calls cost stack and registers"
)]

#[cfg(test)]
extern crate std;

pub mod budget;
pub mod csum;
pub mod direct;
pub mod flow;
pub mod hops;
pub mod packet;
pub mod parse;
pub mod plain;
pub mod plain6;
pub mod refuse;
pub mod select;
