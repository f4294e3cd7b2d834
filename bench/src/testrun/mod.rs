//! Nanoseconds of a BPF program for one packet, by `BPF_PROG_TEST_RUN`.
//!
//! The kernel does not restore the packet between the repetitions of a run, so a program that rewrites its packet would see its
//! own output. A small program of ours, the [`Feeder`], stands before the measured one: it writes the next of many prepared
//! frames over the packet and jumps to the measured program by a tail call. What the feeder itself takes is measured in the same
//! run with an empty program in the place of the measured one, and subtracted.

mod bpf;
mod feeder;
mod frame;
mod program;

pub use bpf::Kind;
pub use feeder::{Feeder, Ran};
pub use frame::{FRAME_BYTES, Frame, TCP_ACK, TCP_SYN};
