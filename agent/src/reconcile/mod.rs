//! Reconcilers: level-triggered loops, each a pure planner and an executor.

pub mod datapath;
pub mod events;
pub mod host_ports;
pub mod listings;
pub mod node;
pub mod pods;
pub mod routes;
mod service_frontends;
pub mod service_health;
pub mod services;
pub mod services_driver;
pub mod services_index;
pub mod services_planner;
pub mod topology;
