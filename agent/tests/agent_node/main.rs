//! The agent's executable on a node of the test's own, with a real control plane, real containers and real BPF programs.
//!
//! Traffic and several nodes are the cluster suites' business; this is about one agent: what it makes, what it keeps over its
//! own death and the control plane's, and what it leaves behind.

mod capacity;
mod errors;
mod inspection;
mod outages;
mod pods;
mod support;
