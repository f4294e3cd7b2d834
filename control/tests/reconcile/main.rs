//! All reconcilers and the scheduler over a real registry and a real store, with agents that only pretend to run pods.

mod cluster;
mod controllers;
mod driver;
mod leadership;
mod nodes;
mod outage;
mod scheduling;
