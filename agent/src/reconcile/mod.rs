//! Reconcilers: level-triggered loops, each a pure planner and an executor.

pub mod datapath;
pub mod events;
pub mod host_ports;
pub mod node;
pub mod pods;
pub mod routes;
mod service_frontends;
pub mod service_health;
pub mod services;
pub mod topology;
