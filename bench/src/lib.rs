//! Benchmarks of virtual-IP balancing: Causeway's data path beside iptables, nftables and no balancing at all.
//!
//! Each way of balancing (a [`mode::Mode`]) gets a node of its own in network namespaces ([`site`]), with the same pods, the
//! same client and the same servers ([`worker`]); [`rules`] writes what kube-proxy would, [`program`] brings it into the
//! kernel, [`run`] measures in interleaved rounds, [`report`] shows.
//!
//! Invariants: a number is reported only when every request was answered by a right backend and counters prove the path it
//! took; rules, programs and pins live in namespaces, cgroups and directories made here, and go with the process.

#![expect(
    clippy::cast_precision_loss,
    reason = "counts and nanoseconds become shares and ratios; all are far below 2^52"
)]

pub mod clock;
pub mod datapath;
pub mod mode;
pub mod options;
pub mod program;
pub mod progress;
pub mod report;
pub mod rules;
pub mod run;
pub mod service;
pub mod site;
pub mod stats;
pub mod testrun;
pub mod usage;
pub mod worker;

pub use xtask::interrupt;
