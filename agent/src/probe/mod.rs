//! Probes of running containers: startup, liveness, readiness.
//!
//! [`state`] decides (pure), [`run`] looks (HTTP, TCP, exec, gRPC), [`Prober`] does both over time and hands every result
//! to a callback the moment it is there. Nothing in here knows what a verdict leads to.

mod prober;
pub mod run;
mod spec;
pub mod state;

pub use prober::{ExecRunner, Prober};
pub use spec::{ContainerProbes, ProbeAction, ProbeEvent, ProbeKind, ProbeSpec, Verdict};
