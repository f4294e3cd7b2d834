//! Development tasks: set-up of a machine, builds, the demo image, the development cluster, the checks.
//!
//! The binary (`cargo xtask …`) is one user of this library; the cluster tests are the other: they start the same
//! clusters under other names. Nothing here reads or writes Causeway's API objects but through the `causeway` binary,
//! and nothing here depends on the crates under test, so that this compiles first and quickly.

pub mod bench;
pub mod check;
pub mod cluster;
pub mod command;
pub mod compile;
pub mod fuzz;
pub mod http;
pub mod image;
pub mod interrupt;
pub mod lock;
pub mod netns;
pub mod progress;
pub mod root;
pub mod setup;
pub mod vm;
pub mod wait;
