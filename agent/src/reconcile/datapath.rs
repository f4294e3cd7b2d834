//! Drives the data path: routes, recomputed whole on any change and applied as differences, and the collection of flows. Services
//! have a file of their own.
//!
//! Changes that come while a pass runs lead to one more pass, however many they are. Nothing is applied before everything
//! was listed once: until then the pinned maps of the agent before this one are the better knowledge.

use std::{
    collections::BTreeSet,
    error::Error,
    net::IpAddr,
    time::{Duration, Instant},
};

use causeway_proto::v1::Node;
use tokio_util::sync::CancellationToken;

use super::{
    events::Recorder,
    listings::Listings,
    pods::chain,
    routes::{RoutePlan, RouteSettings, direct_problems, plan_routes},
};
use crate::{
    bpf::{Collected, Datapath, DesiredRoute, monotonic_now},
    metrics::{SyncMetrics, Synced},
    net::{DirectReport, Network},
    sockets::Resetter,
    watch::Watches,
};

/// Everything is applied anew this often, whatever happens.
pub(super) const FULL_PASS: Duration = Duration::from_secs(30);

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
    /// Which pods of this node the endpoints list.
    pub listings: Listings,
    /// Ends sockets to backends that are gone.
    pub sockets: Resetter,
}

impl Driver {
    /// The routes there should be, as the cluster is now.
    pub fn desired_routes(&self) -> Vec<DesiredRoute> {
        self.route_plan().map
    }

    fn route_plan(&self) -> RoutePlan {
        let nodes = self.watches.nodes.snapshot();
        let nodes = nodes.iter().map(|node| -> &Node { node });
        plan_routes(nodes, &self.node_name, &self.routes)
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
