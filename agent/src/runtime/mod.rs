//! Pod sandboxes and their containers.
//!
//! A pod's namespaces, its containers' exit codes and their output are kept by a small process of its own, the *holder*
//! ([`holder`]: the agent's executable under another name), which outlives the agent. [`Runtime`] is the agent's side: it
//! makes sandboxes, talks to their holders, and removes every trace of them.
//!
//! Invariants: everything about a sandbox is on disk before it is made, so that a restarted agent finds it at whatever
//! instant it was interrupted; no mount is made in the node's own mount namespace.

mod error;
pub mod holder;
mod qos;
mod spec;
mod state;

use std::{path::PathBuf, time::Duration};

use tokio::sync::broadcast;

pub use self::{
    error::{RemoveError, RuntimeError},
    qos::{Qos, oom_score_adj},
    spec::{ContainerSpec, ExecResult, ExecSpec, Mount, SandboxId, SandboxSpec, Security, UserSpec},
    state::{ContainerPhase, ContainerState, Exit, ExitReason, SandboxState},
};

/// Parameters of a node's runtime.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// State directory of the node; sandboxes live in `pods/` below it.
    pub state_dir: PathBuf,
    /// Path of the node's cgroup below every hierarchy's root ("causeway/dev/node-1").
    pub cgroup_parent: String,
    /// Executable that becomes a pod's holder: the agent's own (`/proc/self/exe`), unless a test says otherwise.
    pub holder_exe: PathBuf,
    /// A log file is rotated at this size.
    pub log_max_bytes: u64,
    /// Log files kept per container, the current one included.
    pub log_max_files: u32,
}

/// A sandbox that exists and whose holder is alive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sandbox {
    /// Pod uid.
    pub id: SandboxId,
    /// Process id of the holder.
    pub holder: u32,
    /// Whether this call made it (its network is still to be set up) or it was there already.
    pub created: bool,
}

impl Sandbox {
    /// Path through which the pod's network namespace is entered; valid while the holder lives.
    pub fn netns_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder))
    }
}

/// The sandboxes of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
}

impl Runtime {
    /// Opens the runtime: makes its directories, clears what removals left half done, begins to follow every live sandbox.
    pub async fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        todo!()
    }

    /// Makes the sandbox of a pod: holder, namespaces, cgroups. One that exists is answered as it is (its files brought up to
    /// date); one whose holder has died gets a new holder, and its containers count as lost.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, RuntimeError> {
        todo!()
    }

    /// Every sandbox on this node, half-made and dead ones included.
    pub async fn sandboxes(&self) -> Result<Vec<SandboxState>, RuntimeError> {
        todo!()
    }

    /// One sandbox, if there is one.
    pub async fn sandbox(&self, id: &SandboxId) -> Result<Option<SandboxState>, RuntimeError> {
        todo!()
    }

    /// Starts a container and returns once its program is executed. Starting the same name and attempt again answers its
    /// state.
    ///
    /// # Errors
    /// [`RuntimeError::Start`] says what kept the program from being executed; the attempt is then on record as exited.
    pub async fn start_container(&self, id: &SandboxId, spec: ContainerSpec) -> Result<ContainerState, RuntimeError> {
        todo!()
    }

    /// Asks the container to end (SIGTERM), kills it after `grace`, and answers its state once it has ended. What goes on
    /// in the holder goes on when this future is dropped.
    pub async fn stop_container(
        &self,
        id: &SandboxId,
        name: &str,
        grace: Duration,
    ) -> Result<ContainerState, RuntimeError> {
        todo!()
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, id: &SandboxId, name: &str, signal: i32) -> Result<(), RuntimeError> {
        todo!()
    }

    /// Runs a command in a running container with the container's own user, privileges and limits.
    pub async fn exec(&self, id: &SandboxId, name: &str, spec: ExecSpec) -> Result<ExecResult, RuntimeError> {
        todo!()
    }

    /// Kills everything in the sandbox and removes its processes, cgroups and files. Goes on after an error and reports all
    /// of them; doing it again, or for a sandbox that never was, is fine.
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RemoveError> {
        todo!()
    }

    /// Told the id of a sandbox whenever something in it changed: a container began or ended, the holder died. A receiver that
    /// lags loses ids and must look at all.
    pub fn changes(&self) -> broadcast::Receiver<SandboxId> {
        todo!()
    }

    /// The log of a container, in the CRI format; rotated ones have `.1`, `.2`… appended.
    pub fn log_path(&self, id: &SandboxId, name: &str, attempt: u32) -> PathBuf {
        todo!()
    }
}
