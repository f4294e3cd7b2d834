//! The control plane: gRPC API, store, watch cache, reconcilers and scheduler of one cluster.
//!
//! `store` alone knows keys, revisions and etcd; `cache` mirrors it per kind; `admission` holds the pure rules of objects;
//! `api` is the one door to objects. `reconcile` and `schedule` use only that door.

pub mod admission;
pub mod api;
pub mod cache;
pub mod cidr;
pub mod config;
pub mod metrics;
pub mod port_range;
pub mod process;
pub mod reconcile;
pub mod schedule;
pub mod store;
