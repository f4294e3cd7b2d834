//! Pods as the node runs them: real holders, namespaces, cgroups and images. Needs root, a cgroup v2 tree and busybox-static.

mod confinement;
mod crashes;
mod images;
mod lifecycle;
mod limits;
mod removal;
mod support;
