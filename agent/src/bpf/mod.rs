//! The node's data path: loads the BPF object, keeps its maps as desired, and flips READY bits.
//!
//! `bpf/` alone imports aya. Nothing here knows the API server or netlink: values in ([`desired`]), reports out.
//!
//! Invariants: all that forwarding needs is pinned, so the agent may die at any instant; programs are replaced in place;
//! nothing is deleted but by a complete desired list; an unchanged service costs no write.

mod config;
mod conntrack;
mod datapath;
pub mod desired;
mod error;
mod links;
mod load;
mod log;
mod pins;
mod pods;
mod readiness;
mod routes;
pub mod services;
mod xdp;

pub use config::{DatapathConfig, MapSizes, TcAttachment, XdpAttachment};
pub use conntrack::{Collected, FlowCollector, monotonic_now};
pub use datapath::{Datapath, ServiceTraffic};
pub use desired::{
    BackendId, DesiredBackend, DesiredPod, DesiredRoute, DesiredService, DesiredServices, Frontend, HostedPorts,
    Readiness, RouteMode, Scope, ServicesOf, SourceRange, VipId,
};
pub use error::DatapathError;
pub use pins::remove_pins;
pub use readiness::ReadinessHandle;
pub use services::{NotApplied, SyncReport};
