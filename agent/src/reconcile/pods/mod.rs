//! Pods bound to this node: what should run, what runs, and the steps between.
//!
//! `model`, `plan`, `status`, `spec`, `env`, `address` and `backoff` are pure: values in, values out. `record` is the node's
//! own memory of its pods. The `manager` keeps a `worker` for every pod; a worker looks, plans, and carries out the plan
//! (`execute`) on a `machine`. `gate` takes probe verdicts to the data path, `writer` takes the status to the API server.
//!
//! Invariants: two things never happen to one pod at once; what a record says is on disk before it is done; a pod is ended
//! only because the API server said so, never because it was silent.

pub mod address;
pub mod adopt;
pub mod backoff;
pub mod context;
pub mod env;
mod execute;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fixture;
pub mod gate;
pub mod inbox;
pub mod machine;
pub mod manager;
pub mod model;
pub mod node_machine;
pub mod plan;
pub mod record;
pub mod spec;
pub mod status;
pub mod worker;
mod writer;

pub use execute::chain;
