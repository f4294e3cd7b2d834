//! Nodes and pods to measure on: network namespaces with nothing of the machine in them.
//!
//! Namespaces have no names: they live as long as a descriptor or a process of theirs does, so they go with this process
//! however it ends, and every link, route and rule in them too. What could stay (cgroups, pins) is removed by guards, and
//! what a killed benchmark left is removed by the next ([`leftovers`]).

mod cgroup;
pub mod leftovers;
mod netns;
mod node;

pub use cgroup::Cgroup;
pub use netns::Netns;
pub use node::{Causeway, NODE_ADDRESS, OTHER_NODE_ADDRESS, Pod, Site};
