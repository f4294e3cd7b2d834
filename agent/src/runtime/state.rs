//! What the runtime reports: written to disk by the holder, read back by whoever asks.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::spec::{SandboxId, SandboxSpec};

/// A sandbox as found on disk and, when it is alive, as its holder tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SandboxState {
    /// Pod uid.
    pub id: SandboxId,
    /// What it was made from; `None` when its making was cut short before that was written: only good for removal.
    pub spec: Option<SandboxSpec>,
    /// The holder's process id while it lives. A sandbox whose holder is dead has no namespaces and no containers any more.
    pub holder: Option<u32>,
    /// Every attempt whose record is still kept, by name and attempt.
    pub containers: Vec<ContainerState>,
}

impl SandboxState {
    /// The latest attempt of the container called `name`.
    pub fn latest(&self, name: &str) -> Option<&ContainerState> {
        self.containers
            .iter()
            .filter(|container| container.name == name)
            .max_by_key(|container| container.attempt)
    }

    /// Path through which the pod's network namespace is entered, while the holder lives.
    pub fn netns_path(&self) -> Option<PathBuf> {
        self.holder.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")))
    }
}

/// One attempt of one container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContainerState {
    /// Container name.
    pub name: String,
    /// Restarts before this one.
    pub attempt: u32,
    /// Image as the user wrote it.
    pub image: String,
    /// Digest of the image's configuration.
    pub image_id: String,
    /// Where it is in its life.
    pub phase: ContainerPhase,
}

impl ContainerState {
    /// Identifier for people and for the API: `causeway://<pod uid>/<name>/<attempt>`.
    pub fn id(&self, sandbox: &SandboxId) -> String {
        format!("causeway://{sandbox}/{}/{}", self.name, self.attempt)
    }

    /// Whether it runs.
    pub fn running(&self) -> bool {
        matches!(self.phase, ContainerPhase::Running { .. })
    }

    /// How it ended, once it has.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.phase {
            ContainerPhase::Exited(exit) => Some(exit),
            ContainerPhase::Starting | ContainerPhase::Running { .. } => None,
        }
    }
}

/// Where a container is in its life.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase")]
pub enum ContainerPhase {
    /// Being set up; its program does not run yet.
    Starting,
    /// Its program runs.
    Running {
        /// Process id as the node sees it.
        pid: u32,
        /// When its program was executed.
        started_at: SystemTime,
    },
    /// It ended, or never began.
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when killed; 128 when it could not be started; 137 when nobody saw it end.
    pub exit_code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// Why, in a word.
    pub reason: ExitReason,
    /// For people; empty when there is nothing to add.
    pub message: String,
    /// When its program was executed, or when the start was tried.
    pub started_at: SystemTime,
    /// When it ended.
    pub finished_at: SystemTime,
}

impl Exit {
    /// How long it ran.
    pub fn ran(&self) -> Duration {
        self.finished_at.duration_since(self.started_at).unwrap_or_default()
    }
}

/// Why a container ended, in the words Kubernetes' container status uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Another exit code, or a signal.
    Error,
    /// The kernel killed a process of it for memory.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// Its program could not be executed.
    StartError,
    /// Its holder died with it (or the machine was restarted): nobody saw how it ended.
    ContainerStatusUnknown,
}

impl ExitReason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::ContainerStatusUnknown => "ContainerStatusUnknown",
        }
    }
}
