//! Whether the kernel holds what the cluster wants, every difference in words.
//!
//! What is wanted comes from the very functions that the reconcilers apply; what is held, from the pinned maps. The two are
//! never read at one instant, so the agent looks several times and tells of what stayed different.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use causeway_maps::{
    MapsError, PinnedMaps,
    view::{
        self, AttachmentView, BackendState, NodeView, PodView, ProgramView, RouteView, ServiceBackendView, ServiceView,
    },
};
use causeway_proto::v1::{CheckResponse, Difference, Pod, PodStatus};
use tonic::Status;

use super::Inspector;
use crate::{
    bpf::{DesiredRoute, DesiredService, DesiredServices, RouteMode, desired::Scope},
    reconcile::pods::chain,
};

/// A difference must be there this often in a row.
const LOOKS: usize = 4;
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(400);

/// What the cluster wants of this node.
#[derive(Debug, Default)]
pub struct Wanted {
    services: DesiredServices,
    routes: Vec<DesiredRoute>,
    /// Addresses and names of pods that run here.
    running: BTreeMap<String, String>,
    /// Addresses of all pods bound here, also of those that begin or end.
    bound: BTreeSet<String>,
}

/// What the kernel holds.
#[derive(Debug)]
pub struct Held {
    services: Vec<ServiceView>,
    routes: Vec<RouteView>,
    pods: Vec<PodView>,
    programs: Vec<ProgramView>,
    node: NodeView,
}

/// Looks several times and tells what stayed different.
pub async fn check(inspector: &Inspector) -> Result<CheckResponse, Status> {
    if !inspector.driver.watches.synced() {
        return Err(Status::unavailable(
            "the agent has not heard yet from the control plane what the cluster wants",
        ));
    }
    let mut last = None;
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let mut response = look_once(inspector.clone()).await?;
        if let Some(before) = last.take() {
            keep_both(&mut response, &before);
        }
        if response.differences.is_empty() {
            return Ok(response);
        }
        last = Some(response);
    }
    Ok(last.unwrap_or_default())
}

async fn look_once(inspector: Inspector) -> Result<CheckResponse, Status> {
    let work = move || {
        let held = Held::read(&PinnedMaps::open(&inspector.pin_dir)?)?;
        let wanted = Wanted::of(&inspector);
        Ok(response(&wanted, &held))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error: MapsError| Status::internal(chain(&error)))
}

fn keep_both(now: &mut CheckResponse, before: &CheckResponse) {
    now.differences
        .retain(|difference| before.differences.contains(difference));
}

impl Wanted {
    fn of(inspector: &Inspector) -> Self {
        let pods = inspector.driver.watches.pods.snapshot();
        let mut running = BTreeMap::new();
        let mut bound = BTreeSet::new();
        for pod in &pods {
            let Some((addresses, name, runs)) = pod_of(pod) else {
                continue;
            };
            for address in addresses {
                bound.insert(address.clone());
                if runs {
                    running.insert(address, name.clone());
                }
            }
        }
        Self {
            services: inspector.driver.desired_services(),
            routes: inspector.driver.desired_routes(),
            running,
            bound,
        }
    }
}

/// Addresses, name, and whether it must be reachable.
fn pod_of(pod: &Pod) -> Option<(Vec<String>, String, bool)> {
    let (metadata, status) = (pod.metadata.as_ref()?, pod.status.as_ref()?);
    if status.pod_ip.is_empty() || status.pod_ip == status.host_ip {
        return None;
    }
    let runs = status.phase == "Running" && metadata.deletion_timestamp.is_none();
    Some((
        addresses_of(status),
        format!("{}/{}", metadata.namespace, metadata.name),
        runs,
    ))
}

/// All addresses of a pod, each once.
pub fn addresses_of(status: &PodStatus) -> Vec<String> {
    let all = status.pod_ips.iter().map(|one| &one.ip).chain([&status.pod_ip]);
    let distinct: BTreeSet<&String> = all.filter(|ip| !ip.is_empty()).collect();
    distinct.into_iter().cloned().collect()
}

impl Held {
    fn read(maps: &PinnedMaps) -> Result<Self, MapsError> {
        Ok(Self {
            services: view::services(maps)?,
            routes: view::routes(maps)?,
            pods: view::pods(maps)?,
            programs: view::programs(maps, None)?,
            node: view::node(maps)?,
        })
    }
}

fn response(wanted: &Wanted, held: &Held) -> CheckResponse {
    let mut differences = Vec::new();
    let backends = services(wanted, held, &mut differences);
    pods(wanted, held, &mut differences);
    routes(wanted, held, &mut differences);
    programs(held, &mut differences);
    CheckResponse {
        differences,
        services: wanted.services.services.len() as u32,
        backends,
        pods: wanted.running.len() as u32,
        routes: wanted.routes.len() as u32,
    }
}

fn difference(kind: &str, name: impl Into<String>, problem: impl Into<String>) -> Difference {
    Difference {
        kind: kind.to_owned(),
        name: name.into(),
        problem: problem.into(),
    }
}

/// Compares services and backends; the number of backends compared.
fn services(wanted: &Wanted, held: &Held, found: &mut Vec<Difference>) -> u32 {
    let mut backends = 0;
    let mut known = BTreeSet::new();
    for service in &wanted.services.services {
        for (vip, scope, choice) in frontends(service) {
            known.insert((vip.clone(), scope));
            let there = held.services.iter().find(|held| held.vip == vip && held.scope == scope);
            let Some(there) = there else {
                found.push(difference(
                    "Service",
                    &service.name,
                    format!("has no entry in the kernel for {vip}"),
                ));
                continue;
            };
            if there.name != service.name {
                let problem = format!("the kernel has {vip} as \"{}\"", there.name);
                found.push(difference("Service", &service.name, problem));
            }
            if there.affinity_seconds != service.affinity_seconds {
                found.push(difference(
                    "Service",
                    &service.name,
                    format!(
                        "session affinity should last {}s, the kernel has {}s",
                        service.affinity_seconds, there.affinity_seconds
                    ),
                ));
            }
            backends += choice.len() as u32;
            service_backends(&service.name, &choice, &there.backends, found);
        }
    }
    for service in &held.services {
        if !known.contains(&(service.vip.clone(), service.scope.as_str())) {
            let problem = format!(
                "is in the kernel at {} ({}), but nobody wants it",
                service.vip, service.scope
            );
            found.push(difference("Service", &service.name, problem));
        }
    }
    backends
}

/// Address, and whether it is to take connections as far as readiness goes.
type Choice = BTreeMap<String, bool>;

fn frontends(service: &DesiredService) -> Vec<(String, &'static str, Choice)> {
    let endpoint =
        |address: std::net::IpAddr, port, protocol| format!("{}/{protocol}", std::net::SocketAddr::new(address, port));
    service
        .frontends
        .iter()
        .map(|frontend| {
            let choice = service
                .choice(frontend.local_only)
                .map(|backend| {
                    let id = backend.id;
                    // Whatever probes say of it, where its service asks for that.
                    let ready = backend.ready || id.ready_always;
                    (endpoint(id.address, id.port, id.protocol), ready)
                })
                .collect();
            let scope = match frontend.scope {
                Scope::Cluster => "Cluster",
                Scope::External => "External",
            };
            let vip = frontend.vip;
            (endpoint(vip.address, vip.port, vip.protocol), scope, choice)
        })
        .collect()
}

fn service_backends(service: &str, wanted: &Choice, held: &[ServiceBackendView], found: &mut Vec<Difference>) {
    for (address, ready) in wanted {
        let Some(there) = held.iter().find(|held| held.backend.address == *address) else {
            let problem = format!("is missing from the kernel's table of {service}: gets none of its connections");
            found.push(difference("Backend", address, problem));
            continue;
        };
        let is_ready = there.backend.state.contains(&BackendState::Ready);
        if is_ready != *ready {
            let words = |ready| if ready { "ready" } else { "not ready" };
            let problem = format!(
                "of {service} is {} for the cluster, {} for the kernel",
                words(*ready),
                words(is_ready)
            );
            found.push(difference("Backend", address, problem));
        }
    }
    for there in held {
        if !wanted.contains_key(&there.backend.address) {
            let problem = format!(
                "is in the kernel's table of {service} with {} slots, but not behind it",
                there.slots
            );
            found.push(difference("Backend", &there.backend.address, problem));
        }
    }
}

fn pods(wanted: &Wanted, held: &Held, found: &mut Vec<Difference>) {
    let tcx: Vec<u32> = held
        .programs
        .iter()
        .filter(|program| program.name == "cw_from_pod")
        .flat_map(|program| program.attached.iter().filter_map(|place| place.ifindex))
        .collect();
    for (address, name) in &wanted.running {
        let Some(pod) = held.pods.iter().find(|pod| pod.address == *address) else {
            found.push(difference(
                "Pod",
                name,
                format!("with address {address} is not in the kernel: it is unreachable"),
            ));
            continue;
        };
        // On kernels without tcx programs hang on filters, which leave no link to look at.
        if !tcx.is_empty() && !tcx.contains(&pod.ifindex) {
            let problem = format!(
                "cw_from_pod is not attached to its interface {}: what it sends is not balanced",
                pod.ifindex
            );
            found.push(difference("Pod", name, problem));
        }
    }
    for pod in &held.pods {
        if !wanted.bound.contains(&pod.address) {
            let problem = "is in the kernel, but no pod of this node has it";
            found.push(difference("Pod", &pod.address, problem));
        }
    }
}

fn routes(wanted: &Wanted, held: &Held, found: &mut Vec<Difference>) {
    let mut known = BTreeSet::new();
    for route in &wanted.routes {
        let prefix = format!("{}/{}", route.address, route.prefix_len);
        match held.routes.iter().find(|held| held.prefix == prefix) {
            None => {
                let problem = format!("is not in the kernel: pods of node {} are unreachable", route.node);
                found.push(difference("Route", &prefix, problem));
            }
            Some(there) if there.mode != mode_name(route.mode) => {
                let problem = format!("should be {}, the kernel has {}", mode_name(route.mode), there.mode);
                found.push(difference("Route", &prefix, problem));
            }
            Some(there) if there.node != route.node.to_string() => {
                let problem = format!("should lead to {}, the kernel sends to {}", route.node, there.node);
                found.push(difference("Route", &prefix, problem));
            }
            Some(_) => {}
        }
        known.insert(prefix);
    }
    for route in &held.routes {
        if !known.contains(&route.prefix) {
            let problem = format!("leads to {} in the kernel, but no node has that range", route.node);
            found.push(difference("Route", &route.prefix, problem));
        }
    }
}

fn mode_name(mode: RouteMode) -> &'static str {
    match mode {
        RouteMode::Vxlan { .. } => "VXLAN",
        RouteMode::Native => "Native",
    }
}

/// Programs that must be attached, by the names the kernel keeps.
const ON_CGROUP: [&str; 9] = [
    "cw_connect4",
    "cw_connect6",
    "cw_sendmsg4",
    "cw_sendmsg6",
    "cw_recvmsg4",
    "cw_recvmsg6",
    "cw_getpeername4",
    "cw_getpeername6",
    "cw_sock_release",
];

fn programs(held: &Held, found: &mut Vec<Difference>) {
    let places = |name: &str| -> Vec<&AttachmentView> {
        // The kernel keeps 15 characters of a name.
        let kept = &name[..name.len().min(15)];
        let named = held.programs.iter().filter(|program| program.name == kept);
        named.flat_map(|program| &program.attached).collect()
    };
    for name in ON_CGROUP {
        if !places(name).iter().any(|place| place.cgroup.is_some()) {
            let problem = "is not attached to the node's cgroup: sockets are not balanced";
            found.push(difference("Program", name, problem));
        }
    }
    let has_tcx = held
        .programs
        .iter()
        .flat_map(|program| &program.attached)
        .any(|place| place.ifindex.is_some());
    if !has_tcx {
        return;
    }
    let (tunnel, uplink) = (held.node.tunnel_ifindex, held.node.uplink_ifindex);
    let on_tunnel = "is not attached to the tunnel device: pods of other nodes are unreachable";
    let on_uplink = "is not attached to the uplink: services are not reached from outside, and pods not the world";
    for (name, ifindex, problem) in [
        ("cw_from_tunnel", tunnel, on_tunnel),
        ("cw_to_tunnel", tunnel, on_tunnel),
        ("cw_from_uplink", uplink, on_uplink),
        ("cw_to_uplink", uplink, on_uplink),
    ] {
        if ifindex != 0 && !places(name).iter().any(|place| place.ifindex == Some(ifindex)) {
            found.push(difference("Program", name, problem));
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
