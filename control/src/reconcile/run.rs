//! Starts all reconcilers in the process that leads, and stops them when it does not any more.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use causeway_proto::Kind;
use futures::FutureExt;
use tokio::{task::JoinSet, time::sleep};

use super::{
    EventRecorder,
    allocations::AllocationAudit,
    driver::{self, DriverOptions, Reconciler},
    endpoints::EndpointsReconciler,
    event_expiry::{EventExpiry, Limits},
    garbage::GarbageCollector,
    live,
    load_balancer::LoadBalancers,
    namespace::NamespaceLifecycle,
    node_cidr::{NodeCidrAllocator, Pool},
    node_lifecycle::{LifecycleTimes, NodeLifecycle},
    pod_cleanup::PodCleanup,
    replication::Replication,
};
use crate::{api::Registry, schedule::Scheduler, store::Leadership};

/// How long a new leader waits for its caches to show the last leader's writes, if they do not tell how far they are.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Between audits of what services have.
const AUDIT_INTERVAL: Duration = Duration::from_mins(5);

/// Settling time of reconcilers that clean up.
const UNHURRIED: Duration = Duration::from_millis(200);

/// What reconcilers can be told.
#[derive(Clone, Debug)]
pub struct ReconcileConfig {
    /// Where nodes' pod ranges come from: one for each family, the preferred one first.
    pub pod_ranges: Vec<Pool>,
    /// Patience with silent nodes.
    pub lifecycle: LifecycleTimes,
    /// How long events are kept.
    pub events: Limits,
    /// Waiting of all reconcilers.
    pub driver: DriverOptions,
}

impl ReconcileConfig {
    /// The defaults, with these pod ranges.
    pub fn new(pod_ranges: Vec<Pool>) -> Self {
        Self {
            pod_ranges,
            lifecycle: LifecycleTimes::default(),
            events: Limits::default(),
            driver: DriverOptions::default(),
        }
    }
}

/// Runs all reconcilers and the scheduler whenever this process leads, until the set is dropped or shut down.
pub fn spawn_all(registry: Registry, config: ReconcileConfig, leadership: Leadership) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(while_leading(registry, config, leadership));
    tasks
}

async fn while_leading(registry: Registry, config: ReconcileConfig, mut leadership: Leadership) {
    loop {
        leadership.acquired().await;
        let mut running = tokio::select! {
            () = leadership.lost() => continue,
            running = start(&registry, &config) => running,
        };
        tokio::select! {
            () = leadership.lost() => {}
            // They run for ever.
            _ = running.join_next() => {}
        }
        running.shutdown().await;
    }
}

async fn start(registry: &Registry, config: &ReconcileConfig) -> JoinSet<()> {
    catch_up(registry).await;
    tracing::info!("reconcilers start");
    let events = EventRecorder::start(registry.clone(), "control");
    let mut running = JoinSet::new();
    let mut add = Adding {
        registry,
        options: config.driver,
        running: &mut running,
    };
    add.reconciler(NodeCidrAllocator::new(
        registry.clone(),
        &events,
        config.pod_ranges.clone(),
    ));
    add.reconciler(NodeLifecycle::new(registry.clone(), &events, config.lifecycle));
    add.reconciler(Scheduler::new(registry.clone(), &events));
    add.reconciler(Replication::new(registry.clone(), &events));
    add.reconciler(EndpointsReconciler::new(registry.clone(), &events));
    add.reconciler(LoadBalancers::new(registry.clone(), &events));
    // Nobody waits for these, and they look at much: more changes share a pass.
    add.options.settle = UNHURRIED.max(add.options.settle);
    add.reconciler(NamespaceLifecycle::new(registry.clone()));
    add.reconciler(GarbageCollector::new(registry.clone()));
    add.reconciler(PodCleanup::new(registry.clone()));
    add.reconciler(EventExpiry::new(registry.clone(), config.events));
    add.options.full_pass = AUDIT_INTERVAL;
    add.reconciler(AllocationAudit::new(registry.clone(), &events));
    running
}

/// A new leader must not do again what the last one did and its caches do not show yet.
async fn catch_up(registry: &Registry) {
    for kind in Kind::ALL {
        registry.cache(*kind).synced().await;
    }
    while let Err(error) = live::settle(registry, Kind::ALL, CATCH_UP).await {
        tracing::warn!(error = driver::chain(&error), "cannot start the reconcilers yet");
        sleep(Duration::from_secs(1)).await;
    }
}

struct Adding<'a> {
    registry: &'a Registry,
    options: DriverOptions,
    running: &'a mut JoinSet<()>,
}

impl Adding<'_> {
    fn reconciler<R: Reconciler>(&mut self, reconciler: R) {
        let (reconciler, registry, options) = (Arc::new(reconciler), self.registry.clone(), self.options);
        self.running.spawn(async move {
            loop {
                let run = driver::run(Arc::clone(&reconciler), registry.clone(), options);
                if AssertUnwindSafe(run).catch_unwind().await.is_err() {
                    tracing::error!(
                        reconciler = reconciler.name(),
                        "panicked while planning; it starts again"
                    );
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
    }
}
