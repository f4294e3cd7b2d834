//! A copy of the programs and maps of a node, attached to nothing and pinned nowhere.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::maps::{
    Array, HashMap, MapData, PerCpuArray, RingBuf,
    lpm_trie::{Key, LpmTrie},
};
use aya::programs::{CgroupAttachMode, Program, SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use causeway_abi::backend::{Backend, IN_USE, READY};
use causeway_abi::conntrack::{Flow, FlowKey};
use causeway_abi::counter::{DropCounters, ServiceCounters};
use causeway_abi::event::{Event, Explanation, MARK_DRY_RUN, Trace};
use causeway_abi::fragment::HeldFragment;
use causeway_abi::icmp::IcmpBudget;
use causeway_abi::node::{MASQUERADE, NodeConfig};
use causeway_abi::pod::Pod;
use causeway_abi::route::{MODE_NATIVE, MODE_VXLAN, Route};
use causeway_abi::service::{NO_BACKEND, SCOPE_NODE, Service, ServiceKey, Slot};
use causeway_abi::{ABI_VERSION, Address, DropReason};
use causeway_maps::Plain;
use log::Log;
use zerocopy::FromBytes as _;

pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CAUSEWAY_BPF_OBJECT"));

/// The interface test runs happen on: loopback, whose index is 1 in every network namespace.
pub const CLIENT_IFINDEX: u32 = 1;
/// Index of the tunnel device.
pub const TUNNEL_IFINDEX: u32 = 900;
/// Index of the uplink.
pub const UPLINK_IFINDEX: u32 = 901;
/// Sockets that can be connected to VIPs at the same time.
pub const CONNECTED_SOCKETS: u32 = 64;
/// Places for fragments that wait.
pub const HELD: u16 = 128;
/// Marks an index in `SLOTS` that belongs to no service of a test.
const SLOTS_PER_SERVICE: u32 = 64;

/// What a program decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The packet goes on to the kernel (`TC_ACT_OK`).
    Pass,
    /// It is dropped (`TC_ACT_SHOT`).
    Drop,
    /// It goes to another interface (`TC_ACT_REDIRECT`).
    Redirect,
}

/// What came of a packet.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// The packet's mark.
    pub mark: u32,
}

/// What a service is beside its address.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceOptions {
    /// `SCOPE_*`; 0 is the cluster's.
    pub scope: u8,
    /// `SERVICE_*`.
    pub flags: u32,
    /// Session affinity time-out.
    pub affinity_seconds: u32,
}

impl ServiceOptions {
    /// A service as the network sees it.
    pub const FROM_NETWORK: Self = Self {
        scope: SCOPE_NODE,
        flags: 0,
        affinity_seconds: 0,
    };
}

/// Programs and maps.
#[derive(Debug)]
pub struct Datapath {
    pub(super) ebpf: Ebpf,
    services: u32,
}

impl Datapath {
    /// Loads every program with small maps.
    pub fn load() -> Result<Self> {
        Self::load_with_conntrack(1024)
    }

    /// Loads every program with room for a number of established half-flows.
    pub fn load_with_conntrack(entries: u32) -> Result<Self> {
        Self::load_object(OBJECT, entries)
    }

    /// The same of another build: `object` is the content of its BPF object file.
    pub fn load_object(object: &[u8], conntrack: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for (map, size) in [
            ("SERVICES", 256),
            ("SLOTS", 256 * SLOTS_PER_SERVICE),
            ("BACKENDS", 256),
            ("PODS", 64),
            ("ROUTES", 64),
            ("CONNTRACK", conntrack),
            ("CONNTRACK_NEW", 4096),
            ("DIRECT_FLOWS", 1024),
            ("SOCKET_ORIGINS", CONNECTED_SOCKETS),
            ("SOCKET_REPLIES", 1024),
            ("AFFINITY", 1024),
            ("SOURCE_RANGES", 64),
            ("HELD", HELD.into()),
            ("SERVICE_COUNTERS", 256),
            ("SERVICE_NAMES", 256),
        ] {
            loader.map_max_entries(map, size);
        }
        let mut ebpf = loader
            .load(object)
            .context("cannot load the BPF object; tests need root and a BPF kernel")?;
        for (name, program) in ebpf.programs_mut() {
            match program {
                Program::SchedClassifier(program) => program.load(),
                Program::CgroupSockAddr(program) => program.load(),
                Program::CgroupSock(program) => program.load(),
                Program::Xdp(program) => program.load(),
                _ => bail!("program {name} has an unexpected type"),
            }
            .with_context(|| format!("the kernel refuses program {name}"))?;
        }
        let mut datapath = Self { ebpf, services: 0 };
        datapath.set_node()?;
        Ok(datapath)
    }

    /// Hands what the programs of a development build say to a logger.
    pub fn logger<T: Log>(&mut self, logger: T) -> Result<EbpfLogger<T>> {
        EbpfLogger::init_with_logger(&mut self.ebpf, logger).context("the programs say nothing")
    }

    /// Names of the loaded programs, sorted.
    pub fn programs(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.ebpf.programs().map(|(name, _)| name).collect();
        names.sort_unstable();
        names
    }

    fn set_node(&mut self) -> Result<()> {
        let node = NodeConfig {
            abi_version: ABI_VERSION,
            tunnel_ifindex: TUNNEL_IFINDEX,
            uplink_ifindex: UPLINK_IFINDEX,
            flags: MASQUERADE,
            node_address: parse_ip("172.30.0.11"),
            router_address: parse_ip("10.244.1.1"),
            node_address6: parse_ip("fd00:172:30::b"),
            router_address6: parse_ip("fd00:244:0:1::1"),
            tunnel_port_be: 8472_u16.to_be(),
            held_fragments: HELD,
            tunnel_id: 1,
        };
        let mut map: Array<&mut MapData, Plain<NodeConfig>> = self.map_mut("NODE")?.try_into()?;
        Ok(map.set(0, Plain(node), 0)?)
    }

    /// Adds a pod of this node behind an interface; its MAC addresses end in the last byte of its address.
    pub fn pod(&mut self, address: &str, ifindex: u32) -> Result<()> {
        let address = parse_ip(address);
        let last = address.bytes[15];
        let pod = Pod {
            ifindex,
            flags: 0,
            pod_mac: [2, 0, 0, 0, 1, last],
            host_mac: [2, 0, 0, 0, 2, last],
        };
        let mut map: HashMap<&mut MapData, Plain<Address>, Plain<Pod>> = self.map_mut("PODS")?.try_into()?;
        Ok(map.insert(Plain(address), Plain(pod), 0)?)
    }

    /// Adds the pod range of another node, given as address and prefix length.
    pub fn route(&mut self, address: &str, prefix: u32, node: &str) -> Result<()> {
        self.route_by(address, prefix, node, MODE_VXLAN)
    }

    /// Adds a prefix that the kernel routes.
    pub fn native_route(&mut self, address: &str, prefix: u32) -> Result<()> {
        self.route_by(address, prefix, "0.0.0.0", MODE_NATIVE)
    }

    fn route_by(&mut self, address: &str, prefix: u32, node: &str, mode: u32) -> Result<()> {
        let mapped = if address.contains(':') { prefix } else { 96 + prefix };
        let route = Route {
            node: parse_ip(node),
            tunnel_id: 1,
            mode,
        };
        let mut map: LpmTrie<&mut MapData, Plain<Address>, Plain<Route>> = self.map_mut("ROUTES")?.try_into()?;
        Ok(map.insert(&Key::new(mapped, Plain(parse_ip(address))), Plain(route), 0)?)
    }

    /// Writes a backend that is ready.
    pub fn backend(&mut self, index: u32, address: &str) -> Result<()> {
        self.backend_with(index, address, IN_USE | READY, 1)
    }

    /// Writes a backend with flags and generation.
    pub fn backend_with(&mut self, index: u32, address: &str, flags: u32, generation: u32) -> Result<()> {
        let address: SocketAddr = address.parse()?;
        let backend = Backend {
            address: mapped(address.ip()),
            port_be: address.port().to_be(),
            flags,
            generation,
            ..Backend::default()
        };
        let mut map: Array<&mut MapData, Plain<Backend>> = self.map_mut("BACKENDS")?.try_into()?;
        Ok(map.set(index, Plain(backend), 0)?)
    }

    /// Adds a service with a table in which backends take turns. Returns its id.
    pub fn service(&mut self, vip: &str, protocol: u8, backends: &[u32]) -> Result<u32> {
        self.service_with(vip, protocol, backends, ServiceOptions::default())
    }

    /// Adds a service that is more than its address.
    pub fn service_with(&mut self, vip: &str, protocol: u8, backends: &[u32], options: ServiceOptions) -> Result<u32> {
        self.services += 1;
        let id = self.services;
        let base = id * SLOTS_PER_SERVICE;
        let count = if backends.is_empty() { 0 } else { SLOTS_PER_SERVICE };
        {
            let mut slots: Array<&mut MapData, Plain<Slot>> = self.map_mut("SLOTS")?.try_into()?;
            for (slot, backend) in (base..base + count).zip(backends.iter().cycle()) {
                slots.set(
                    slot,
                    Plain(Slot {
                        backend: *backend,
                        previous: NO_BACKEND,
                    }),
                    0,
                )?;
            }
        }
        let vip: SocketAddr = vip.parse()?;
        let key = ServiceKey {
            address: mapped(vip.ip()),
            port_be: vip.port().to_be(),
            protocol,
            scope: options.scope,
        };
        let service = Service {
            slot_base: base,
            slot_count: count,
            service_id: id,
            flags: options.flags,
            affinity_seconds: options.affinity_seconds,
        };
        let mut map: HashMap<&mut MapData, Plain<ServiceKey>, Plain<Service>> = self.map_mut("SERVICES")?.try_into()?;
        map.insert(Plain(key), Plain(service), 0)?;
        Ok(id)
    }

    /// Lets the clients of an IPv4 prefix use a service.
    pub fn source_range(&mut self, service_id: u32, address: &str, prefix: u32) -> Result<()> {
        let range: [u32; 5] = {
            let [a, b, c, d] = parse_ip(address).words();
            [service_id, a, b, c, d]
        };
        let mut map: LpmTrie<&mut MapData, [u32; 5], u32> = self.map_mut("SOURCE_RANGES")?.try_into()?;
        Ok(map.insert(&Key::new(32 + 96 + prefix, range), 1, 0)?)
    }

    /// Until when (monotonic nanoseconds) somebody watches.
    pub fn watch(&mut self, trace: Trace) -> Result<()> {
        let mut map: Array<&mut MapData, Plain<Trace>> = self.map_mut("TRACE")?.try_into()?;
        Ok(map.set(0, Plain(trace), 0)?)
    }

    /// When a bucket of ICMP errors is full again: [`u64::MAX`] empties it for good, 0 fills it.
    pub fn set_icmp_budget(&mut self, index: u32, full_ns: u64) -> Result<()> {
        let mut map: Array<&mut MapData, Plain<IcmpBudget>> = self.map_mut("ICMP_BUDGET")?.try_into()?;
        Ok(map.set(index, Plain(IcmpBudget { full_ns }), 0)?)
    }

    /// The same, as it is now.
    pub fn icmp_budget(&self, index: u32) -> Result<u64> {
        let map: Array<&MapData, Plain<IcmpBudget>> = self.map("ICMP_BUDGET")?.try_into()?;
        Ok(map.get(&index, 0)?.0.full_ns)
    }

    /// Identifications of the datagrams of which fragments are kept.
    pub fn held(&self) -> Result<Vec<u32>> {
        let map: HashMap<&MapData, u32, Plain<HeldFragment>> = self.map("HELD")?.try_into()?;
        Ok(map
            .iter()
            .map(|entry| entry.map(|(_, held)| held.0.datagram.identification_be))
            .collect::<Result<_, _>>()?)
    }

    /// What was told since the last call.
    pub fn events(&mut self) -> Result<Vec<Event>> {
        let mut ring = RingBuf::try_from(self.map_mut("EVENTS")?)?;
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            events.push(Event::read_from_bytes(&item).map_err(|error| anyhow!("a record of another size: {error}"))?);
        }
        Ok(events)
    }

    /// Tries a frame out; what the program would do, and how it came to it.
    pub fn explain(&self, program: &str, frame: &[u8]) -> Result<(Outcome, Explanation)> {
        let outcome = self.run_marked(program, frame, MARK_DRY_RUN)?;
        let map: Array<&MapData, Plain<Explanation>> = self.map("EXPLANATION")?.try_into()?;
        Ok((outcome, map.get(&0, 0)?.0))
    }

    /// Runs a classifier on a frame that comes in on [`CLIENT_IFINDEX`].
    pub fn run(&self, program: &str, frame: &[u8]) -> Result<Outcome> {
        self.run_marked(program, frame, 0)
    }

    /// Runs a classifier on a frame with a mark.
    pub fn run_marked(&self, program: &str, frame: &[u8], mark: u32) -> Result<Outcome> {
        /// Bytes of `struct __sk_buff`.
        const CONTEXT: usize = 192;
        /// Offset of its `mark`.
        const MARK: usize = 8;
        let classifier: &SchedClassifier = self.ebpf.program(program).context("no such program")?.try_into()?;
        let mut out = vec![0; 4096];
        let (mut context, mut context_out) = ([0; CONTEXT], [0; CONTEXT]);
        context[MARK..MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        let result = classifier.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        })?;
        ensure!(
            result.data_size_out as usize <= out.len(),
            "the packet grew to {} bytes",
            result.data_size_out
        );
        out.truncate(result.data_size_out as usize);
        let verdict = match result.return_value {
            0 => Verdict::Pass,
            2 => Verdict::Drop,
            7 => Verdict::Redirect,
            other => bail!("{program} returned {other}"),
        };
        let mark = u32::from_ne_bytes(context_out[MARK..MARK + 4].try_into()?);
        Ok(Outcome {
            verdict,
            frame: out,
            mark,
        })
    }

    /// Mean time of a run in nanoseconds. The packet is not restored between runs.
    pub fn nanoseconds(&self, program: &str, frame: &[u8], repeat: u32) -> Result<u128> {
        let classifier: &SchedClassifier = self.ebpf.program(program).context("no such program")?.try_into()?;
        let result = classifier.test_run(TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::default()
        })?;
        Ok(result.duration.as_nanos())
    }

    /// Packets dropped for a reason.
    pub fn drops(&self, reason: DropReason) -> Result<u64> {
        let map: PerCpuArray<&MapData, Plain<DropCounters>> = self.map("DROPS")?.try_into()?;
        Ok(map
            .get(&(reason as u32), 0)?
            .iter()
            .map(|counters| counters.0.packets)
            .sum())
    }

    /// Packets dropped for any reason.
    pub fn all_drops(&self) -> Result<u64> {
        DropReason::ALL.iter().map(|reason| self.drops(*reason)).sum()
    }

    /// What a service counted.
    pub fn counters(&self, service_id: u32) -> Result<ServiceCounters> {
        let map: PerCpuArray<&MapData, Plain<ServiceCounters>> = self.map("SERVICE_COUNTERS")?.try_into()?;
        let mut sum = ServiceCounters::default();
        for Plain(counters) in map.get(&service_id, 0)?.iter() {
            sum.connections += counters.connections;
            sum.packets += counters.packets;
            sum.bytes += counters.bytes;
            sum.drops += counters.drops;
        }
        Ok(sum)
    }

    /// The half-flows in `CONNTRACK` or `CONNTRACK_NEW`.
    pub fn flows(&self, map: &str) -> Result<Vec<(FlowKey, Flow)>> {
        let map: HashMap<&MapData, Plain<FlowKey>, Plain<Flow>> = self.map(map)?.try_into()?;
        Ok(map
            .iter()
            .map(|entry| entry.map(|(key, flow)| (key.0, flow.0)))
            .collect::<Result<_, _>>()?)
    }

    /// Attaches every socket hook to a cgroup; they are detached when this value is dropped.
    pub fn attach_socket_hooks(&mut self, cgroup: &File) -> Result<()> {
        for (name, program) in self.ebpf.programs_mut() {
            let attached = match program {
                Program::CgroupSockAddr(program) => program.attach(cgroup, CgroupAttachMode::Single).map(drop),
                Program::CgroupSock(program) => program.attach(cgroup, CgroupAttachMode::Single).map(drop),
                _ => continue,
            };
            attached.with_context(|| format!("cannot attach {name}"))?;
        }
        Ok(())
    }

    pub(super) fn map(&self, name: &str) -> Result<&aya::maps::Map> {
        self.ebpf
            .map(name)
            .with_context(|| format!("the object has no map {name}"))
    }

    pub(super) fn map_mut(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf
            .map_mut(name)
            .with_context(|| format!("the object has no map {name}"))
    }
}

pub(super) fn parse_ip(text: &str) -> Address {
    mapped(text.parse().unwrap_or_else(|_| panic!("{text} is no IP address")))
}

fn mapped(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => Address::new(v6.octets()),
    }
}
