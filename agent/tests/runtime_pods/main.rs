//! Pods as the node runs them: real holders, namespaces, cgroups and images. Needs root, a cgroup v2 tree and busybox-static.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test is the test's result")]

mod confinement;
mod crashes;
mod images;
mod lifecycle;
mod limits;
mod removal;
mod support;
