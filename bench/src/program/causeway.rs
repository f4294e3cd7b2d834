//! Causeway's maps, by the agent's own code, from the objects that the API server gives it.

use std::{
    collections::HashMap,
    fs,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use causeway_abi::{
    Address,
    service::{SCOPE_CLUSTER, SCOPE_NODE, ServiceKey},
};
use causeway_agent::{
    bpf::{FlowCollector, MapSizes, monotonic_now},
    reconcile::{
        services_index::ServiceName,
        services_planner::{Seen, ServicePlanner},
    },
};
use causeway_maps::{AddressExt as _, PinnedMaps, Protocol, pins, shape};
use causeway_proto::v1;

use super::{Passed, Programmer, objects};
use crate::{
    service::{ENDPOINTS, NAMESPACE, Service, ServicePort, Transport},
    site::{Causeway, Site},
};

/// Longer than any flow lives.
const LONG_AFTER: Duration = Duration::from_hours(1_000);
/// Slots of a service with few backends, at most.
const SLOTS_PER_SERVICE: u32 = 64;

/// The agent's sizes, or what so many services need if that is more.
pub fn sizes(services: usize) -> MapSizes {
    let (usual, services) = (MapSizes::default(), services as u32);
    MapSizes {
        services: usual.services.max(services + services / 4),
        slots: usual.slots.max(services * SLOTS_PER_SERVICE),
        backends: usual.backends.max(services * ENDPOINTS as u32 * 5 / 4),
        ..usual
    }
}

/// Writes maps.
pub struct CausewayProgrammer {
    maps: PinnedMaps,
    flows: FlowCollector,
    cluster: Cluster,
    planner: ServicePlanner,
    /// The other node's.
    other_planner: ServicePlanner,
}

/// The cluster as an agent knows it.
#[derive(Default)]
struct Cluster {
    objects: HashMap<ServiceName, (Arc<v1::Service>, Arc<v1::Endpoints>)>,
}

impl CausewayProgrammer {
    /// On a node whose maps hold no service.
    pub fn new(site: &Site) -> Result<Self> {
        let part = part(site)?;
        let planner = |node| {
            let mut planner = ServicePlanner::default();
            planner.set_view(objects::view(node));
            planner
        };
        Ok(Self {
            maps: PinnedMaps::open(&part.pin_dir).context("cannot open the pinned maps")?,
            flows: part
                .datapath
                .flow_collector()
                .context("cannot open the connection table")?,
            cluster: Cluster::default(),
            planner: planner(objects::NODE),
            other_planner: planner(objects::OTHER_NODE),
        })
    }

    /// Brings one service into the other node's maps, if that has to know of it, or all.
    fn sync_elsewhere(&mut self, site: &Site, changed: Option<&ServiceName>) -> Result<()> {
        // Only an answer that goes out there directly has to be translated there.
        match site.other().filter(|_| site.answers_directly()) {
            Some(other) => self.cluster.sync(other, &mut self.other_planner, changed),
            None => Ok(()),
        }
    }
}

impl Cluster {
    /// Brings one service into a node's maps, or all, as the agent does with those that may have changed.
    fn sync(&self, node: &Causeway, planner: &mut ServicePlanner, changed: Option<&ServiceName>) -> Result<()> {
        let readiness = node.datapath.readiness();
        let look = |name: &ServiceName| {
            let (service, endpoints) = self.objects.get(name).cloned().unzip();
            Seen::Service(service, endpoints)
        };
        let known = |pod, listed| readiness.known(pod, listed);
        let names = match changed {
            Some(name) => vec![name.clone()],
            None => self.objects.keys().cloned().collect(),
        };
        let report = node.datapath.update_services(planner.plan(names, look, known));
        match report.not_applied.first() {
            None => Ok(()),
            Some(first) => bail!("{} services not applied, the first: {first}", report.not_applied.len()),
        }
    }
}

fn name(service: &Service) -> ServiceName {
    (NAMESPACE.to_owned(), service.name())
}

fn part(site: &Site) -> Result<&Causeway> {
    site.causeway.as_ref().context("a node without Causeway")
}

impl Programmer for CausewayProgrammer {
    fn prepare(&mut self, services: &[Service]) {
        let objects = |service: &Service| {
            (
                Arc::new(objects::service(service)),
                Arc::new(objects::endpoints(service)),
            )
        };
        self.cluster.objects = services
            .iter()
            .map(|service| (name(service), objects(service)))
            .collect();
    }

    fn program(&mut self, site: &Site, _: &[Service]) -> Result<()> {
        self.cluster.sync(part(site)?, &mut self.planner, None)
    }

    fn change(&mut self, site: &Site, services: &[Service], changed: usize) -> Result<()> {
        let service = &services[changed];
        let name = name(service);
        if let Some((_, endpoints)) = self.cluster.objects.get_mut(&name) {
            *endpoints = Arc::new(objects::endpoints(service));
        }
        self.cluster.sync(part(site)?, &mut self.planner, Some(&name))?;
        self.sync_elsewhere(site, Some(&name))
    }

    fn program_elsewhere(&mut self, site: &Site) -> Result<()> {
        self.sync_elsewhere(site, None)
    }

    fn flip(&mut self, site: &Site, backend: Ipv4Addr, ready: bool) -> Result<bool> {
        // Of pods on other nodes, probes here know nothing.
        if site.is_remote() {
            return Ok(false);
        }
        part(site)?.datapath.readiness().set_ready(backend.into(), ready);
        Ok(true)
    }

    fn passed(&mut self, site: &Site, service: &Service, transport: Transport) -> Result<Passed> {
        let port = service.ports().find(|port| port.transport == transport);
        let port = port.context("a service without such a port")?;
        let key = ServiceKey {
            address: Address::from_ip(port.external.unwrap_or(port.vip).into()),
            port_be: port.port.to_be(),
            protocol: protocol(&port).0,
            scope: if port.external.is_some() {
                SCOPE_NODE
            } else {
                SCOPE_CLUSTER
            },
        };
        let entry = self
            .maps
            .services
            .get(&key)?
            .context("a service that is not in the map")?;
        let counters = self.maps.service_counters.sum(entry.service_id)?;
        Ok(Passed {
            connections: counters.connections,
            packets: counters.packets,
            early: site.sent_by_xdp()?,
        })
    }

    fn memory(&self, site: &Site) -> Result<u64> {
        map_memory(site)
    }

    fn forget_flows(&mut self, _: &Site) -> Result<()> {
        let now = monotonic_now().context("cannot tell the time")?;
        self.flows
            .collect(now + LONG_AFTER)
            .context("cannot empty the connection table")?;
        for (key, _) in self.maps.conntrack_new.entries()? {
            self.maps.conntrack_new.remove(&key)?;
        }
        Ok(())
    }
}

/// Bytes that the kernel has charged for all maps of a node (`memlock` in /proc/PID/fdinfo).
fn map_memory(site: &Site) -> Result<u64> {
    let maps_dir = pins::maps_dir(&part(site)?.pin_dir);
    let mut sum = 0;
    for map in shape::ALL {
        let Some(data) = map.open(&maps_dir)? else { continue };
        let path = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let memory = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        sum += memory
            .and_then(|number| number.trim().parse::<u64>().ok())
            .with_context(|| format!("{path} does not tell memory"))?;
    }
    Ok(sum)
}

fn protocol(port: &ServicePort<'_>) -> Protocol {
    match port.transport {
        Transport::Tcp => Protocol::TCP,
        Transport::Udp => Protocol::UDP,
    }
}
