//! User space's view of the BPF maps: typed handles on the pinned maps, and their contents in words.
//!
//! The agent writes through these handles; the command line reads through them with no agent running. Here live the only
//! `unsafe impl` of [`aya::Pod`] in the project ([`Plain`]), the memory-mapped arrays, the layout of the pins in bpffs,
//! and the `std::net` forms of the ABI's addresses. What the data path *should* hold is decided elsewhere.
//!
//! Invariant: pinned maps of another ABI version or shape are refused, never reinterpreted.

pub mod address;
mod advice;
pub mod bpffs;
pub mod dry_run;
mod error;
pub mod events;
pub mod link;
mod mmap;
mod pinned;
pub mod pins;
pub mod shape;
mod sys;
mod table;
mod trie;
mod value;
pub mod view;

pub use address::{AddressExt, Protocol};
pub use advice::{Advice, advice, advice_by_name, reason_by_name, reason_by_number};
pub use error::MapsError;
pub use mmap::{Flags, MappedArray};
pub use pinned::{PinnedMaps, SocketOrigins};
pub use table::{CounterArray, Element, PerCpuSum, Refused, Table};
pub use trie::{RouteTable, SourceRanges, Trie, TrieKey};
pub use value::{Data, Plain};
