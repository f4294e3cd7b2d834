//! Nodes and pods without agents: network namespaces on a bridge, and the agent's own network and data-path code in them.
//!
//! Namespaces here have no names: they live as long as a descriptor of theirs is open, so nothing of them is left behind
//! however a test ends, and every link goes with them. What could stay (cgroups, pins) is removed by guards.

mod cgroup;
mod client;
mod lab;
mod namespace;
mod offload;
mod passing;
mod process;
mod server;
mod socket;

pub use cgroup::Cgroup;
pub use client::{answer, bulk, exchange, noise};
pub use lab::{Lab, Node, Outsider, Pod, Settings, also_at, tcp_service, udp_service};
pub use namespace::Netns;
pub use offload::leave_no_checksums;
pub use process::{Running, command_in, finish};
pub use server::{Servers, TcpServer, UdpServer};
pub use socket::{ask, connect, domain, option, set_option, socket_in};

/// A number that no other test of this process gets.
pub fn unique() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
