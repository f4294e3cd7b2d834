//! Every map, with BTF, so that bpftool shows fields by name.
//!
//! The sizes are those of a mid-sized node; the loader may set others before it loads (`EbpfLoader::map_max_entries`).

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use causeway_abi::{
    Address,
    affinity::{Affinity, AffinityKey},
    backend::Backend,
    conntrack::{Flow, FlowKey, SocketOrigin, SocketReplyKey},
    counter::{DropCounters, ServiceCounters},
    direct::DirectFlow,
    drop::DROP_REASONS_MAX,
    event::{Event, EventsLost, Explanation, Trace},
    fragment::{FragmentKey, FragmentRoute, HeldFragment},
    icmp::{self, IcmpBudget},
    node::NodeConfig,
    pod::Pod,
    route::Route,
    service::{Service, ServiceKey, ServiceName, Slot},
};

use crate::next_hop::{self, NextHop, NextHop6};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// Virtual addresses and their ports.
#[btf_map]
pub static SERVICES: HashMap<ServiceKey, Service, 65_536> = HashMap::new();

/// The arena of Maglev tables.
#[btf_map]
pub static SLOTS: Array<Slot, 4_194_304, MMAPABLE> = Array::new();

/// Backends; user space flips the READY bit in place.
#[btf_map]
pub static BACKENDS: Array<Backend, 131_072, MMAPABLE> = Array::new();

/// Pods of this node.
#[btf_map]
pub static PODS: HashMap<Address, Pod, 4_096> = HashMap::new();

/// Where pods of other nodes live. The key is laid out as `causeway_abi::route::RouteKey`.
#[btf_map]
pub static ROUTES: LpmTrie<Address, Route, 16_384> = LpmTrie::new();

/// One element: this node.
#[btf_map]
pub static NODE: Array<NodeConfig, 1, MMAPABLE> = Array::new();

/// Flows both sides of which were seen.
#[btf_map]
pub static CONNTRACK: HashMap<FlowKey, Flow, 131_072> = HashMap::new();

/// Flows only the client of which was seen: a flood of openings pushes out other openings and nothing else.
#[btf_map]
pub static CONNTRACK_NEW: LruHashMap<FlowKey, Flow, 65_536> = LruHashMap::new();

/// Flows whose backend's node answers the client directly, where the service's table alone does not tell their backend.
#[btf_map]
pub static DIRECT_FLOWS: LruHashMap<FlowKey, DirectFlow, 65_536> = LruHashMap::new();

/// Which MAC addresses frames to an address get: what the kernel said a moment ago.
#[btf_map]
pub static NEXT_HOPS: PerCpuArray<NextHop, { next_hop::PLACES }> = PerCpuArray::new();

/// The same for addresses of IPv6.
#[btf_map]
pub static NEXT_HOPS6: PerCpuArray<NextHop6, { next_hop::PLACES }> = PerCpuArray::new();

/// The flow that is about to begin. Not on the stack, which is short; and not handed down by reference, because kernels before
/// 6.2 take no key or value from memory that a function was handed.
#[btf_map]
pub static FLOW_DRAFT: PerCpuArray<Flow, 1> = PerCpuArray::new();

/// What connected sockets asked for, by socket cookie, until they are closed. No socket storage: the kernel allocates and frees that for
/// every socket anew, by way of RCU, which costs a short connection more than all the rest that is done for it here.
#[btf_map]
pub static SOCKET_ORIGINS: HashMap<u64, SocketOrigin, 262_144, ON_DEMAND> = HashMap::new();

/// What unconnected UDP sockets asked for.
#[btf_map]
pub static SOCKET_REPLIES: LruHashMap<SocketReplyKey, SocketOrigin, 65_536> = LruHashMap::new();

/// Where the later fragments of translated datagrams go.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentRoute, 8_192> = LruHashMap::new();

/// Fragments that came before the first one of their datagram, by place. No LRU map, which does not tell whom it pushed out.
#[btf_map]
pub static HELD: HashMap<u32, HeldFragment, 1_024> = HashMap::new();

/// A fragment that is about to be kept, and a first one while those kept for it are sent on. Not on the stack, which is short.
#[btf_map]
pub static HELD_DRAFT: PerCpuArray<HeldFragment, 2> = PerCpuArray::new();

/// How many ICMP errors may still be sent.
#[btf_map]
pub static ICMP_BUDGET: Array<IcmpBudget, { icmp::BUDGETS }> = Array::new();

/// Whom a service lets in from the network. The key is laid out as `causeway_abi::service::SourceRangeKey`.
#[btf_map]
pub static SOURCE_RANGES: LpmTrie<SourceRange, u32, 16_384> = LpmTrie::new();

/// The part of a key of [`SOURCE_RANGES`] that prefixes are of.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SourceRange {
    /// The service's id.
    pub service_id: u32,
    /// The client.
    pub address: Address,
}

/// Which backend a client was given, for services with session affinity.
#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity, 65_536> = LruHashMap::new();

/// Per service, by id.
#[btf_map]
pub static SERVICE_COUNTERS: PerCpuArray<ServiceCounters, 65_536> = PerCpuArray::new();

/// Per drop reason.
#[btf_map]
pub static DROPS: PerCpuArray<DropCounters, { DROP_REASONS_MAX as usize }> = PerCpuArray::new();

/// Names of services, by id, for whoever reads the maps; no program does.
#[btf_map]
pub static SERVICE_NAMES: HashMap<u32, ServiceName, 65_536> = HashMap::new();

/// Drops, refusals and new connections, or every packet, while somebody watches ([`TRACE`]).
#[btf_map]
pub static EVENTS: RingBuf<Event, 1_048_576> = RingBuf::new();

/// One element: events that found the ring buffer full.
#[btf_map]
pub static EVENTS_LOST: PerCpuArray<EventsLost, 1> = PerCpuArray::new();

/// One element: until when somebody watches.
#[btf_map]
pub static TRACE: Array<Trace, 1, MMAPABLE> = Array::new();

/// One element: how the last dry run went.
#[btf_map]
pub static EXPLANATION: Array<Explanation, 1> = Array::new();
