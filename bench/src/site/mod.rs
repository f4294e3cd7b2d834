//! Nodes and pods to measure on: network namespaces with nothing of the machine in them.
//!
//! Namespaces have no names: they live as long as a descriptor or a process of theirs does, so they go with this process
//! however it ends, and every link, route and rule in them too. What could stay (cgroups, pins) is removed by guards, and
//! what a killed benchmark left is removed by the next ([`leftovers`]).

mod causeway;
mod cgroup;
pub mod leftovers;
mod machine;
mod netns;
mod node;
mod offloads;
mod pod;
mod remote;
mod wire;

pub use causeway::{Causeway, Settings};
pub use cgroup::Cgroup;
pub use netns::Netns;
pub use node::{NODE_ADDRESS, OTHER_NODE_ADDRESS, Site};
pub use pod::Pod;
