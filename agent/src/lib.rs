//! The node agent: runs the pods bound to its node and keeps the node's data path in step with the cluster.
//!
//! `main.rs` is the entry point; every module here says at its head what lives in it. Dependencies point down this list:
//! `reconcile` plans with pure functions and applies through the modules below it, none of which knows the API server.
//!
//! Invariant: nothing in here is needed for a packet to be forwarded or for a container to go on running. The agent may be
//! killed at any instant.

pub mod api;
pub mod bpf;
pub mod caps;
pub mod cgroup;
pub mod config;
mod hash;
pub mod image;
pub mod metrics;
pub mod net;
pub mod probe;
pub mod reconcile;
pub mod runtime;
pub mod sockets;
pub mod start;
pub mod watch;
