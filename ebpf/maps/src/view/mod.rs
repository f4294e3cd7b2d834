//! The maps in words: serialisable values for tables and JSON.

mod backend;
mod node;
mod service;
mod traffic;

pub use backend::{BackendState, BackendView, backends, states};
pub use node::{NodeView, PodView, RouteView, node, pods, routes};
pub use service::{ServiceBackendView, ServiceView, name_text, name_value, services};
pub use traffic::{DropView, FlowView, drops, flows};
