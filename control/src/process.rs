//! The life of a control plane process: open the store, listen, become ready, run until told to stop.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_proto::v1::object_service_server::ObjectServiceServer;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    api::{
        ApiError, ObjectApi, Registry,
        server::{self, ListenError, Listener},
    },
    config::{Config, ConfigError, StoreKind},
    metrics::{
        MeteredStore, Metrics,
        http::{self, Probes},
    },
    reconcile::{self, ReconcileConfig},
    store::{
        EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore, Leadership, Store, StoreError, election::Candidacy,
    },
};

/// How long calls under way may take after the signal to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
const BOOTSTRAP_RETRY: Duration = Duration::from_secs(1);
/// A store that is away is told again in the log after so long.
const REPEAT_LOG: Duration = Duration::from_secs(10);
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);
/// How long other control planes wait after the leader fell silent.
const LEADER_TTL: Duration = Duration::from_secs(10);
const RESIGN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the process ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Options contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Serving gRPC failed.
    #[error("serving the API failed")]
    Serve(#[source] tonic::transport::Error),
    /// Serving metrics failed.
    #[error("serving metrics failed")]
    Metrics(#[source] io::Error),
}

/// What is ready before the store is.
struct Opened {
    store: Arc<dyn Store>,
    listeners: Vec<Listener>,
    metrics_listener: Option<TcpListener>,
    metrics: Arc<Metrics>,
    registry: Registry,
}

/// Runs until `stop`, then ends within a bound.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), ProcessError> {
    let reconcile = config.reconcile()?;
    let opened = open(&config).await?;
    for listener in &opened.listeners {
        tracing::info!(address = listener.address(), "listening");
    }
    let (health, _) = tonic_health::server::health_reporter();
    let (ready, readiness) = watch::channel(Err("starting".to_owned()));
    set_health(&health, ServingStatus::NotServing).await;

    let registry = opened.registry.clone();
    let lifecycle = tokio::spawn({
        let life = Life {
            registry: registry.clone(),
            store: opened.store,
            health: health.clone(),
            ready,
            reconcile,
            rivals: config.store == StoreKind::Etcd,
        };
        life.live(stop.clone())
    });
    let ending = tokio::spawn({
        let (registry, health, stop) = (registry.clone(), health.clone(), stop.clone());
        async move {
            stop.cancelled().await;
            tracing::info!("stopping");
            set_health(&health, ServingStatus::NotServing).await;
            registry.stop();
        }
    });
    let probes = Probes {
        metrics: opened.metrics.clone(),
        readiness,
    };
    let api = ObjectApi::new(registry, opened.metrics);
    let result = tokio::select! {
        result = server::serve(opened.listeners, api, stop.clone(), SHUTDOWN_GRACE, health) => result.map_err(ProcessError::Serve),
        result = serve_metrics(opened.metrics_listener, probes) => result,
    };
    stop.cancel();
    for task in [lifecycle.await, ending.await] {
        if let Err(error) = task {
            tracing::error!(%error, "a task panicked");
        }
    }
    result
}

async fn open(config: &Config) -> Result<Opened, ProcessError> {
    let metrics = Arc::new(Metrics::default());
    let store = open_store(config, metrics.clone()).await?;
    let mut listeners = Vec::new();
    for address in &config.listen {
        listeners.push(server::bind(address).await?);
    }
    let metrics_listener = match config.metrics_listen {
        Some(address) => Some(server::bind_tcp(&address.to_string(), "--metrics-listen").await?),
        None => None,
    };
    let registry = Registry::start(store.clone(), config.registry());
    metrics.observe_caches(registry.caches());
    Ok(Opened {
        store,
        listeners,
        metrics_listener,
        metrics,
        registry,
    })
}

async fn open_store(config: &Config, metrics: Arc<Metrics>) -> Result<Arc<dyn Store>, StoreError> {
    match config.store {
        StoreKind::Embedded => {
            let options = EmbeddedOptions::new(&config.data_dir);
            // Opening reads and repairs the file; nothing else runs yet, so blocking this thread would do too.
            let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&options)).await;
            let store = opened.map_err(|panic| StoreError::Io {
                path: config.data_dir.clone(),
                source: panic.into(),
            })??;
            Ok(Arc::new(MeteredStore::new(store, metrics)))
        }
        StoreKind::Etcd => {
            let options = EtcdOptions::new(config.etcd_endpoints.clone(), config.etcd_prefix.clone());
            Ok(Arc::new(MeteredStore::new(
                EtcdStore::connect(&options).await?,
                metrics,
            )))
        }
    }
}

/// What happens beside serving.
struct Life {
    registry: Registry,
    store: Arc<dyn Store>,
    health: HealthReporter,
    ready: watch::Sender<Result<(), String>>,
    reconcile: ReconcileConfig,
    /// Other control planes may use the same store.
    rivals: bool,
}

impl Life {
    /// Becomes ready, then runs the reconcilers and tells whether the store is there.
    async fn live(self, stop: CancellationToken) {
        let start = Instant::now();
        if Box::pin(stop.run_until_cancelled(self.bootstrap())).await.is_none() {
            return;
        }
        tracing::info!(took = ?start.elapsed(), "ready");
        self.ready.send_modify(|state| *state = Ok(()));
        set_health(&self.health, ServingStatus::Serving).await;

        let candidacy = self
            .rivals
            .then(|| Candidacy::start(self.store.clone(), identity(), LEADER_TTL));
        let leadership = candidacy
            .as_ref()
            .map_or_else(Leadership::always, Candidacy::leadership);
        let mut reconcilers = reconcile::spawn_all(self.registry.clone(), self.reconcile.clone(), leadership);
        stop.run_until_cancelled(self.tell_health()).await;
        reconcilers.shutdown().await;
        if let Some(candidacy) = candidacy
            && tokio::time::timeout(RESIGN_TIMEOUT, candidacy.resign()).await.is_err()
        {
            tracing::warn!("could not resign leadership; it ends by itself in {LEADER_TTL:?}");
        }
    }

    async fn bootstrap(&self) {
        let mut told: Option<Instant> = None;
        while let Err(error) = self.registry.bootstrap().await {
            let reason = error.chain();
            if told.is_none_or(|at| at.elapsed() >= REPEAT_LOG) {
                tracing::warn!(%reason, "not ready, trying again until the store answers");
                told = Some(Instant::now());
            }
            self.ready.send_modify(|state| *state = Err(reason));
            tokio::time::sleep(BOOTSTRAP_RETRY).await;
        }
    }

    async fn tell_health(&self) {
        loop {
            tokio::time::sleep(HEALTH_INTERVAL).await;
            let now = self.store.health().await.map_err(|error| ApiError::from(error).chain());
            if now.is_ok() == self.ready.borrow().is_ok() {
                continue;
            }
            match &now {
                Ok(()) => {
                    tracing::info!("the store is back");
                    set_health(&self.health, ServingStatus::Serving).await;
                }
                Err(reason) => {
                    tracing::error!(%reason, "the store is away: reads are answered from memory, writes fail");
                    set_health(&self.health, ServingStatus::NotServing).await;
                }
            }
            self.ready.send_modify(|state| *state = now);
        }
    }
}

/// Names this process among the candidates: for people the host, for all time the random part.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", host.trim(), uuid::Uuid::new_v4())
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    health.set_service_status("", status).await;
    match status {
        ServingStatus::Serving => health.set_serving::<ObjectServiceServer<ObjectApi>>().await,
        _ => health.set_not_serving::<ObjectServiceServer<ObjectApi>>().await,
    }
}

/// Serves until the process ends; for ever without an address.
async fn serve_metrics(listener: Option<TcpListener>, probes: Probes) -> Result<(), ProcessError> {
    match listener {
        Some(listener) => {
            if let Ok(address) = listener.local_addr() {
                tracing::info!(%address, "serving /metrics, /healthz and /readyz");
            }
            axum::serve(listener, http::router(probes))
                .await
                .map_err(ProcessError::Metrics)
        }
        None => std::future::pending().await,
    }
}
