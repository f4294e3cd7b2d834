//! Drives the data path: services and routes, recomputed whole on any change, applied as differences.
//!
//! Changes that come while a pass runs lead to one more pass, however many they are. Nothing is applied before everything
//! was listed once: until then the pinned maps of the agent before this one are the better knowledge.

use std::{
    collections::BTreeSet,
    error::Error,
    time::{Duration, Instant},
};

use causeway_proto::{
    Resource,
    v1::{Node, ObjectReference, Service},
};
use tokio_util::sync::CancellationToken;

use super::{
    events::{Recorder, Severity, reference},
    pods::{address::Prefix, chain},
    routes::desired_routes,
    services::desired_services,
};
use crate::{
    bpf::{Collected, Datapath, SyncReport, monotonic_now},
    metrics::{SyncMetrics, Synced},
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
    /// Range of all pods.
    pub cluster_cidr: Prefix,
    /// VXLAN network identifier.
    pub vni: u32,
}

impl Driver {
    /// Keeps services in step until `stop`.
    pub async fn run_services(self, stop: CancellationToken) {
        let (mut services, mut endpoints) = (self.watches.services.changes(), self.watches.endpoints.changes());
        let mut full = tokio::time::interval(FULL_PASS);
        let mut refused = BTreeSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = services.changed() => {}
                () = endpoints.changed() => {}
                _ = full.tick() => {}
            }
            if !(self.watches.services.is_synced() && self.watches.endpoints.is_synced()) {
                continue;
            }
            tokio::time::sleep(COALESCE).await;
            let driver = self.clone();
            // A large pass takes a while; it must not hold up probes and heartbeats.
            match tokio::task::spawn_blocking(move || driver.pass_services()).await {
                Ok(report) => self.report(&report, &mut refused),
                Err(error) => tracing::error!(%error, "a pass over the services failed"),
            }
        }
    }

    fn pass_services(&self) -> SyncReport {
        let begun = Instant::now();
        let (services, endpoints) = (self.watches.services.snapshot(), self.watches.endpoints.snapshot());
        let desired = desired_services(&services, &endpoints, &self.node_name);
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
        report
    }

    /// Tells each newly refused service why, once.
    fn report(&self, report: &SyncReport, refused: &mut BTreeSet<String>) {
        let now: BTreeSet<String> = report.not_applied.iter().map(ToString::to_string).collect();
        for failure in &report.not_applied {
            if !refused.contains(&failure.to_string()) {
                let message = format!("node {}: {failure}", self.node_name);
                self.recorder
                    .record_about(self.about(&failure.name), Severity::Warning, "FailedToProgram", message);
            }
        }
        *refused = now;
    }

    /// The service behind the data path's name "namespace/name:port".
    fn about(&self, name: &str) -> ObjectReference {
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
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = nodes.changed() => {}
                _ = full.tick() => {}
            }
            if self.watches.nodes.is_synced() {
                self.pass_routes();
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

    fn pass_routes(&self) {
        let begun = Instant::now();
        let nodes = self.watches.nodes.snapshot();
        let nodes = nodes.iter().map(|node| -> &Node { node });
        let desired = desired_routes(nodes, &self.node_name, self.cluster_cidr, self.vni);
        let applied = self.datapath.sync_routes(&desired);
        self.metrics.passed(Synced::routes, begun.elapsed(), applied.is_ok());
        match applied {
            Ok(0) => {}
            Ok(changes) => tracing::info!(routes = desired.len(), changes, "routes applied"),
            Err(error) => tracing::error!(error = chain(&error), "routes not applied, will be tried again"),
        }
    }
}
