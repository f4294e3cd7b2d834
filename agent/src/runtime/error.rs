//! What can go wrong with sandboxes and containers.

use std::{io, path::PathBuf};

use super::spec::SandboxId;

/// A sandbox or container operation failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A file or directory could not be used.
    #[error("cannot {action} {path}", path = path.display())]
    File {
        /// What was tried ("read", "write").
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A spec breaks a rule.
    #[error("sandbox {id}: {problem}")]
    Invalid {
        /// Sandbox.
        id: SandboxId,
        /// Which rule.
        problem: String,
    },
    /// There is no such sandbox, or its holder is dead.
    #[error("sandbox {0} is not running")]
    NoSandbox(SandboxId),
    /// There is no such container.
    #[error("sandbox {id} has no container \"{container}\"")]
    NoContainer {
        /// Sandbox.
        id: SandboxId,
        /// Container.
        container: String,
    },
    /// The container does not run.
    #[error("container \"{container}\" of sandbox {id} is not running")]
    NotRunning {
        /// Sandbox.
        id: SandboxId,
        /// Container.
        container: String,
    },
    /// The holder did not come up.
    #[error("sandbox {id}: holder did not start: {problem}")]
    Holder {
        /// Sandbox.
        id: SandboxId,
        /// What it said.
        problem: String,
    },
    /// A container's program, or a command in it, could not be executed.
    #[error("{problem}")]
    Start {
        /// What failed, with the image's name.
        problem: String,
    },
    /// The conversation with the holder broke off.
    #[error("cannot talk to the holder of sandbox {id}")]
    Talk {
        /// Sandbox.
        id: SandboxId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The holder refused.
    #[error("holder of sandbox {id}: {problem}")]
    Refused {
        /// Sandbox.
        id: SandboxId,
        /// What it said.
        problem: String,
    },
    /// The state directory's path cannot be used in mount options.
    #[error("state directory {} has a \":\", \",\" or \"\\\" in its path", .0.display())]
    StateDir(PathBuf),
    /// The machine's cgroups cannot be used.
    #[error(transparent)]
    Layout(#[from] crate::cgroup::layout::LayoutError),
    /// The node's cgroups could not be made.
    #[error("cannot make the node's cgroups")]
    NodeCgroup(#[source] Box<crate::cgroup::tree::CgroupError>),
    /// The agent is ending.
    #[error("interrupted")]
    Cancelled,
    /// cgroups could not be made or set.
    #[error("sandbox {id}: cannot set up its cgroups")]
    Cgroup {
        /// Sandbox.
        id: SandboxId,
        /// Why.
        #[source]
        source: Box<crate::cgroup::tree::CgroupError>,
    },
}

/// Some of a sandbox could not be removed; the rest is gone.
#[derive(Debug, thiserror::Error)]
#[error("sandbox {id} is not wholly removed: {}", failures.join("; "))]
pub struct RemoveError {
    /// Sandbox.
    pub id: SandboxId,
    /// Every failure, with its causes.
    pub failures: Vec<String>,
}
