//! What the runtime is asked to run. Plain values, also written to disk, so that a restarted agent finds them.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{cgroup::Resources, image::Rootfs};

/// A sandbox is named by the uid of its pod.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SandboxId(pub String);

impl std::fmt::Display for SandboxId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for SandboxId {
    fn from(uid: &str) -> Self {
        Self(uid.to_owned())
    }
}

/// A pod's shared part: namespaces, files, and what bounds all its containers together.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Pod uid: names the sandbox. Letters, digits, `-`, `_` and `.` only.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Host name in the UTS namespace and in `/etc/hostname`; at most 64 bytes.
    pub hostname: String,
    /// Pod addresses, written to `/etc/hosts` beside the host name.
    pub addresses: Vec<IpAddr>,
    /// The pod uses the network of the node, in whose network namespace its holder is started, instead of one of its own.
    #[serde(default)]
    pub host_network: bool,
    /// Text of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Bounds of the whole pod's cgroup.
    pub resources: Resources,
}

impl SandboxSpec {
    /// The sandbox's id.
    pub fn id(&self) -> SandboxId {
        SandboxId(self.uid.clone())
    }
}

/// One attempt at running one container.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Container name, unique in its pod (a DNS label).
    pub name: String,
    /// Counts restarts from 0. `(name, attempt)` names a container; starting one again is answered with its state.
    pub attempt: u32,
    /// Image as the user wrote it, for messages.
    pub image: String,
    /// Digest of the image's configuration.
    pub image_id: String,
    /// Unpacked layers, from [`crate::image::ImageStore::resolve`].
    pub rootfs: Rootfs,
    /// Program and arguments; a program without `/` is looked up in the container's `PATH`.
    pub argv: Vec<String>,
    /// Environment, complete and in order. `PATH` and `HOME` get defaults when absent.
    pub env: Vec<(String, String)>,
    /// Working directory, made when absent; empty for `/`.
    pub cwd: String,
    /// Whom it runs as.
    pub user: UserSpec,
    /// Privileges.
    pub security: Security,
    /// Bounds of its cgroup.
    pub resources: Resources,
    /// `oom_score_adj` of its processes, see [`crate::runtime::oom_score_adj`].
    pub oom_score_adj: i32,
    /// Host files and directories to be seen inside.
    pub mounts: Vec<Mount>,
}

/// User and group of a container's process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UserSpec {
    /// The image's `User`: `user`, `uid`, `user:group`…, names resolved in the root's `/etc/passwd` and `/etc/group`.
    pub image: String,
    /// Overrides the image's user.
    pub run_as_user: Option<u32>,
    /// Overrides the group.
    pub run_as_group: Option<u32>,
}

/// Privileges of a container.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Security {
    /// All capabilities, all devices, no seccomp filter, nothing masked, writable `/sys` and `/proc/sys`.
    pub privileged: bool,
    /// The root file system is mounted read-only.
    pub read_only_root: bool,
    /// Whether set-uid programs and file capabilities may add privileges. Off (`no_new_privs` set) unless a pod asks for it
    /// with an explicit `true`: safer than Kubernetes, where absent means allowed.
    pub allow_privilege_escalation: bool,
    /// Capabilities beyond the default set, with or without `CAP_`; `ALL` for all.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken from the default set; `ALL` for all. What is also added stays.
    pub drop_capabilities: Vec<String>,
}

/// A bind mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Path on the node.
    pub source: PathBuf,
    /// Absolute path in the container; made when absent.
    pub destination: PathBuf,
    /// Whether the container may only read.
    pub read_only: bool,
}

/// A command run in a running container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// After this long it is killed; `None` for no bound.
    pub timeout: Option<Duration>,
    /// Bytes kept of each of standard output and standard error; what exceeds it is read and dropped.
    pub output_limit_bytes: usize,
}

/// How a command in a container ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExecResult {
    /// Exit code, or 128 + signal.
    pub exit_code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// Standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// The time limit passed and it was killed.
    pub timed_out: bool,
}
