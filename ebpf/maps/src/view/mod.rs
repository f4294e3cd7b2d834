//! The maps in words: serialisable values for tables and JSON, and the way they travel between machines.

mod affinity;
mod backend;
mod event;
mod explanation;
mod inventory;
mod node;
mod programs;
mod reading;
mod service;
mod slots;
mod socket;
mod traffic;

pub use affinity::{AffinityView, affinities};
pub use backend::{BackendState, BackendView, backends, states};
pub(crate) use event::verdict_name;
pub use event::{EventFilter, EventView};
pub use explanation::{ExplainView, NextHop, Origin};
pub use inventory::{MapView, inventory};
pub use node::{NodeView, PodView, RouteView, node, pods, routes};
pub use programs::{AttachmentView, ProgramView, programs};
pub(crate) use programs::{has_xdp, of_node};
pub use reading::{
    BackendEntry, Filter, Reading, Request, What, address_of, endpoint_matches, read, read_maps, service_matches,
};
pub use service::{ServiceBackendView, ServiceNames, ServiceView, name_text, name_value, service_at, services};
pub use slots::{ShareView, SlotView, TableView, tables};
pub use socket::{SocketView, sockets};
pub use traffic::{DropView, FlowView, drops, flows, monotonic_ns};
