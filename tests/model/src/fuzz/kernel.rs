//! The real programs: loaded once, attached to nothing, run one packet at a time with `BPF_PROG_TEST_RUN`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{MapData, RingBuf};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use causeway_abi::affinity::{Affinity, AffinityKey};
use causeway_abi::backend::Backend;
use causeway_abi::conntrack::{Flow, FlowKey};
use causeway_abi::counter::{DropCounters, ServiceCounters};
use causeway_abi::direct::DirectFlow;
use causeway_abi::event::{Event, Trace};
use causeway_abi::fragment::{FragmentKey, FragmentRoute, HeldFragment};
use causeway_abi::icmp::{BUDGETS, IcmpBudget};
use causeway_abi::node::NodeConfig;
use causeway_abi::pod::Pod;
use causeway_abi::route::{Route, RouteKey};
use causeway_abi::service::{Service, ServiceKey, Slot, SourceRangeKey};
use causeway_abi::{Address, DropReason};
use nix::time::{ClockId, clock_gettime};
use zerocopy::FromBytes as _;

use super::table::{Mapped, Plain, Table, bpf};
use crate::model::{Fate, Hook, Seen, Told};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CAUSEWAY_BPF_OBJECT"));

/// Room for backends.
pub const BACKENDS: u32 = 64;
/// Room for slots.
pub const SLOTS: u32 = 4096;
/// Ids of services go from 1 to this.
pub const SERVICES: u32 = 16;
/// Half-flows that fit. Sequences have far fewer.
const FLOWS: u32 = 2048;
/// Fragments that can wait: so few that some have to make room for others.
pub const HELD: u16 = 72;
/// Bytes of `struct __sk_buff`, and the offset of its `mark`.
const CONTEXT: usize = 192;
const MARK: usize = 8;
// enum bpf_cmd
const PROG_TEST_RUN: libc::c_long = 10;

/// The member of `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: RawFd,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

/// Programs and maps.
pub struct Kernel {
    /// Services.
    pub services: Table<ServiceKey, Service>,
    /// Slots.
    pub slots: Mapped<Slot>,
    /// Backends.
    pub backends: Mapped<Backend>,
    /// Pods.
    pub pods: Table<Address, Pod>,
    /// Routes.
    pub routes: Table<RouteKey, Route>,
    /// Whom services let in.
    pub source_ranges: Table<SourceRangeKey, u32>,
    /// Flows both sides of which were seen.
    pub flows: Table<FlowKey, Flow>,
    /// Flows only the client of which was seen.
    pub new_flows: Table<FlowKey, Flow>,
    /// Flows that are sent on directly, where the table does not tell.
    pub direct: Table<FlowKey, DirectFlow>,
    /// Datagrams.
    pub fragments: Table<FragmentKey, FragmentRoute>,
    /// Fragments that wait.
    pub held: Table<u32, HeldFragment>,
    /// Clients.
    pub affinity: Table<AffinityKey, Affinity>,
    budget: Table<u32, IcmpBudget>,
    drops: Table<u32, DropCounters>,
    counters: Table<u32, ServiceCounters>,
    node: Mapped<NodeConfig>,
    trace: Mapped<Trace>,
    events: RingBuf<MapData>,
    programs: BTreeMap<Hook, RawFd>,
    xdp: RawFd,
    next_hops: Table<u32, [u8; 32]>,
    next_hops6: Table<u32, [u8; 48]>,
    processors: usize,
    out: Vec<u8>,
    /// Keeps the programs.
    _ebpf: Ebpf,
}

impl Kernel {
    /// Loads everything.
    pub fn load() -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for (map, size) in [
            ("SERVICES", 64),
            ("SLOTS", SLOTS),
            ("BACKENDS", BACKENDS),
            ("PODS", 64),
            ("ROUTES", 64),
            ("CONNTRACK", FLOWS),
            ("CONNTRACK_NEW", FLOWS),
            ("FRAGMENTS", FLOWS),
            ("HELD", HELD.into()),
            ("DIRECT_FLOWS", FLOWS),
            ("SOCKET_ORIGINS", 64),
            ("SOCKET_REPLIES", 64),
            ("AFFINITY", FLOWS),
            ("SOURCE_RANGES", 64),
            ("SERVICE_COUNTERS", 64),
            ("SERVICE_NAMES", 64),
        ] {
            loader.map_max_entries(map, size);
        }
        let mut ebpf = loader
            .load(OBJECT)
            .context("cannot load the BPF object; that takes root and a BPF kernel")?;
        let mut programs = BTreeMap::new();
        for hook in [
            Hook::FromPod,
            Hook::FromTunnel,
            Hook::ToTunnel,
            Hook::FromUplink,
            Hook::ToUplink,
        ] {
            let name = hook.program();
            let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
            let Program::SchedClassifier(program) = program else {
                bail!("program {name} has an unexpected type");
            };
            program
                .load()
                .with_context(|| format!("the kernel refuses program {name}"))?;
            programs.insert(hook, program.fd()?.as_fd().as_raw_fd());
        }
        let Some(Program::Xdp(xdp)) = ebpf.program_mut("cw_xdp") else {
            bail!("no XDP program");
        };
        xdp.load().context("the kernel refuses program cw_xdp")?;
        let xdp = xdp.fd()?.as_fd().as_raw_fd();
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("the object has no map {name}"))
        };
        let kernel = Self {
            services: Table::new(take("SERVICES")?)?,
            slots: Mapped::new(take("SLOTS")?, SLOTS as usize)?,
            backends: Mapped::new(take("BACKENDS")?, BACKENDS as usize)?,
            pods: Table::new(take("PODS")?)?,
            routes: Table::new(take("ROUTES")?)?,
            source_ranges: Table::new(take("SOURCE_RANGES")?)?,
            flows: Table::new(take("CONNTRACK")?)?,
            new_flows: Table::new(take("CONNTRACK_NEW")?)?,
            fragments: Table::new(take("FRAGMENTS")?)?,
            direct: Table::new(take("DIRECT_FLOWS")?)?,
            held: Table::new(take("HELD")?)?,
            affinity: Table::new(take("AFFINITY")?)?,
            budget: Table::new(take("ICMP_BUDGET")?)?,
            drops: Table::new(take("DROPS")?)?,
            counters: Table::new(take("SERVICE_COUNTERS")?)?,
            node: Mapped::new(take("NODE")?, 1)?,
            trace: Mapped::new(take("TRACE")?, 1)?,
            events: RingBuf::try_from(take("EVENTS")?)?,
            programs,
            xdp,
            next_hops: Table::new(take("NEXT_HOPS")?)?,
            next_hops6: Table::new(take("NEXT_HOPS6")?)?,
            processors: aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?,
            out: vec![0; 4096],
            _ebpf: ebpf,
        };
        Ok(kernel)
    }

    /// Describes the node.
    pub fn set_node(&self, node: &NodeConfig) {
        self.node.put(0, node);
    }

    /// Lets ICMP errors be sent, or not any more.
    pub fn set_mute(&self, mute: bool) -> Result<()> {
        let full_ns = if mute { u64::MAX } else { 0 };
        for index in 0..BUDGETS as u32 {
            self.budget.put(&index, &IcmpBudget { full_ns })?;
        }
        Ok(())
    }

    /// Whether somebody watches every packet.
    pub fn watch(&mut self, watched: bool) {
        let until_ns = if watched { u64::MAX } else { 0 };
        self.trace.put(
            0,
            &Trace {
                until_ns,
                packets_until_ns: until_ns,
            },
        );
        while self.events.next().is_some() {}
    }

    /// Runs a packet; `None` when the kernel does not take such a frame for a test at all.
    pub fn run(&mut self, hook: Hook, frame: &[u8], mark: u32) -> Result<Option<Seen>> {
        let (mut context, mut context_out) = ([0_u8; CONTEXT], [0_u8; CONTEXT]);
        context[MARK..MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        let mut attr = TestRun {
            program: self.programs[&hook],
            context_size_in: CONTEXT as u32,
            context_size_out: CONTEXT as u32,
            context_in: context.as_ptr() as u64,
            context_out: context_out.as_mut_ptr() as u64,
            ..self.test_run(frame)
        };
        if let Err(error) = bpf(PROG_TEST_RUN, &mut attr) {
            if error.raw_os_error() == Some(libc::EINVAL) && frame.len() < 60 {
                return Ok(None);
            }
            return Err(error).with_context(|| format!("cannot run {} on {} bytes", hook.program(), frame.len()));
        }
        let fate = match attr.result {
            0 => Fate::Pass,
            2 => Fate::Drop,
            7 => Fate::Redirect,
            other => bail!("{} returned {other}", hook.program()),
        };
        let mut marked = [0; 4];
        marked.copy_from_slice(&context_out[MARK..MARK + 4]);
        Ok(Some(Seen {
            fate,
            frame: self
                .out
                .get(..attr.size_out as usize)
                .context("a packet too large")?
                .to_vec(),
            mark: u32::from_ne_bytes(marked),
            told: self.told()?,
        }))
    }

    /// Runs the XDP program: the frame as it leaves again by the uplink; `None` when it is left to the kernel.
    pub fn run_xdp(&mut self, frame: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut attr = TestRun {
            program: self.xdp,
            ..self.test_run(frame)
        };
        match bpf(PROG_TEST_RUN, &mut attr) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && frame.len() < 60 => return Ok(None),
            result => result.with_context(|| format!("cannot run cw_xdp on {} bytes", frame.len()))?,
        };
        let out = self.out.get(..attr.size_out as usize).context("a frame too large")?;
        match attr.result {
            2 => {
                ensure!(out == frame, "cw_xdp changed a frame that it left to the kernel");
                Ok(None)
            }
            3 => Ok(Some(out.to_vec())),
            other => bail!("cw_xdp returned {other}"),
        }
    }

    fn test_run(&mut self, frame: &[u8]) -> TestRun {
        TestRun {
            size_in: frame.len() as u32,
            size_out: self.out.len() as u32,
            data_in: frame.as_ptr() as u64,
            data_out: self.out.as_mut_ptr() as u64,
            ..TestRun::default()
        }
    }

    /// Tells the XDP program of a neighbour.
    pub fn put_next_hop(&self, place: u32, hop: &[u8; 32]) -> Result<()> {
        self.next_hops.put_per_processor(&place, hop, self.processors)
    }

    /// The same for one with an address of IPv6.
    pub fn put_next_hop6(&self, place: u32, hop: &[u8; 48]) -> Result<()> {
        self.next_hops6.put_per_processor(&place, hop, self.processors)
    }

    fn told(&mut self) -> Result<Option<Told>> {
        let mut told = None;
        while let Some(item) = self.events.next() {
            ensure!(told.is_none(), "one packet was told of twice");
            let Ok(event) = Event::read_from_bytes(&item) else {
                bail!("a record of {} bytes", item.len());
            };
            told = Some(Told {
                verdict: event.verdict,
                reason: event.reason,
                service: event.service_id,
                backend: event.backend,
            });
        }
        Ok(told)
    }

    /// Dropped packets and their bytes since the maps were made, by reason.
    pub fn drops(&self) -> Result<BTreeMap<u32, (u64, u64)>> {
        let mut drops = BTreeMap::new();
        for reason in DropReason::ALL {
            let reason = reason as u32;
            let values = self.drops.per_processor(&reason, self.processors)?;
            let sum = values
                .iter()
                .fold((0, 0), |sum, value| (sum.0 + value.packets, sum.1 + value.bytes));
            drops.insert(reason, sum);
        }
        Ok(drops)
    }

    /// What services counted since the maps were made, by id.
    pub fn counters(&self, ids: impl Iterator<Item = u32>) -> Result<BTreeMap<u32, ServiceCounters>> {
        let mut counters = BTreeMap::new();
        for id in ids {
            let mut sum = ServiceCounters::default();
            for value in self.counters.per_processor(&id, self.processors)? {
                sum.connections += value.connections;
                sum.packets += value.packets;
                sum.bytes += value.bytes;
                sum.drops += value.drops;
            }
            counters.insert(id, sum);
        }
        Ok(counters)
    }

    /// Lets time pass for everything that is remembered. The kernel's clock cannot be moved, so what it stamped is moved back.
    pub fn age(&self, by: Duration) -> Result<()> {
        let by = by.as_nanos() as u64;
        age(&self.flows, by, |flow| &mut flow.last_seen_ns)?;
        age(&self.new_flows, by, |flow| &mut flow.last_seen_ns)?;
        age(&self.fragments, by, |route| &mut route.seen_ns)?;
        age(&self.direct, by, |flow| &mut flow.last_seen_ns)?;
        age(&self.held, by, |held| &mut held.seen_ns)?;
        age(&self.affinity, by, |client| &mut client.last_seen_ns)
    }

    /// Forgets all that packets left behind.
    pub fn forget(&self) -> Result<()> {
        self.flows.remove_all(&self.flows.all()?.0)?;
        self.new_flows.remove_all(&self.new_flows.all()?.0)?;
        self.fragments.remove_all(&self.fragments.all()?.0)?;
        self.direct.remove_all(&self.direct.all()?.0)?;
        self.held.remove_all(&self.held.all()?.0)?;
        self.affinity.remove_all(&self.affinity.all()?.0)
    }
}

fn age<K: Plain, V: Plain>(table: &Table<K, V>, by: u64, stamp: impl Fn(&mut V) -> &mut u64) -> Result<()> {
    let (keys, mut values) = table.all()?;
    for value in &mut values {
        *stamp(value) -= by;
    }
    table.put_all(&keys, &values)
}

/// The programs' clock (`bpf_ktime_get_coarse_ns`).
pub fn clock() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?.into())
}
