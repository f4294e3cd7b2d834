//! A control plane in this process, and pretended nodes.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use causeway_control::{
    api::{DeleteOptions, Registry, RegistryOptions},
    reconcile::{
        NODE_LEASE_NAMESPACE, ReconcileConfig, node_cidr::Pool, node_lifecycle::LifecycleTimes, objects::typed,
        pod_state, spawn_all,
    },
    store::{EmbeddedOptions, EmbeddedStore, Leadership, Store},
};
use causeway_proto::{
    Kind, Resource, time,
    v1::{
        Condition, Container, Endpoints, Event, Lease, Node, NodeStatus, ObjectMeta, Pod, PodSpec, PodTemplateSpec,
        Quantity, ReplicationController, ReplicationControllerSpec, Service, ServicePort, ServiceSpec,
    },
};
use tempfile::TempDir;
use tokio::task::{AbortHandle, JoinSet};

use crate::outage::{Interruptible, Outage};

/// Bound of every wait.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Silence after which a node of these tests is not ready: many missed renewals of the pretended agents, on a busy machine too.
pub const GRACE: Duration = Duration::from_secs(4);
pub const EVICTION: Duration = Duration::from_secs(3);

pub struct Cluster {
    pub registry: Registry,
    pub store: Arc<dyn Store>,
    pub outage: Outage,
    pub reconcilers: JoinSet<()>,
    agents: Mutex<BTreeMap<String, AbortHandle>>,
    addresses: Arc<AtomicU32>,
    _directory: TempDir,
}

pub fn registry_options() -> RegistryOptions {
    RegistryOptions::new("10.96.0.0/16".parse().expect("a range"))
}

pub fn config() -> ReconcileConfig {
    let pool = Pool::new("10.244.0.0/16".parse().expect("a range"), 24).expect("fits");
    let mut config = ReconcileConfig::new(vec![pool]);
    // What is wrongly decided shall be done at once.
    config.driver.last_retry = Duration::from_millis(300);
    config.lifecycle = LifecycleTimes {
        grace_period: GRACE,
        eviction_timeout: EVICTION,
    };
    config
}

impl Cluster {
    /// A control plane without nodes, in which nothing reconciles.
    pub async fn idle() -> Self {
        Self::idle_with(registry_options()).await
    }

    /// The same with other options of the registry.
    pub async fn idle_with(registry: RegistryOptions) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("causeway-reconcile-")
            .tempdir()
            .expect("temporary directory");
        let options = EmbeddedOptions::new(directory.path().join("store"));
        let outage = Outage::default();
        let store = EmbeddedStore::open(&options).expect("an empty store");
        let store: Arc<dyn Store> = Arc::new(Interruptible::new(store, outage.clone()));
        let registry = Registry::start(Arc::clone(&store), registry);
        registry.bootstrap().await.expect("the store is there");
        Self {
            registry,
            store,
            outage,
            reconcilers: JoinSet::new(),
            agents: Mutex::default(),
            addresses: Arc::new(AtomicU32::new(1)),
            _directory: directory,
        }
    }

    /// A control plane that reconciles, with these nodes, all ready.
    pub async fn with_nodes(names: &[&str]) -> Self {
        let mut cluster = Self::idle().await;
        cluster.reconcile(Leadership::always());
        for name in names {
            cluster.start_agent(name).await;
        }
        cluster
    }

    pub fn reconcile(&mut self, leadership: Leadership) {
        self.reconcilers = spawn_all(self.registry.clone(), config(), leadership);
    }

    /// Registers a node if there is none of that name, and begins to renew its lease and to "run" its pods.
    pub async fn start_agent(&self, name: &str) {
        let mut node = Node::default();
        node.meta_mut().name = name.into();
        node.meta_mut()
            .labels
            .insert("kubernetes.io/hostname".into(), name.into());
        match self.registry.create(node.into_object(), false).await {
            Err(error) if !error.is_already_exists() => panic!("{error}"),
            _ => {}
        }
        let agent = Agent {
            registry: self.registry.clone(),
            node: name.into(),
            addresses: Arc::clone(&self.addresses),
        };
        let running = tokio::spawn(agent.run()).abort_handle();
        self.agents.lock().expect("no panic").insert(name.into(), running);
        let ready = || {
            self.get::<Node>("", name)
                .is_some_and(|node| pod_state::node_is_ready(&node))
        };
        self.until(&format!("node {name} to be ready"), ready).await;
    }

    pub fn stop_agent(&self, name: &str) {
        let agent = self.agents.lock().expect("no panic").remove(name);
        agent.expect("an agent of that name").abort();
    }

    pub async fn create<T: Resource>(&self, object: T) -> T {
        let created = self
            .registry
            .create(object.into_object(), false)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        T::from_object(created).expect("the kind it was")
    }

    pub fn get<T: Resource>(&self, namespace: &str, name: &str) -> Option<T> {
        let object = self.registry.cache(T::KIND).get(namespace, name)?;
        T::from_object_ref(&object).cloned()
    }

    pub fn all<T: Resource>(&self) -> Vec<T> {
        typed::<T>(&self.registry.cache(T::KIND).snapshot()).cloned().collect()
    }

    pub async fn delete(&self, kind: Kind, namespace: &str, name: &str, options: DeleteOptions) {
        self.registry
            .delete(kind, namespace, name, &options)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Looks again with every change of anything until it is so.
    pub async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        self.until_async(what, async || is_so()).await;
    }

    pub async fn until_async<F: Future<Output = bool>>(&self, what: &str, is_so: impl Fn() -> F) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(
            waited.await.is_ok(),
            "waited {PATIENCE:?} for {what}; pods: {:#?}",
            self.summary()
        );
    }

    /// Name, node, phase, readiness of all pods.
    fn summary(&self) -> Vec<String> {
        let line = |pod: Pod| {
            let (node, phase, ready) = (
                pod_state::node_name(&pod),
                pod_state::phase(&pod),
                pod_state::is_ready(&pod),
            );
            format!(
                "{} on {node:?} {phase} ready={ready} ending={}",
                pod.key(),
                pod.meta().is_terminating()
            )
        };
        self.all::<Pod>().into_iter().map(line).collect()
    }

    /// Ready replicas of the controller of that name.
    pub fn ready_replicas(&self, controller: &str) -> i32 {
        let controller = self.get::<ReplicationController>("default", controller);
        controller
            .and_then(|controller| controller.status)
            .map_or(0, |status| status.ready_replicas)
    }

    /// Pods that are replicas of some controller, by node.
    pub fn replicas_by_node(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for pod in self
            .all::<Pod>()
            .iter()
            .filter(|pod| pod_state::is_active(pod) && pod.meta().controller().is_some())
        {
            *counts.entry(pod_state::node_name(pod).to_owned()).or_default() += 1;
        }
        counts
    }

    /// Names of the pods that a service's endpoints list: ready and not ready.
    pub fn endpoints(&self, service: &str) -> (Vec<String>, Vec<String>) {
        let endpoints = self.get::<Endpoints>("default", service).unwrap_or_default();
        let mut lists = (Vec::new(), Vec::new());
        for subset in &endpoints.subsets {
            for (addresses, list) in [
                (&subset.addresses, &mut lists.0),
                (&subset.not_ready_addresses, &mut lists.1),
            ] {
                list.extend(
                    addresses
                        .iter()
                        .filter_map(|address| Some(address.target_ref.as_ref()?.name.clone())),
                );
            }
        }
        lists.0.sort();
        lists.1.sort();
        lists
    }

    pub fn events(&self, name: &str, reason: &str) -> Vec<Event> {
        let about = |event: &Event| event.involved_object.as_ref().is_some_and(|about| about.name == name);
        self.all::<Event>()
            .into_iter()
            .filter(|event| event.reason == reason && about(event))
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Ok(agents) = self.agents.lock() {
            agents.values().for_each(AbortHandle::abort);
        }
    }
}

/// Pretends to be a node's agent.
struct Agent {
    registry: Registry,
    node: String,
    addresses: Arc<AtomicU32>,
}

impl Agent {
    async fn run(self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pods = self.registry.cache(Kind::Pod).changed();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    self.renew().await;
                    self.report().await;
                }
                changed = pods.changed() => if changed.is_err() { return },
            }
            pods.mark_unchanged();
            self.run_pods().await;
        }
    }

    async fn renew(&self) {
        let mut lease = Lease::default();
        (lease.meta_mut().name, lease.meta_mut().namespace) = (self.node.clone(), NODE_LEASE_NAMESPACE.into());
        lease.spec.get_or_insert_default().renew_time = Some(time::now_micro());
        let updated = self.registry.update(lease.clone().into_object(), false).await;
        if updated.is_err_and(|error| error.is_not_found()) {
            // Somebody may be deleting the namespace, or stopping the test.
            let _ = self.registry.create(lease.into_object(), false).await;
        }
    }

    /// As the real agent does: only if the status is not what it should be.
    async fn report(&self) {
        let Some(object) = self.registry.cache(Kind::Node).get("", &self.node) else {
            return;
        };
        let mut node = Node::from_object_ref(&object).cloned().expect("a node");
        if pod_state::node_is_ready(&node) {
            return;
        }
        let amount = |value: &str| Quantity { value: value.into() };
        let allocatable =
            [("cpu", "4"), ("memory", "8Gi"), ("pods", "110")].map(|(name, value)| (name.into(), amount(value)));
        node.status = Some(NodeStatus {
            allocatable: allocatable.into(),
            conditions: vec![ready("True")],
            ..NodeStatus::default()
        });
        let _ = self.registry.update_status(node.into_object(), false).await;
    }

    async fn run_pods(&self) {
        let pods = self.registry.cache(Kind::Pod).snapshot();
        for pod in typed::<Pod>(&pods).filter(|pod| pod_state::node_name(pod) == self.node) {
            let meta = pod.meta();
            if meta.is_terminating() {
                let options = DeleteOptions {
                    grace_period_seconds: Some(0),
                    ..DeleteOptions::default()
                };
                let _ = self
                    .registry
                    .delete(Kind::Pod, &meta.namespace, &meta.name, &options)
                    .await;
            } else if !pod_state::is_ready(pod) && !meta.labels.contains_key("never-ready") {
                let mut pod = pod.clone();
                let status = pod.status.get_or_insert_default();
                status.phase = "Running".into();
                if status.pod_ip.is_empty() {
                    let number = self.addresses.fetch_add(1, Ordering::Relaxed);
                    status.pod_ip = format!("10.244.{}.{}", number / 250, number % 250 + 1);
                }
                status.conditions.retain(|condition| condition.r#type != "Ready");
                status.conditions.push(ready("True"));
                let _ = self.registry.update_status(pod.into_object(), false).await;
            }
        }
    }
}

fn ready(status: &str) -> Condition {
    Condition {
        r#type: "Ready".into(),
        status: status.into(),
        last_transition_time: Some(time::now()),
        ..Condition::default()
    }
}

pub fn pod_spec() -> PodSpec {
    let container = Container {
        name: "main".into(),
        image: "demo".into(),
        ..Container::default()
    };
    PodSpec {
        containers: vec![container],
        ..PodSpec::default()
    }
}

/// A bare pod.
pub fn pod(name: &str) -> Pod {
    let mut pod = Pod {
        spec: Some(pod_spec()),
        ..Pod::default()
    };
    (pod.meta_mut().name, pod.meta_mut().namespace) = (name.into(), "default".into());
    pod
}

/// A controller of pods labelled `app=<name>`.
pub fn controller(name: &str, replicas: i32) -> ReplicationController {
    let labels = BTreeMap::from([("app".to_owned(), name.to_owned())]);
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels,
            ..ObjectMeta::default()
        }),
        spec: Some(pod_spec()),
    };
    let spec = ReplicationControllerSpec {
        replicas: Some(replicas),
        template: Some(template),
        ..ReplicationControllerSpec::default()
    };
    let mut controller = ReplicationController {
        spec: Some(spec),
        ..ReplicationController::default()
    };
    (controller.meta_mut().name, controller.meta_mut().namespace) = (name.into(), "default".into());
    controller
}

/// A service for pods labelled `app=<name>`.
pub fn service(name: &str) -> Service {
    let selector = BTreeMap::from([("app".to_owned(), name.to_owned())]);
    let ports = vec![ServicePort {
        port: 80,
        ..ServicePort::default()
    }];
    let mut service = Service {
        spec: Some(ServiceSpec {
            selector,
            ports,
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    (service.meta_mut().name, service.meta_mut().namespace) = (name.into(), "default".into());
    service
}
