//! Harness of the integration tests: what a suite needs to make a piece of a machine, and to be sure it is gone after.
//!
//! Everything made here is owned by a value whose `Drop` removes it, also when a test panics. Waiting is for predicates,
//! with a bound: see [`wait`]. A test that cannot run where it must (no root, no BPF) fails; nothing here skips.

pub mod cluster;
pub mod netns;
pub mod packet;
pub mod wait;
