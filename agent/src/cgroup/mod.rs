//! cgroups of pods and containers, on pure v2, v1 and hybrid machines.
//!
//! `plan` turns limits into settings (pure); [`layout`] finds out what is mounted where; [`tree`] makes, fills and removes
//! groups. Nothing outside the node's own subtree is written, except that controllers are enabled on the way to it (v2).
//!
//! Invariant: wherever the controllers are, every process of a pod is also in
//! `<v2>/<parent>/pod-<uid>/<container>`, because the data path's cgroup hooks are attached to the v2 tree.

pub mod layout;
mod plan;
pub mod tree;

pub use plan::{CPU_PERIOD_US, Resources, Settings, settings};
