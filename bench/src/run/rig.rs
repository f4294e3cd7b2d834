//! A node with everything on it that a measurement needs.

use std::{
    collections::HashMap,
    net::SocketAddrV4,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

use super::BACKENDS;
use crate::{
    mode::{Backends, Mode, Position, SiteKind},
    program::{
        CausewayProgrammer, IptablesProgrammer, IpvsProgrammer, NftablesProgrammer, NoProgrammer, Passed, Programmer,
        Variant, sizes,
    },
    service::{POD_TCP, POD_UDP, Service, Transport, VIP_TCP, VIP_UDP, services},
    site::{Settings, Site},
    worker::{Target, Task, Worker, client, server},
};

/// A node, its processes and its services. Fields are dropped in this order: processes first, namespaces last.
pub(crate) struct Rig {
    hooked: Option<Worker>,
    unhooked: Option<Worker>,
    servers: Vec<Worker>,
    programmer: Box<dyn Programmer>,
    /// Services as they are programmed.
    pub(crate) services: Vec<Service>,
    /// What counters said last: nothing may pass between measurements.
    passed: HashMap<(usize, bool), Passed>,
    pub(crate) site: Site,
}

/// Rigs that were built: there may be several of a kind, and their names must differ.
static BUILT: AtomicU32 = AtomicU32::new(0);

impl Rig {
    /// A node without services and processes.
    pub(crate) fn build(kind: SiteKind, backends: Backends, count: usize, positions: &[Position]) -> Result<Self> {
        let settings = kind.has_causeway().then(|| Settings {
            sizes: sizes(count),
            xdp: kind != SiteKind::Causeway,
            direct_return: kind == SiteKind::CausewayXdpDirect,
        });
        let number = BUILT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind:?}-{count}-{number}").to_lowercase();
        let site = match (backends, &settings) {
            (Backends::Remote, settings) => Site::remote(&name, BACKENDS, settings.as_ref())?,
            (Backends::Local, Some(settings)) => Site::with_causeway(&name, BACKENDS, settings)?,
            (Backends::Local, None) => Site::plain(BACKENDS)?,
        };
        let mut programmer: Box<dyn Programmer> = match kind {
            SiteKind::Causeway | SiteKind::CausewayXdp | SiteKind::CausewayXdpDirect => {
                Box::new(CausewayProgrammer::new(&site)?)
            }
            SiteKind::Ipvs => Box::new(IpvsProgrammer::new(&site)?),
            SiteKind::Plain => Box::new(NoProgrammer),
            SiteKind::Iptables => Box::new(IptablesProgrammer::new(&site, Variant::quickest())?),
            SiteKind::IptablesNft => Box::new(IptablesProgrammer::new(&site, Variant::nft())?),
            SiteKind::Nftables => Box::new(NftablesProgrammer::new(&site)?),
        };
        let measured: Vec<usize> = positions.iter().map(|position| position.index(count)).collect();
        let services = services(count, &measured, &site.backend_addresses(), site.is_remote());
        programmer.prepare(&services);
        Ok(Self {
            hooked: None,
            unhooked: None,
            servers: Vec::new(),
            programmer,
            services,
            passed: HashMap::new(),
            site,
        })
    }

    /// Starts client and servers.
    pub(crate) fn start_workers(&mut self) -> Result<()> {
        self.programmer.program_elsewhere(&self.site)?;
        let causeway = self.site.causeway.as_ref().filter(|_| !self.site.is_remote());
        let cgroup = causeway.map(|causeway| &causeway.cgroup);
        for (number, pod) in (1..).zip(&self.site.backends) {
            self.servers.push(server(pod, cgroup, number)?);
        }
        self.unhooked = Some(client(&self.site.client, None)?);
        if cgroup.is_some() {
            self.hooked = Some(client(&self.site.client, cgroup)?);
        }
        Ok(())
    }

    /// Programs all services.
    pub(crate) fn program(&mut self) -> Result<()> {
        self.programmer.program(&self.site, &self.services)
    }

    /// Changes the backends of one service.
    pub(crate) fn change(&mut self, service: usize, backends: &[usize]) -> Result<()> {
        let addresses = self.site.backend_addresses();
        self.services[service].endpoints = backends.iter().map(|backend| addresses[*backend]).collect();
        self.programmer.change(&self.site, &self.services, service)
    }

    /// Flips a backend's readiness; false where there is no such thing.
    pub(crate) fn flip(&mut self, backend: usize, ready: bool) -> Result<bool> {
        let address = self.site.backends[backend].address;
        self.programmer.flip(&self.site, address, ready)
    }

    /// Bytes of kernel memory.
    pub(crate) fn memory(&self) -> Result<u64> {
        self.programmer.memory(&self.site)
    }

    /// Forgets the flows of earlier rounds.
    pub(crate) fn forget_flows(&mut self) -> Result<()> {
        self.programmer.forget_flows(&self.site)
    }

    /// The client of a mode.
    pub(crate) fn client(&mut self, mode: Mode) -> Result<&mut Worker> {
        let client = match mode {
            Mode::Direct | Mode::CausewaySocket if self.hooked.is_some() => &mut self.hooked,
            _ => &mut self.unhooked,
        };
        client.as_mut().context("the client was not started")
    }

    /// Processor time of client and servers so far.
    pub(crate) fn workers_cpu_ns(&mut self, mode: Mode) -> Result<u64> {
        let mut sum = self.client(mode)?.cpu_time()?;
        for server in &self.servers {
            sum += server.cpu_time()?;
        }
        Ok(sum.as_nanos() as u64)
    }

    /// Whom the client calls for a task: one virtual address, or each backend.
    pub(crate) fn targets(&self, service: Option<usize>, task: Task) -> Vec<Target> {
        let transport = transport_of(task);
        let (vip_port, pod_port) = match transport {
            Transport::Tcp => (VIP_TCP, POD_TCP),
            Transport::Udp => (VIP_UDP, POD_UDP),
        };
        let numbered = || (1_u8..).zip(&self.site.backends);
        match service {
            Some(index) => vec![Target {
                address: SocketAddrV4::new(self.services[index].called(), vip_port),
                servers: numbered().map(|(number, _)| number).collect(),
            }],
            None => numbered()
                .map(|(number, pod)| Target {
                    address: SocketAddrV4::new(pod.address, pod_port),
                    servers: vec![number],
                })
                .collect(),
        }
    }

    /// What went through a service since the last call.
    pub(crate) fn passed_since(&mut self, service: usize, transport: Transport) -> Result<Passed> {
        let now = self.programmer.passed(&self.site, &self.services[service], transport)?;
        let before = self
            .passed
            .insert((service, transport == Transport::Udp), now)
            .unwrap_or_default();
        Ok(Passed {
            connections: now.connections.saturating_sub(before.connections),
            packets: now.packets.saturating_sub(before.packets),
            early: now.early.saturating_sub(before.early),
        })
    }

    /// Indexes of the services that are measured.
    pub(crate) fn measured(&self) -> Vec<usize> {
        let measured = self.services.iter().filter(|service| service.measured);
        measured.map(|service| service.index).collect()
    }
}

/// The protocol of a task.
pub(crate) fn transport_of(task: Task) -> Transport {
    match task {
        Task::Udp => Transport::Udp,
        _ => Transport::Tcp,
    }
}
