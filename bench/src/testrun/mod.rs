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

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};

pub use bpf::Kind;
use bpf::Likeness;
pub use feeder::{Feeder, Ran};
pub use frame::{FRAME_BYTES, Frame, TCP_ACK, TCP_SYN};

/// Runs XDP on an interface of this thread's network namespace, which lets everything pass, for as long as the descriptor is open.
pub fn let_pass(ifindex: u32) -> Result<OwnedFd> {
    let program = bpf::load(Kind::Xdp, Likeness::XDP, &program::pass())?;
    bpf::attach_xdp(&program, ifindex).with_context(|| format!("cannot run XDP on interface {ifindex}"))
}
