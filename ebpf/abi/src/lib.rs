//! Keys and values of every BPF map, shared by the BPF programs and user space.
//!
//! No features, no `std`, no aya. Every type is `repr(C)` without implicit padding (zerocopy's derives refuse it) and has
//! a `const` size assertion. Fields named `*_be` hold network byte order; everything else is host order. A change of any
//! layout or meaning moves [`ABI_VERSION`].
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "BPF programs call these, and calls cost them stack and registers"
)]

pub mod address;
pub mod affinity;
pub mod backend;
pub mod conntrack;
pub mod counter;
pub mod direct;
pub mod drop;
pub mod event;
pub mod fragment;
pub mod icmp;
pub mod node;
pub mod pod;
pub mod route;
pub mod service;

pub use address::Address;
pub use drop::DropReason;

/// Version of all layouts here. Pinned maps of another version are refused by the agent, never reinterpreted.
pub const ABI_VERSION: u32 = 5;
