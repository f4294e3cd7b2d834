//! The maps of the BPF object by name, and the shape each must have.

use std::path::Path;

use aya::maps::{Map, MapData};
use causeway_abi::{
    Address,
    affinity::{Affinity, AffinityKey},
    backend::Backend,
    conntrack::{Flow, FlowKey, SocketOrigin, SocketReplyKey},
    counter::{DropCounters, ServiceCounters},
    direct::DirectFlow,
    event::{EventsLost, Explanation, Trace},
    fragment::{FragmentKey, FragmentRoute, HeldFragment},
    node::NodeConfig,
    pod::Pod,
    route::{Route, RouteKey},
    service::{Service, ServiceKey, ServiceName, Slot, SourceRangeKey},
};

use crate::{MapsError, error::errno};

/// Name and shape of a map.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Symbol in the BPF object, and file name of the pin.
    pub name: &'static str,
    /// `BPF_MAP_TYPE_*` (`include/uapi/linux/bpf.h`).
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
}

const fn shape<K, V>(name: &'static str, map_type: u32) -> Shape {
    Shape {
        name,
        map_type,
        key_size: size_of::<K>() as u32,
        value_size: size_of::<V>() as u32,
    }
}

// include/uapi/linux/bpf.h, enum bpf_map_type
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const LPM_TRIE: u32 = 11;
const RINGBUF: u32 = 27;

/// VIPs.
pub const SERVICES: Shape = shape::<ServiceKey, Service>("SERVICES", HASH);
/// The arena of Maglev tables.
pub const SLOTS: Shape = shape::<u32, Slot>("SLOTS", ARRAY);
/// Backends and their READY bits.
pub const BACKENDS: Shape = shape::<u32, Backend>("BACKENDS", ARRAY);
/// Local pods.
pub const PODS: Shape = shape::<Address, Pod>("PODS", HASH);
/// Where remote pods live.
pub const ROUTES: Shape = shape::<RouteKey, Route>("ROUTES", LPM_TRIE);
/// The node itself.
pub const NODE: Shape = shape::<u32, NodeConfig>("NODE", ARRAY);
/// Flows balanced packet by packet of which both sides were seen.
pub const CONNTRACK: Shape = shape::<FlowKey, Flow>("CONNTRACK", HASH);
/// Flows of which only the client was seen.
pub const CONNTRACK_NEW: Shape = shape::<FlowKey, Flow>("CONNTRACK_NEW", LRU_HASH);
/// Flows whose backend's node answers the client directly.
pub const DIRECT_FLOWS: Shape = shape::<FlowKey, DirectFlow>("DIRECT_FLOWS", LRU_HASH);
/// VIPs that connected sockets asked for.
pub const SOCKET_ORIGINS: Shape = shape::<u64, SocketOrigin>("SOCKET_ORIGINS", HASH);
/// VIPs that unconnected UDP sockets sent to.
pub const SOCKET_REPLIES: Shape = shape::<SocketReplyKey, SocketOrigin>("SOCKET_REPLIES", LRU_HASH);
/// Counters per service id.
pub const SERVICE_COUNTERS: Shape = shape::<u32, ServiceCounters>("SERVICE_COUNTERS", PERCPU_ARRAY);
/// Counters per drop reason.
pub const DROPS: Shape = shape::<u32, DropCounters>("DROPS", PERCPU_ARRAY);
/// Service names by id.
pub const SERVICE_NAMES: Shape = shape::<u32, ServiceName>("SERVICE_NAMES", HASH);

/// Which backend a client was given, for services with session affinity.
pub const AFFINITY: Shape = shape::<AffinityKey, Affinity>("AFFINITY", LRU_HASH);
/// Whom services let in from the network.
pub const SOURCE_RANGES: Shape = shape::<SourceRangeKey, u32>("SOURCE_RANGES", LPM_TRIE);
/// Where the later fragments of translated datagrams go.
pub const FRAGMENTS: Shape = shape::<FragmentKey, FragmentRoute>("FRAGMENTS", LRU_HASH);
/// Fragments that wait for the first one of their datagram.
pub const HELD: Shape = shape::<u32, HeldFragment>("HELD", HASH);
/// What happened, while somebody watches. Ring buffers have neither keys nor values.
pub const EVENTS: Shape = shape::<(), ()>("EVENTS", RINGBUF);
/// Events that found the ring buffer full.
pub const EVENTS_LOST: Shape = shape::<u32, EventsLost>("EVENTS_LOST", PERCPU_ARRAY);
/// Until when somebody watches.
pub const TRACE: Shape = shape::<u32, Trace>("TRACE", ARRAY);
/// How the last dry run went.
pub const EXPLANATION: Shape = shape::<u32, Explanation>("EXPLANATION", ARRAY);

/// Every map that is pinned.
pub const ALL: [Shape; 22] = [
    SERVICES,
    SLOTS,
    BACKENDS,
    PODS,
    ROUTES,
    NODE,
    CONNTRACK,
    CONNTRACK_NEW,
    DIRECT_FLOWS,
    SOCKET_ORIGINS,
    SOCKET_REPLIES,
    SERVICE_COUNTERS,
    DROPS,
    SERVICE_NAMES,
    AFFINITY,
    SOURCE_RANGES,
    FRAGMENTS,
    HELD,
    EVENTS,
    EVENTS_LOST,
    TRACE,
    EXPLANATION,
];

impl Shape {
    /// Opens the pin of this map in a directory of pins and checks type, key and value size.
    ///
    /// `Ok(None)` when there is no such pin.
    pub fn open(&self, maps_dir: &Path) -> Result<Option<MapData>, MapsError> {
        let path = maps_dir.join(self.name);
        if !path.exists() {
            return Ok(None);
        }
        let data = MapData::from_pin(&path).map_err(|source| match errno(&source) {
            Some(libc::EPERM | libc::EACCES) => MapsError::NotPermitted { map: self.name },
            _ => MapsError::Open {
                map: self.name,
                path,
                source,
            },
        })?;
        let info = data
            .info()
            .map_err(|source| MapsError::Read { map: self.name, source })?;
        let map_type = info.map_type().map_or(0, |map_type| map_type as u32);
        self.require("type", map_type, self.map_type)?;
        self.require("key size", info.key_size(), self.key_size)?;
        self.require("value size", info.value_size(), self.value_size)?;
        Ok(Some(data))
    }

    /// Refuses a property that differs.
    pub fn require(&self, property: &'static str, found: u32, expected: u32) -> Result<(), MapsError> {
        if found == expected {
            Ok(())
        } else {
            Err(MapsError::Shape {
                map: self.name,
                property,
                found,
                expected,
            })
        }
    }

    /// As [`open`](Self::open), and a missing pin is an error.
    pub(crate) fn open_existing(&self, maps_dir: &Path) -> Result<Map, MapsError> {
        Map::from_map_data(self.data(maps_dir)?).map_err(|source| MapsError::Read { map: self.name, source })
    }

    /// The same as plain data, with the number of entries that it has room for.
    pub(crate) fn open_sized(&self, maps_dir: &Path) -> Result<(MapData, u32), MapsError> {
        let data = self.data(maps_dir)?;
        let info = data
            .info()
            .map_err(|source| MapsError::Read { map: self.name, source })?;
        let max_entries = info.max_entries();
        Ok((data, max_entries))
    }

    fn data(&self, maps_dir: &Path) -> Result<MapData, MapsError> {
        self.open(maps_dir)?.ok_or_else(|| MapsError::NotThere {
            dir: maps_dir.to_owned(),
        })
    }
}
