//! What the planner and the status computation know of one pod: values only, no handles.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use causeway_proto::v1::{Container, Pod, PodSpec};
use serde::{Deserialize, Serialize};

use super::backoff::{Backoff, Policy};
use crate::runtime::Exit;

/// Exit code 0.
pub fn succeeded(exit: &Exit) -> bool {
    exit.exit_code == 0
}

/// Where a container's present run stands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Run {
    /// Not started since its sandbox was made.
    #[default]
    Never,
    /// Alive.
    Running {
        /// Beginning of the run.
        started_at: SystemTime,
    },
    /// Ended.
    Exited(Exit),
}

/// Why something is not going on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// `CamelCase` word for machines (`ErrImagePull`).
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What the probes say of a running container. Without a probe of a kind the verdict is the favourable one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Start-up is over.
    pub started: bool,
    /// Takes traffic.
    pub ready: bool,
    /// Liveness or start-up probe gave up: the container has to be restarted.
    pub unhealthy: Option<String>,
}

impl Default for Verdict {
    fn default() -> Self {
        Self {
            started: true,
            ready: true,
            unhealthy: None,
        }
    }
}

/// A stop that has begun: SIGTERM was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopping {
    /// When SIGTERM was sent.
    pub since: SystemTime,
    /// SIGKILL was sent too.
    pub killed: bool,
}

/// One container as the node sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct ContainerView<'a> {
    /// From the manifest.
    pub spec: &'a Container,
    /// The present run.
    pub run: Run,
    /// How the run before that one ended.
    pub last_exit: Option<Exit>,
    /// Starts after the first.
    pub restart_count: u32,
    /// Crashes in a row.
    pub crashes: Backoff,
    /// Failed attempts to start it, in a row, and why the last failed.
    pub start_failures: Backoff,
    /// See `start_failures`.
    pub trouble: Option<Trouble>,
    /// Probe results.
    pub verdict: Verdict,
    /// A stop in progress.
    pub stopping: Option<Stopping>,
    /// Digest of the image it runs; may be empty.
    pub image_id: String,
    /// Identity of the present or last run; may be empty.
    pub container_id: String,
}

impl ContainerView<'_> {
    /// The end of the present run, when it has ended.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.run {
            Run::Exited(exit) => Some(exit),
            Run::Never | Run::Running { .. } => None,
        }
    }

    /// Whether it is alive.
    pub fn is_running(&self) -> bool {
        matches!(self.run, Run::Running { .. })
    }

    /// Whether it takes traffic.
    pub fn is_ready(&self) -> bool {
        self.is_running() && self.verdict.started && self.verdict.ready
    }
}

/// State of the pod's holder process and namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sandbox {
    /// None was made, or it was removed.
    Absent,
    /// The holder answers.
    Alive,
    /// Remains without a living holder.
    Broken,
}

/// The pod's end has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Termination {
    /// When this node began it.
    pub since: SystemTime,
    /// Time from `since` to SIGKILL.
    pub grace: Duration,
    /// Its backends are marked TERMINATING.
    pub marked: bool,
    /// Endpoints at the control plane, by which other nodes go, do not know yet that it ends.
    pub listed: bool,
    /// The API server still has the object and waits for the node to delete it.
    pub confirm: bool,
}

/// One pod as the node sees it.
#[derive(Clone, Debug)]
pub struct PodView<'a> {
    /// From the API server, or from the record on disk.
    pub pod: &'a Pod,
    /// Allocated addresses, the primary one first.
    pub addresses: &'a [IpAddr],
    /// Addresses of the node, the primary one first.
    pub host_ips: &'a [IpAddr],
    /// When this node first saw the pod.
    pub start_time: SystemTime,
    /// Holder and namespaces.
    pub sandbox: Sandbox,
    /// The pod network is set up, in the sandbox and in the data path.
    pub attached: bool,
    /// Failed attempts to make sandbox or network, in a row.
    pub sandbox_failures: Backoff,
    /// Why the last one failed.
    pub trouble: Option<Trouble>,
    /// Set once the pod has to go.
    pub termination: Option<Termination>,
    /// In the manifest's order.
    pub init: Vec<ContainerView<'a>>,
    /// In the manifest's order.
    pub containers: Vec<ContainerView<'a>>,
}

/// Phase of a pod that will not run again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finished {
    /// Every container ended well.
    Succeeded,
    /// At least one did not.
    Failed,
}

/// When containers are restarted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestartPolicy {
    /// After every exit.
    Always,
    /// After an exit code other than 0.
    OnFailure,
    /// Never.
    Never,
}

impl RestartPolicy {
    /// The pod's policy; anything unknown (the API server lets none through) counts as Always.
    pub fn of(spec: &PodSpec) -> Self {
        match spec.restart_policy.as_str() {
            "OnFailure" => Self::OnFailure,
            "Never" => Self::Never,
            _ => Self::Always,
        }
    }

    /// The policy for one container of the pod: an init container that has succeeded is done even in a pod that is always
    /// restarted.
    pub fn of_container(pod: &Pod, init: bool) -> Self {
        match (pod.spec.as_ref().map_or(Self::Always, Self::of), init) {
            (Self::Always, true) => Self::OnFailure,
            (policy, _) => policy,
        }
    }

    /// Whether a container that ended so is started again.
    pub fn restarts(self, exit: &Exit) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => !succeeded(exit),
            Self::Never => false,
        }
    }
}

impl PodView<'_> {
    /// The pod's restart policy.
    pub fn restart_policy(&self) -> RestartPolicy {
        self.pod.spec.as_ref().map_or(RestartPolicy::Always, RestartPolicy::of)
    }

    /// All containers, those for initialisation first.
    pub fn all_containers(&self) -> impl Iterator<Item = &ContainerView<'_>> {
        self.init.iter().chain(&self.containers)
    }

    /// Whether every init container has done its work.
    pub fn initialized(&self) -> bool {
        self.init
            .iter()
            .all(|container| container.exit().is_some_and(succeeded))
    }

    /// Whether and how the pod has ended for good.
    pub fn finished(&self) -> Option<Finished> {
        let policy = self.restart_policy();
        let init_failed = |container: &ContainerView<'_>| {
            container.exit().is_some_and(|exit| !succeeded(exit)) && policy == RestartPolicy::Never
        };
        if self.init.iter().any(init_failed) {
            return Some(Finished::Failed);
        }
        let ended = |container: &ContainerView<'_>| container.exit().is_some_and(|exit| !policy.restarts(exit));
        if !self.initialized() || !self.containers.iter().all(ended) {
            return None;
        }
        let well = self
            .containers
            .iter()
            .all(|container| container.exit().is_some_and(succeeded));
        Some(if well { Finished::Succeeded } else { Finished::Failed })
    }
}

/// Delays the planner keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delays {
    /// Between a crash and the next start of a container.
    pub restart: Policy,
    /// Between attempts to start a container or to make a sandbox.
    pub retry: Policy,
    /// Between taking a pod out of the data path and SIGTERM, so that other nodes stop sending first.
    pub drain: Duration,
    /// The same at most, while a list at the control plane still sends new connections to the pod.
    pub drain_limit: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            restart: Policy::default(),
            retry: Policy {
                base: Duration::from_secs(1),
                max: Duration::from_secs(15),
                reset_after: Duration::MAX,
            },
            drain: Duration::from_millis(500),
            drain_limit: Duration::from_secs(5),
        }
    }
}
