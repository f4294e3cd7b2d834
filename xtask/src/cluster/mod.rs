//! Clusters on one machine: every node a network namespace, a cgroup subtree, a bpffs directory, a state directory.
//!
//! [`Spec`] names and numbers everything, [`Cluster`] is a running one, [`remove::run`] removes one by its name alone,
//! whoever made it and however that ended.

pub mod example;
mod host;
mod process;
pub mod remove;
mod running;
mod spec;
pub mod stale;
mod topology;
pub mod traffic;
pub mod up;

pub use host::{cgroup_roots, cgroup2};
pub use process::{Exited, Process};
pub use running::{Claimed, Cluster, is_ready};
pub use spec::{DEV, IpFamilies, Routing, Spec, Store};
