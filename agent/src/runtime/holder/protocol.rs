//! What agent and holder say to each other: one JSON text per line, a request and then its reply; after `Watch` a `Changed`
//! whenever something changed.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::runtime::{
    spec::{ContainerSpec, ExecResult, ExecSpec, SandboxSpec},
    state::ContainerState,
};

/// What a holder is started with, in `holder.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HolderConfig {
    pub spec: SandboxSpec,
    /// Files to write `0` to, to move into the holder's own cgroup.
    pub procs: Vec<PathBuf>,
    pub log_max_bytes: u64,
    pub log_max_files: u32,
}

/// What a starting holder says on its standard output.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Greeting {
    /// It serves, under this process id.
    Ready(u32),
    /// It gives up.
    Failed(String),
}

/// A line from the agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// Answered with `Container` once its program is executed.
    Start(Box<Start>),
    /// To the first process of a running container; answered with `Done`.
    Signal { container: String, signal: i32 },
    /// SIGTERM, then SIGKILL; answered with `Container` once it has ended.
    Stop { container: String, grace: Duration },
    /// Answered with `Exec` once it has ended.
    Exec { container: String, spec: ExecSpec },
    /// Answered with `State`.
    State,
    /// Answered with `Changed` at once and then with every change.
    Watch,
    /// Kills everything, answers `Done` and ends.
    Shutdown,
}

/// A container to start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub spec: ContainerSpec,
    /// Files a process writes `0` to, to move into the container's cgroup.
    pub procs: Vec<PathBuf>,
    /// File that counts processes killed for memory.
    pub oom: Option<PathBuf>,
}

/// A line from the holder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    Container(Box<ContainerState>),
    Exec(ExecResult),
    State(Vec<ContainerState>),
    Done,
    Changed,
    NoContainer,
    NotRunning,
    /// A program could not be executed.
    StartFailed(String),
    /// Anything else.
    Refused(String),
}
