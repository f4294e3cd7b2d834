//! Reconcilers: level-triggered loops, each a pure planner and an executor.

pub mod pods;
pub mod services;
