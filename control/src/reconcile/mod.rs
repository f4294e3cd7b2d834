//! Reconcilers: each makes one kind of thing in the cluster be as it should be.
//!
//! Every one is a pure planner (what is observed and desired → what to do) and a thin executor, run by the one [`driver`]. A wake-up
//! says that something changed, never what; all of them also look again from time to time. They read the watch caches and write
//! through the [`Registry`](crate::api::Registry) like any client, and only in the process that leads.

pub mod allocations;
pub mod driver;
pub mod endpoints;
pub mod event_expiry;
pub mod events;
pub mod garbage;
mod live;
pub mod load_balancer;
pub mod namespace;
pub mod node_cidr;
pub mod node_lifecycle;
pub mod objects;
pub mod pod_cleanup;
pub mod pod_state;
pub mod replication;
mod run;

pub use events::EventRecorder;
pub use run::{ReconcileConfig, spawn_all};

/// Namespace of the leases that agents renew as heartbeats.
pub const NODE_LEASE_NAMESPACE: &str = "causeway-node-lease";
