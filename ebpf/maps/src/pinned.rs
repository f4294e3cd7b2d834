//! All maps of one node.

use std::path::{Path, PathBuf};

use causeway_abi::{
    ABI_VERSION, Address,
    affinity::{Affinity, AffinityKey},
    backend::Backend,
    conntrack::{Flow, FlowKey, SocketOrigin, SocketReplyKey},
    counter::{DropCounters, ServiceCounters},
    direct::DirectFlow,
    event::{EventsLost, Explanation, Trace},
    fragment::{FragmentKey, FragmentRoute, HeldFragment},
    node::NodeConfig,
    pod::Pod,
    service::{Service, ServiceKey, ServiceName, Slot},
};

use crate::{CounterArray, Element, MappedArray, MapsError, RouteTable, SourceRanges, Table, pins, shape};

/// VIPs that connected sockets asked for, by socket cookie.
pub type SocketOrigins = Table<u64, SocketOrigin>;

/// Typed handles on the pinned maps of a node. `EVENTS` is not among them: whoever watches opens it for itself.
pub struct PinnedMaps {
    /// Directory of the node's pins.
    pub dir: PathBuf,
    /// VIPs.
    pub services: Table<ServiceKey, Service>,
    /// Arena of Maglev tables.
    pub slots: MappedArray<Slot>,
    /// Backends and their READY bits.
    pub backends: MappedArray<Backend>,
    /// Local pods.
    pub pods: Table<Address, Pod>,
    /// Where remote pods live.
    pub routes: RouteTable,
    /// The node itself.
    pub node: Element<NodeConfig>,
    /// Flows balanced packet by packet of which both sides were seen.
    pub conntrack: Table<FlowKey, Flow>,
    /// Flows of which only the client was seen.
    pub conntrack_new: Table<FlowKey, Flow>,
    /// Flows whose backend's node answers the client directly.
    pub direct_flows: Table<FlowKey, DirectFlow>,
    /// VIPs that connected sockets asked for, by socket cookie.
    pub socket_origins: SocketOrigins,
    /// VIPs that unconnected UDP sockets sent to.
    pub socket_replies: Table<SocketReplyKey, SocketOrigin>,
    /// Counters per service id.
    pub service_counters: CounterArray<ServiceCounters>,
    /// Counters per drop reason.
    pub drops: CounterArray<DropCounters>,
    /// "namespace/name:port" per service id.
    pub service_names: Table<u32, ServiceName>,
    /// Which backend a client was given, for services with session affinity.
    pub affinity: Table<AffinityKey, Affinity>,
    /// Whom services let in from the network.
    pub source_ranges: SourceRanges,
    /// Datagrams in fragments.
    pub fragments: Table<FragmentKey, FragmentRoute>,
    /// Fragments that wait for the first one of their datagram.
    pub held: Table<u32, HeldFragment>,
    /// Events that found `EVENTS` full.
    pub events_lost: CounterArray<EventsLost>,
    /// Until when somebody watches.
    pub trace: MappedArray<Trace>,
    /// How the last dry run went.
    pub explanation: Element<Explanation>,
}

impl PinnedMaps {
    /// Opens the maps pinned below a node's directory (see [`pins::node_dir`]) and checks their ABI version.
    pub fn open(node_dir: &Path) -> Result<Self, MapsError> {
        let check = |found| match found {
            ABI_VERSION => Ok(()),
            _ => Err(MapsError::AbiVersion {
                dir: node_dir.to_owned(),
                found,
                expected: ABI_VERSION,
            }),
        };
        // First, where it is written: maps of another version may have other shapes, or not be there at all.
        Self::version(node_dir)?.map_or(Ok(()), check)?;
        let maps = Self::open_any_version(node_dir)?;
        check(maps.node.get()?.abi_version)?;
        Ok(maps)
    }

    /// Opens the maps without a look at the version: for the agent, which has checked or is about to write it.
    pub fn open_any_version(node_dir: &Path) -> Result<Self, MapsError> {
        let dir = &pins::maps_dir(node_dir);
        Ok(Self {
            dir: node_dir.to_owned(),
            services: Table::open(shape::SERVICES, dir)?,
            slots: MappedArray::open(shape::SLOTS, dir)?,
            backends: MappedArray::open(shape::BACKENDS, dir)?,
            pods: Table::open(shape::PODS, dir)?,
            routes: RouteTable::open(shape::ROUTES, dir)?,
            node: Element::open(shape::NODE, dir)?,
            conntrack: Table::open(shape::CONNTRACK, dir)?,
            conntrack_new: Table::open(shape::CONNTRACK_NEW, dir)?,
            direct_flows: Table::open(shape::DIRECT_FLOWS, dir)?,
            socket_origins: Table::open(shape::SOCKET_ORIGINS, dir)?,
            socket_replies: Table::open(shape::SOCKET_REPLIES, dir)?,
            service_counters: CounterArray::open(shape::SERVICE_COUNTERS, dir)?,
            drops: CounterArray::open(shape::DROPS, dir)?,
            service_names: Table::open(shape::SERVICE_NAMES, dir)?,
            affinity: Table::open(shape::AFFINITY, dir)?,
            source_ranges: SourceRanges::open(shape::SOURCE_RANGES, dir)?,
            fragments: Table::open(shape::FRAGMENTS, dir)?,
            held: Table::open(shape::HELD, dir)?,
            events_lost: CounterArray::open(shape::EVENTS_LOST, dir)?,
            trace: MappedArray::open(shape::TRACE, dir)?,
            explanation: Element::open(shape::EXPLANATION, dir)?,
        })
    }

    /// ABI version of the maps below a node's directory; `None` when none was written yet.
    pub fn version(node_dir: &Path) -> Result<Option<u32>, MapsError> {
        let dir = &pins::maps_dir(node_dir);
        if shape::NODE.open(dir)?.is_none() {
            return Ok(None);
        }
        let node = Element::<NodeConfig>::open(shape::NODE, dir)?.get()?;
        Ok((node.abi_version != 0).then_some(node.abi_version))
    }
}
