//! Drives the data path: services and routes, recomputed whole on any change, applied as differences.
//!
//! Changes that come while a pass runs lead to one more pass, however many they are. Nothing is applied before everything
//! was listed once: until then the pinned maps of the agent before this one are the better knowledge.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::IpAddr,
    time::{Duration, Instant},
};

use causeway_proto::{
    Resource,
    v1::{Node, ObjectReference, Pod, Service},
};
use tokio_util::sync::CancellationToken;

use super::{
    events::{Recorder, Severity, reference},
    host_ports::{add_host_ports, host_ports, pod_of},
    pods::chain,
    routes::{RoutePlan, RouteSettings, direct_problems, plan_routes},
    service_health::{HealthCheck, health_checks},
    services::{NodeView, depends_on_readiness, desired_services},
    topology::Topology,
};
use crate::{
    api::service_health::HealthPorts,
    bpf::{Collected, Datapath, DesiredRoute, DesiredService, DesiredServices, SyncReport, monotonic_now},
    metrics::{SyncMetrics, Synced},
    net::{DirectReport, Network},
    watch::Watches,
};

/// Everything is applied anew this often, whatever happens.
const FULL_PASS: Duration = Duration::from_secs(30);
/// Time for a burst of changes to come to rest before a pass.
const COALESCE: Duration = Duration::from_millis(2);

/// Flows that are over are collected this often; they take room for so much longer than they have to.
const COLLECTION: Duration = Duration::from_secs(10);

/// What the driver works with.
#[derive(Clone)]
pub struct Driver {
    /// The maps.
    pub datapath: Datapath,
    /// The cluster as last seen.
    pub watches: Watches,
    /// Takes events.
    pub recorder: Recorder,
    /// Counters.
    pub metrics: SyncMetrics,
    /// This node.
    pub node_name: String,
    /// Addresses that this node has for sure; those of its object in the API come on top.
    pub node_addresses: Vec<IpAddr>,
    /// How the pods of other nodes are reached.
    pub routes: RouteSettings,
    /// The kernel's routes.
    pub network: Network,
}

/// What a pass over the services found and did.
struct Pass {
    report: SyncReport,
    /// Ports of the node that pods cannot have, by the names they would have in the data path.
    taken_ports: BTreeSet<(String, String)>,
    checks: BTreeMap<u16, HealthCheck>,
    /// Readiness alone can change which backends are chosen.
    follow_readiness: bool,
}

impl Driver {
    /// Keeps services in step until `stop`.
    pub async fn run_services(self, stop: CancellationToken) {
        let watches = &self.watches;
        let (mut services, mut endpoints) = (watches.services.changes(), watches.endpoints.changes());
        let (mut nodes, mut pods) = (watches.nodes.changes(), watches.pods.changes());
        let readiness = self.datapath.readiness();
        let mut health_ports = HealthPorts::new(readiness.clone());
        let mut full = tokio::time::interval(FULL_PASS);
        let mut refused = BTreeSet::new();
        let mut follow_readiness = false;
        let mut view = NodeView::default();
        let mut ports = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = services.changed() => {}
                () = endpoints.changed() => {}
                // Most changes of nodes are heartbeats, and concern no service.
                () = nodes.changed() => if self.node_view() == view { continue },
                // Most pods have no port of the node.
                () = pods.changed() => if self.host_ports(&view) == ports { continue },
                () = readiness.changed(), if follow_readiness => {}
                _ = full.tick() => {}
            }
            if !watches.synced() {
                continue;
            }
            tokio::time::sleep(COALESCE).await;
            view = self.node_view();
            ports = self.host_ports(&view);
            let (driver, seen, host_ports) = (self.clone(), view.clone(), ports.clone());
            // A large pass takes a while; it must not hold up probes and heartbeats.
            match tokio::task::spawn_blocking(move || driver.pass_services(&seen, host_ports)).await {
                Ok(pass) => {
                    self.report(&pass, &mut refused);
                    follow_readiness = pass.follow_readiness;
                    for error in health_ports.apply(pass.checks).await {
                        tracing::error!(
                            error = chain(&error),
                            "load balancers get no answer, will be tried again"
                        );
                    }
                }
                Err(error) => tracing::error!(%error, "a pass over the services failed"),
            }
        }
    }

    /// This node among the others, as far as services are concerned.
    fn node_view(&self) -> NodeView {
        let nodes = self.watches.nodes.snapshot();
        let mut addresses = self.node_addresses.clone();
        let own = self.watches.nodes.get("", &self.node_name);
        let status = own.as_ref().and_then(|node| node.status.as_ref());
        let listed = status.into_iter().flat_map(|status| &status.addresses);
        // Host names among them are no addresses.
        addresses.extend(listed.filter_map(|address| address.address.parse::<IpAddr>().ok()));
        addresses.sort_unstable();
        addresses.dedup();
        NodeView {
            topology: Topology::new(&self.node_name, nodes.iter().map(|node| -> &Node { node })),
            addresses,
        }
    }

    /// What the data path should hold, as the cluster is now; for those who compare.
    pub fn desired_services(&self) -> DesiredServices {
        let (services, endpoints) = (self.watches.services.snapshot(), self.watches.endpoints.snapshot());
        let (readiness, view) = (self.datapath.readiness(), self.node_view());
        let mut desired = desired_services(&services, &endpoints, &view, |pod, listed| readiness.known(pod, listed));
        add_host_ports(&mut desired, self.host_ports(&view));
        desired
    }

    fn host_ports(&self, view: &NodeView) -> Vec<DesiredService> {
        host_ports(&self.watches.pods.snapshot(), &view.addresses)
    }

    /// The routes there should be, as the cluster is now.
    pub fn desired_routes(&self) -> Vec<DesiredRoute> {
        self.route_plan().map
    }

    fn route_plan(&self) -> RoutePlan {
        let nodes = self.watches.nodes.snapshot();
        let nodes = nodes.iter().map(|node| -> &Node { node });
        plan_routes(nodes, &self.node_name, &self.routes)
    }

    fn pass_services(&self, view: &NodeView, host_ports: Vec<DesiredService>) -> Pass {
        let begun = Instant::now();
        let (services, endpoints) = (self.watches.services.snapshot(), self.watches.endpoints.snapshot());
        let readiness = self.datapath.readiness();
        let mut desired = desired_services(&services, &endpoints, view, |pod, listed| readiness.known(pod, listed));
        let taken_ports = add_host_ports(&mut desired, host_ports);
        let report = self.datapath.sync_services(&desired);
        let took = begun.elapsed();
        self.metrics
            .passed(Synced::services, took, report.not_applied.is_empty());
        self.metrics.services(
            report.not_applied.len(),
            report.services_written + report.services_removed,
        );
        if !report.is_unchanged() {
            tracing::info!(
                services = desired.services.len(),
                written = report.services_written,
                removed = report.services_removed,
                slots = report.slots_written,
                backends = report.backends_written,
                ?took,
                "services applied"
            );
        }
        Pass {
            report,
            taken_ports,
            checks: health_checks(&services, &endpoints, &self.node_name),
            follow_readiness: depends_on_readiness(&services),
        }
    }

    /// Tells each newly refused service, and each pod that does not get its port, why, once.
    fn report(&self, pass: &Pass, refused: &mut BTreeSet<String>) {
        let failures = pass
            .report
            .not_applied
            .iter()
            .map(|failure| (&failure.name, failure.to_string()));
        let ports = pass
            .taken_ports
            .iter()
            .map(|(name, problem)| (name, format!("{name}: {problem}")));
        let mut now = BTreeSet::new();
        for (name, problem) in failures.chain(ports) {
            if !refused.contains(&problem) {
                let message = format!("node {}: {problem}", self.node_name);
                self.recorder
                    .record_about(self.about(name), Severity::Warning, "FailedToProgram", message);
            }
            now.insert(problem);
        }
        *refused = now;
    }

    /// The service, or with a host port the pod, behind the data path's name "namespace/name:port".
    fn about(&self, name: &str) -> ObjectReference {
        if let Some((namespace, name)) = pod_of(name) {
            return match self.watches.pods.get(namespace, name) {
                Some(pod) => reference(&*pod),
                None => ObjectReference {
                    kind: Pod::KIND.name().to_owned(),
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                    ..ObjectReference::default()
                },
            };
        }
        let key = name.rsplit_once(':').map_or(name, |(key, _)| key);
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        match self.watches.services.get(namespace, name) {
            Some(service) => reference(&*service),
            None => ObjectReference {
                kind: Service::KIND.name().to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                ..ObjectReference::default()
            },
        }
    }

    /// Keeps the routes to other nodes' pods in step until `stop`.
    pub async fn run_routes(self, stop: CancellationToken) {
        let mut nodes = self.watches.nodes.changes();
        let mut full = tokio::time::interval(FULL_PASS);
        let mut reported = BTreeSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = nodes.changed() => {}
                _ = full.tick() => {}
            }
            if self.watches.nodes.is_synced() {
                self.pass_routes(&mut reported).await;
            }
        }
    }

    /// Collects flows that are over until `stop`.
    pub async fn run_collection(self, stop: CancellationToken) {
        let mut due = tokio::time::interval(COLLECTION);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = due.tick() => {}
            }
            let driver = self.clone();
            match tokio::task::spawn_blocking(move || driver.collect()).await {
                Ok(Ok(collected)) if collected.removed == 0 => {}
                Ok(Ok(collected)) => tracing::debug!(?collected, "flows collected"),
                Ok(Err(error)) => tracing::error!(error = chain(&*error), "flows not collected, will be tried again"),
                Err(error) => tracing::error!(%error, "a collection of flows failed"),
            }
        }
    }

    fn collect(&self) -> Result<Collected, Box<dyn Error + Send + Sync>> {
        Ok(self.datapath.flow_collector()?.collect(monotonic_now()?)?)
    }

    /// The kernel's routes first: what the data path leaves to them must find them there. `reported` are the problems that
    /// were told already.
    async fn pass_routes(&self, reported: &mut BTreeSet<String>) {
        let begun = Instant::now();
        let plan = self.route_plan();
        let direct = self.network.sync_direct_routes(&self.routes.uplink, &plan.direct).await;
        let applied = self.datapath.sync_routes(&plan.map);
        let well = direct.is_ok() && applied.is_ok();
        self.metrics.passed(Synced::routes, begun.elapsed(), well);
        match direct {
            Ok(report) => self.report_direct(&report, reported),
            Err(error) => tracing::error!(error = chain(&error), "direct routes not applied, will be tried again"),
        }
        match applied {
            Ok(0) => {}
            Ok(changes) => tracing::info!(routes = plan.map.len(), changes, "routes applied"),
            Err(error) => tracing::error!(error = chain(&error), "routes not applied, will be tried again"),
        }
    }

    /// Tells each problem once, and when it is over.
    fn report_direct(&self, report: &DirectReport, reported: &mut BTreeSet<String>) {
        if report.written + report.removed > 0 {
            tracing::info!(
                written = report.written,
                removed = report.removed,
                "direct routes applied"
            );
        }
        let now = direct_problems(report, &self.routes.uplink);
        for problem in now.difference(reported) {
            tracing::warn!("{problem}");
        }
        for problem in reported.difference(&now) {
            tracing::info!("no longer so: {problem}");
        }
        *reported = now;
    }
}
