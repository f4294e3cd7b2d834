//! Every map.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage},
    macros::btf_map,
};
use causeway_abi::{
    Address,
    backend::Backend,
    conntrack::{Flow, FlowKey, SocketOrigin, SocketReplyKey},
    counter::{DropCounters, ServiceCounters},
    drop::DROP_REASONS_MAX,
    node::NodeConfig,
    pod::Pod,
    route::Route,
    service::{Service, ServiceKey, ServiceName, Slot},
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
pub static SERVICES: HashMap<ServiceKey, Service, 65_536> = HashMap::new();
#[btf_map]
pub static SLOTS: Array<Slot, 1_048_576, MMAPABLE> = Array::new();
#[btf_map]
pub static BACKENDS: Array<Backend, 65_536, MMAPABLE> = Array::new();
#[btf_map]
pub static PODS: HashMap<Address, Pod, 4_096> = HashMap::new();
#[btf_map]
pub static ROUTES: LpmTrie<Address, Route, 16_384> = LpmTrie::new();
#[btf_map]
pub static NODE: Array<NodeConfig, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static CONNTRACK: HashMap<FlowKey, Flow, 131_072> = HashMap::new();
#[btf_map]
pub static CONNTRACK_NEW: LruHashMap<FlowKey, Flow, 65_536> = LruHashMap::new();
#[btf_map]
pub static SOCKET_ORIGIN: SkStorage<SocketOrigin> = SkStorage::new();
#[btf_map]
pub static SOCKET_REPLIES: LruHashMap<SocketReplyKey, SocketOrigin, 65_536> = LruHashMap::new();
#[btf_map]
pub static SERVICE_COUNTERS: PerCpuArray<ServiceCounters, 65_536> = PerCpuArray::new();
#[btf_map]
pub static DROPS: PerCpuArray<DropCounters, { DROP_REASONS_MAX as usize }> = PerCpuArray::new();
#[btf_map]
pub static SERVICE_NAMES: HashMap<u32, ServiceName, 65_536> = HashMap::new();
