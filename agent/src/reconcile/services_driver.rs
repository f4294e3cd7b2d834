//! Drives the services of the data path.
//!
//! What may have changed is looked at by name, so that one change among very many services is in the maps at once. From time to
//! time every service is looked at, a part at a time between changes, so that whatever was missed is found. Nothing is applied
//! before everything was listed once: until then the pinned maps of the agent before this one are the better knowledge.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use causeway_proto::{
    Resource,
    event::EventType,
    v1::{Node, ObjectReference, Pod, Service},
};
use tokio_util::sync::CancellationToken;

use super::{
    datapath::{Driver, FULL_PASS},
    events::reference,
    host_ports,
    pods::chain,
    services::{NodeView, desired_services},
    services_index::ServiceName,
    services_planner::{Planned, Seen, ServicePlanner},
    topology::Topology,
};
use crate::{
    api::service_health::HealthPorts,
    bpf::{DesiredServices, SyncReport, desired::owner_of},
    metrics::Synced,
};

/// Services that are looked at together when it is time to look at all: a few milliseconds, for which a change may have to wait.
const PART: usize = 256;

/// What is to be done.
#[derive(Debug, Default)]
struct Work {
    /// Everything: the first time, and when the node itself has changed.
    everything: bool,
    /// Services that may have changed.
    dirty: BTreeSet<ServiceName>,
    /// Services that are looked at because it is time.
    sweep: VecDeque<ServiceName>,
    /// Services that are not as desired, and why.
    refused: BTreeMap<String, BTreeSet<String>>,
}

/// What a pass did.
struct Pass {
    planner: ServicePlanner,
    /// Those of the services that were refused before and that were looked at.
    again: Vec<String>,
    beside: Planned,
    report: SyncReport,
    took: Duration,
}

impl Driver {
    /// Keeps services in step until `stop`.
    pub async fn run_services(self, stop: CancellationToken) {
        let watches = &self.watches;
        let (services, endpoints, pods) = (
            watches.services.dirty(),
            watches.endpoints.dirty(),
            watches.pods.dirty(),
        );
        let mut nodes = watches.nodes.changes();
        let readiness = self.datapath.readiness();
        let mut health_ports = HealthPorts::new(readiness.clone());
        let mut full = tokio::time::interval(FULL_PASS);
        let mut planner = ServicePlanner::default();
        let mut work = Work {
            everything: true,
            ..Work::default()
        };
        let mut due: Option<Instant> = None;
        let mut look_at_node = true;
        tokio::select! {
            () = stop.cancelled() => return,
            () = watches.all_synced() => {}
        }
        loop {
            let settle = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = services.marked() => {}
                () = endpoints.marked() => {}
                () = pods.marked() => {}
                () = readiness.changed() => {}
                () = nodes.changed() => look_at_node = true,
                () = settle => {
                    self.settle().await;
                    work.retry_refused();
                }
                _ = full.tick() => {
                    if work.sweep.is_empty() {
                        work.sweep = self.every_service(&planner).into();
                    }
                    self.serve_health(&mut health_ports, planner.checks()).await;
                }
                () = std::future::ready(()), if !work.sweep.is_empty() => {}
            }
            work.dirty.extend(services.take());
            work.dirty.extend(endpoints.take());
            work.dirty.extend(pods.take().into_iter().map(host_ports::name_of));
            work.dirty.extend(planner.followers(readiness.take_changed()));
            // Most changes of nodes are heartbeats, and concern no service.
            if std::mem::take(&mut look_at_node) {
                work.everything |= planner.set_view(self.node_view());
            }
            let names = work.take(|| self.every_service(&planner));
            let complete = std::mem::take(&mut work.everything);
            if names.is_empty() && !complete {
                due = self.datapath.services_due();
                continue;
            }
            let driver = self.clone();
            let refused = work.refused.keys().cloned().collect();
            // A large pass takes a while; it must not hold up probes and heartbeats.
            let pass =
                tokio::task::spawn_blocking(move || driver.pass_services(planner, names, complete, &refused)).await;
            match pass {
                Ok(pass) => {
                    self.report(&pass, &mut work.refused);
                    planner = pass.planner;
                    if pass.report.services_removed > 0 {
                        work.retry_refused();
                    }
                    self.sockets.gone(pass.report.gone);
                }
                Err(error) => {
                    tracing::error!(%error, "a pass over the services failed");
                    planner = ServicePlanner::default();
                    self.listings.clear();
                    look_at_node = true;
                    work.everything = true;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            if let Some(checks) = planner.changed_checks() {
                self.serve_health(&mut health_ports, checks).await;
            }
            due = self.datapath.services_due();
        }
    }

    async fn serve_health(&self, ports: &mut HealthPorts, checks: BTreeMap<u16, super::service_health::HealthCheck>) {
        for error in ports.apply(checks).await {
            tracing::error!(
                error = chain(&error),
                "load balancers get no answer, will be tried again"
            );
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
        let host_ports = host_ports::host_ports(&self.watches.pods.snapshot(), &view.addresses);
        host_ports::add_host_ports(&mut desired, host_ports);
        desired
    }

    /// Every service there is, and every one that there was.
    fn every_service(&self, planner: &ServicePlanner) -> Vec<ServiceName> {
        let mut names: BTreeSet<ServiceName> = planner.services().cloned().collect();
        for service in self.watches.services.snapshot() {
            let meta = service.meta();
            names.insert((meta.namespace.clone(), meta.name.clone()));
        }
        for pod in self.watches.pods.snapshot() {
            let meta = pod.meta();
            names.insert(host_ports::name_of((meta.namespace.clone(), meta.name.clone())));
        }
        let applied = self.datapath.service_owners();
        names.extend(applied.iter().map(|owner| service_name(owner)));
        names.into_iter().collect()
    }

    fn pass_services(
        &self,
        mut planner: ServicePlanner,
        names: Vec<ServiceName>,
        complete: bool,
        refused: &BTreeSet<String>,
    ) -> Pass {
        let begun = Instant::now();
        let readiness = self.datapath.readiness();
        let look = |of: &ServiceName| match host_ports::pod_named(of) {
            Some((namespace, name)) => Seen::Pod(self.watches.pods.get(namespace, name)),
            None => Seen::Service(
                self.watches.services.get(&of.0, &of.1),
                self.watches.endpoints.get(&of.0, &of.1),
            ),
        };
        if complete {
            self.datapath.all_services_seen();
        }
        let (mut services, mut again) = (0, Vec::new());
        let mut planning = planner.plan(names, look, |pod, listed| readiness.known(pod, listed));
        let report = self.datapath.update_services(planning.by_ref().inspect(|of| {
            services += 1;
            again.extend(refused.get(&of.owner).cloned());
        }));
        let beside = planning.finish();
        for (before, after) in &beside.listed {
            self.listings.replace(before, after);
        }
        let took = begun.elapsed();
        if !report.is_unchanged() {
            tracing::info!(
                services,
                written = report.services_written,
                removed = report.services_removed,
                slots = report.slots_written,
                backends = report.backends_written,
                ?took,
                "services applied"
            );
        }
        Pass {
            planner,
            again,
            beside,
            report,
            took,
        }
    }

    /// Frees what has rested long enough.
    async fn settle(&self) {
        let datapath = self.datapath.clone();
        match tokio::task::spawn_blocking(move || datapath.settle_services()).await {
            Ok(report) => self.sockets.gone(report.gone),
            Err(error) => tracing::error!(%error, "what has rested could not be freed"),
        }
    }

    /// Counts, and tells each newly refused service why, once.
    fn report(&self, pass: &Pass, refused: &mut BTreeMap<String, BTreeSet<String>>) {
        let report = &pass.report;
        let mut now: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let failures = report.not_applied.iter();
        let failures = failures.map(|failure| (failure.owner(), failure.to_string()));
        let lost = pass.beside.lost.iter();
        let lost = lost.map(|(name, problem)| (owner_of(name), format!("{name}: {problem}")));
        for (owner, text) in failures.chain(lost) {
            if refused.get(owner).is_none_or(|known| !known.contains(&text)) {
                let message = format!("node {}: {text}", self.node_name);
                let about = self.about(&service_name(owner));
                self.recorder
                    .record_about(about, EventType::Warning, "FailedToProgram", message);
            }
            now.entry(owner).or_default().insert(text);
        }
        for owner in &pass.again {
            refused.remove(owner);
        }
        refused.extend(now.into_iter().map(|(owner, texts)| (owner.to_owned(), texts)));
        self.metrics
            .passed(Synced::services, pass.took, report.not_applied.is_empty());
        let written = report.services_written + report.services_removed;
        self.metrics
            .services(refused.values().map(BTreeSet::len).sum(), written);
    }

    /// The service, or with a host port the pod, behind a name.
    fn about(&self, of: &ServiceName) -> ObjectReference {
        let (found, kind, namespace, name) = if let Some((namespace, name)) = host_ports::pod_named(of) {
            let pod = self.watches.pods.get(namespace, name);
            (pod.map(|pod| reference(&*pod)), Pod::KIND, namespace, name)
        } else {
            let (namespace, name) = of;
            let service = self.watches.services.get(namespace, name);
            let found = service.map(|service| reference(&*service));
            (found, Service::KIND, namespace.as_str(), name.as_str())
        };
        found.unwrap_or_else(|| ObjectReference {
            kind: kind.name().to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..ObjectReference::default()
        })
    }
}

impl Work {
    /// The services to look at now: all, or those that may have changed, or the next part of those whose time it is.
    fn take(&mut self, all: impl FnOnce() -> Vec<ServiceName>) -> Vec<ServiceName> {
        if self.everything {
            self.sweep.clear();
            self.dirty.clear();
            return all();
        }
        if self.dirty.is_empty() {
            let part = self.sweep.len().min(PART);
            return self.sweep.drain(..part).collect();
        }
        std::mem::take(&mut self.dirty).into_iter().collect()
    }

    /// Something was freed: perhaps there is room now.
    fn retry_refused(&mut self) {
        self.dirty.extend(self.refused.keys().map(|owner| service_name(owner)));
    }
}

/// The name behind the data path's "namespace/name".
fn service_name(owner: &str) -> ServiceName {
    let (namespace, name) = owner.rsplit_once('/').unwrap_or(("", owner));
    (namespace.to_owned(), name.to_owned())
}
