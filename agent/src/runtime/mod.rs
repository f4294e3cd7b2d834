//! Pod sandboxes and their containers.
//!
//! A pod's namespaces, its containers' exit codes and their output are kept by a small process of its own, the *holder*
//! ([`holder`]: the agent's executable under another name), which outlives the agent. [`Runtime`] is the agent's side: it
//! makes sandboxes, talks to their holders, and removes every trace of them.
//!
//! Invariants: everything about a sandbox is on disk before it is made, so that a restarted agent finds it at whatever
//! instant it was interrupted; no mount is made in the node's own mount namespace.

mod client;
mod error;
mod files;
pub mod holder;
mod node;
mod qos;
mod remove;
mod sandbox;
mod spec;
mod state;
mod watch;

pub use self::{
    error::{RemoveError, RuntimeError},
    node::{Runtime, RuntimeConfig, Sandbox},
    qos::{Qos, oom_score_adj},
    spec::{ContainerSpec, ExecResult, ExecSpec, Mount, SandboxId, SandboxSpec, Security, UserSpec},
    state::{ContainerPhase, ContainerState, Exit, ExitReason, SandboxState},
};
