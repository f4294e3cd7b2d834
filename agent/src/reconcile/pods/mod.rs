//! Pods bound to this node: what should run, what runs, and the steps between.
//!
//! `model`, `plan`, `status`, `address`, `backoff` and `env` are pure: values in, values out. `record` is the node's own
//! memory of its pods.

pub mod address;
pub mod backoff;
pub mod env;
#[cfg(test)]
mod fixture;
pub mod model;
pub mod plan;
pub mod record;
pub mod status;
