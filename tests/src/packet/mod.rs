//! Packets in, packets out: the real BPF programs, run one packet at a time with `BPF_PROG_TEST_RUN`.
//!
//! [`craft`] makes frames, [`decode`] reads them back, and [`datapath`] owns a copy of the programs and maps. None of them
//! shares code with the programs beyond the layout of the maps, so that a mistake is not made twice.

pub mod craft;
pub mod datapath;
pub mod decode;
pub mod sockets;
pub mod xdp;

pub use craft::{Frame, internet_checksum, one_hop_later, transport_checksum, with_hops};
pub(crate) use datapath::OBJECT;
pub use datapath::{
    CLIENT_IFINDEX, CONNECTED_SOCKETS, Datapath, HELD, Outcome, ServiceOptions, TUNNEL_IFINDEX, Verdict,
};
pub use decode::{Decoded, decode};
pub use sockets::{with_socket_hooks, with_socket_hooks_of};
pub use xdp::Action;

/// TCP flags.
pub mod tcp {
    /// Finish.
    pub const FIN: u8 = 0x01;
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Acknowledge.
    pub const ACK: u8 = 0x10;
}
