//! A real server on a Unix socket over a real embedded store, and the generated client.

#![allow(dead_code, clippy::allow_attributes, reason = "each suite uses a part")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use causeway_control::{
    api::{
        ObjectApi, Registry, RegistryOptions,
        server::{self, Address},
    },
    metrics::Metrics,
    store::{EmbeddedOptions, EmbeddedStore, Store},
};
use causeway_proto::{
    Kind, Resource,
    v1::{
        self, BindRequest, Container, CreateRequest, DeleteRequest, GetRequest, ListRequest, Object, ObjectList,
        UpdateRequest, WatchEvent, WatchRequest, object_service_client::ObjectServiceClient, watch_event::Type,
    },
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

/// Bound of every wait in these tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The generated client.
pub type Client = ObjectServiceClient<Channel>;

/// A running server; ends when dropped.
pub struct Server {
    /// For looking inside.
    pub registry: Registry,
    /// Under the registry.
    pub store: Arc<dyn Store>,
    socket: PathBuf,
    stop: CancellationToken,
    _directory: TempDir,
}

impl Server {
    /// With the default options.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With changed options.
    pub async fn start_with(change: impl FnOnce(&mut RegistryOptions)) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("causeway-api-")
            .tempdir()
            .expect("a temporary directory");
        let store = EmbeddedStore::open(&EmbeddedOptions::new(directory.path().join("store"))).expect("an empty store");
        let mut options = RegistryOptions::new("10.96.0.0/16".parse().expect("a range"));
        change(&mut options);
        let store: Arc<dyn Store> = Arc::new(store);
        let registry = Registry::start(store.clone(), options);
        registry.bootstrap().await.expect("the store is there");
        let socket = directory.path().join("api.sock");
        let listener = server::bind(&Address::Unix(socket.clone())).await.expect("a free path");
        let stop = CancellationToken::new();
        let (health, _) = tonic_health::server::health_reporter();
        let api = ObjectApi::new(registry.clone(), Arc::new(Metrics::default()));
        tokio::spawn(server::serve(vec![listener], api, stop.clone(), Duration::ZERO, health));
        Self {
            registry,
            store,
            socket,
            stop,
            _directory: directory,
        }
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        let target = format!("unix://{}", self.socket.display());
        let endpoint = Endpoint::from_shared(target).expect("a path is a URI").connect_lazy();
        ObjectServiceClient::new(endpoint).max_decoding_message_size(usize::MAX)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.registry.stop();
    }
}

/// Fails when `what` takes too long.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// A pod of one container.
pub fn pod(name: &str) -> v1::Pod {
    let container = Container {
        name: "web".into(),
        image: "example/web:1".into(),
        ..Default::default()
    };
    let spec = v1::PodSpec {
        containers: vec![container],
        ..Default::default()
    };
    let mut pod = v1::Pod {
        spec: Some(spec),
        ..Default::default()
    };
    name.clone_into(&mut pod.meta_mut().name);
    pod
}

/// A pod with one label.
pub fn labelled(name: &str, key: &str, value: &str) -> v1::Pod {
    let mut pod = pod(name);
    pod.meta_mut().labels.insert(key.into(), value.into());
    pod
}

/// A service with port 80.
pub fn service(name: &str, cluster_ip: &str) -> v1::Service {
    let port = v1::ServicePort {
        port: 80,
        ..Default::default()
    };
    let spec = v1::ServiceSpec {
        ports: vec![port],
        cluster_ip: cluster_ip.into(),
        ..Default::default()
    };
    let mut service = v1::Service {
        spec: Some(spec),
        ..Default::default()
    };
    name.clone_into(&mut service.meta_mut().name);
    service
}

/// A node.
pub fn node(name: &str) -> v1::Node {
    let mut node = v1::Node::default();
    name.clone_into(&mut node.meta_mut().name);
    node
}

/// The message inside an answer.
pub fn unwrap<T: Resource>(object: Object) -> T {
    T::from_object(object).expect("the kind asked for")
}

/// Verbs with short signatures.
#[tonic::async_trait]
pub trait Verbs {
    async fn make<T: Resource>(&mut self, object: T) -> Result<T, Status>;
    async fn put<T: Resource>(&mut self, object: T) -> Result<T, Status>;
    async fn put_status<T: Resource>(&mut self, object: T) -> Result<T, Status>;
    async fn read<T: Resource>(&mut self, name: &str) -> Result<T, Status>;
    async fn remove(&mut self, kind: Kind, name: &str, grace: Option<i64>) -> Result<Object, Status>;
    async fn assign(&mut self, pod: &str, uid: &str, node: &str) -> Result<v1::Pod, Status>;
    async fn page(&mut self, request: ListRequest) -> Result<ObjectList, Status>;
    async fn follow(&mut self, request: WatchRequest) -> Result<Streaming<WatchEvent>, Status>;
}

#[tonic::async_trait]
impl Verbs for Client {
    async fn make<T: Resource>(&mut self, object: T) -> Result<T, Status> {
        let request = CreateRequest {
            object: Some(object.into_object()),
            dry_run: false,
        };
        self.create(request).await.map(|answer| unwrap(answer.into_inner()))
    }

    async fn put<T: Resource>(&mut self, object: T) -> Result<T, Status> {
        let request = UpdateRequest {
            object: Some(object.into_object()),
            dry_run: false,
        };
        self.update(request).await.map(|answer| unwrap(answer.into_inner()))
    }

    async fn put_status<T: Resource>(&mut self, object: T) -> Result<T, Status> {
        let request = UpdateRequest {
            object: Some(object.into_object()),
            dry_run: false,
        };
        self.update_status(request)
            .await
            .map(|answer| unwrap(answer.into_inner()))
    }

    async fn read<T: Resource>(&mut self, name: &str) -> Result<T, Status> {
        let request = GetRequest {
            kind: T::KIND.name().into(),
            name: name.into(),
            ..Default::default()
        };
        self.get(request).await.map(|answer| unwrap(answer.into_inner()))
    }

    async fn remove(&mut self, kind: Kind, name: &str, grace: Option<i64>) -> Result<Object, Status> {
        let request = DeleteRequest {
            kind: kind.name().into(),
            name: name.into(),
            grace_period_seconds: grace,
            ..Default::default()
        };
        self.delete(request).await.map(tonic::Response::into_inner)
    }

    async fn assign(&mut self, pod: &str, uid: &str, node: &str) -> Result<v1::Pod, Status> {
        let request = BindRequest {
            namespace: String::new(),
            pod: pod.into(),
            uid: uid.into(),
            node: node.into(),
        };
        self.bind(request).await.map(|answer| unwrap(answer.into_inner()))
    }

    async fn page(&mut self, request: ListRequest) -> Result<ObjectList, Status> {
        self.list(request).await.map(tonic::Response::into_inner)
    }

    async fn follow(&mut self, request: WatchRequest) -> Result<Streaming<WatchEvent>, Status> {
        self.watch(request).await.map(tonic::Response::into_inner)
    }
}

/// A list of all pods.
pub fn all_pods() -> ListRequest {
    ListRequest {
        kind: "Pod".into(),
        ..Default::default()
    }
}

/// A watch of all pods.
pub fn pods_from(resource_version: &str) -> WatchRequest {
    WatchRequest {
        kind: "Pod".into(),
        resource_version: resource_version.into(),
        ..Default::default()
    }
}

/// A version of the pods to watch from. Not 0, which would begin with what is there.
pub async fn version_now(client: &mut Client) -> String {
    let mut before = pod("before");
    before.spec.as_mut().expect("a specification").scheduler_name = "another".into();
    client.make(before).await.expect("a new pod");
    client.remove(Kind::Pod, "before", None).await.expect("the pod");
    client.page(all_pods()).await.expect("a list").resource_version
}

/// The next event as "ADDED name", or "BOOKMARK".
pub async fn next(stream: &mut Streaming<WatchEvent>) -> String {
    let event = within("watch event", stream.message())
        .await
        .expect("no error")
        .expect("not the end");
    describe(&event)
}

/// An event as "ADDED name", or "BOOKMARK".
pub fn describe(event: &WatchEvent) -> String {
    let name = event
        .object
        .as_ref()
        .and_then(Object::meta)
        .map(|meta| meta.name.clone());
    match (event.r#type(), name) {
        (Type::Bookmark, _) => "BOOKMARK".into(),
        (kind, name) => format!("{} {}", kind.as_str_name(), name.unwrap_or_default()),
    }
}

/// Names of a list.
pub fn names(list: &ObjectList) -> Vec<String> {
    list.items
        .iter()
        .filter_map(Object::meta)
        .map(|meta| meta.name.clone())
        .collect()
}

/// Field and description of each violation in an answer.
pub fn violations(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let bad = details
        .bad_request()
        .unwrap_or_else(|| panic!("no violations in {status:?}"));
    bad.field_violations
        .iter()
        .map(|v| format!("{}: {}", v.field, v.description))
        .collect()
}
