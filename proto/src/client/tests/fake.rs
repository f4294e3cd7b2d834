//! A control plane of pods alone, with a history that can be compacted and watches that can be broken.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use tokio::{
    net::UnixListener,
    sync::{broadcast, oneshot},
    task::JoinHandle,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status, transport::Server};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{
    Resource,
    client::Client,
    v1::{
        object_service_server::{ObjectService, ObjectServiceServer},
        *,
    },
};

#[derive(Default)]
struct State {
    revision: u64,
    pods: BTreeMap<String, Pod>,
    history: Vec<(u64, WatchEvent)>,
    compacted: u64,
    lists: usize,
    watches: usize,
    refuse_watches: bool,
    last_patch: String,
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    /// `None` ends all watches.
    live: broadcast::Sender<Option<WatchEvent>>,
}

pub(super) struct Fake {
    shared: Shared,
    directory: tempfile::TempDir,
    serving: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Fake {
    pub(super) fn start() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("cw-client-")
            .tempdir()
            .expect("a temporary directory");
        let shared = Shared {
            state: Arc::default(),
            live: broadcast::Sender::new(4096),
        };
        let mut fake = Self {
            shared,
            directory,
            serving: None,
        };
        fake.serve();
        fake
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    pub(super) fn client(&self) -> Client {
        Client::connect(&format!("unix://{}", self.path().display())).expect("a target")
    }

    pub(super) fn serve(&mut self) {
        let listener = UnixListener::bind(self.path()).expect("a socket");
        let (stop, stopped) = oneshot::channel();
        let service = ObjectServiceServer::new(self.shared.clone());
        let server = Server::builder().add_service(service).serve_with_incoming_shutdown(
            UnixListenerStream::new(listener),
            async {
                let _ = stopped.await;
            },
        );
        let task = tokio::spawn(async { server.await.expect("served") });
        self.serving = Some((stop, task));
    }

    pub(super) async fn stop(&mut self) {
        let (stop, task) = self.serving.take().expect("serving");
        // The server ends when its last stream does: no new one may begin.
        self.refuse_watches(true);
        let _ = stop.send(());
        self.end_watches();
        task.await.expect("stopped");
        std::fs::remove_file(self.path()).expect("removed");
        self.refuse_watches(false);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("not poisoned")
    }

    fn publish(&self, state: &mut State, kind: watch_event::Type, mut pod: Pod) {
        state.revision += 1;
        pod.meta_mut().resource_version = state.revision.to_string();
        let event = WatchEvent {
            r#type: kind.into(),
            object: Some(pod.into_object()),
            resource_version: state.revision.to_string(),
        };
        state.history.push((state.revision, event.clone()));
        let _ = self.shared.live.send(Some(event));
    }

    pub(super) fn put(&self, pod: Pod) {
        let mut state = self.state();
        let name = pod.meta().name.clone();
        let known = state.pods.contains_key(&name);
        let kind = if known {
            watch_event::Type::Modified
        } else {
            watch_event::Type::Added
        };
        self.publish(&mut state, kind, pod.clone());
        let mut stored = pod;
        stored.meta_mut().resource_version = state.revision.to_string();
        state.pods.insert(name, stored);
    }

    pub(super) fn remove(&self, name: &str) {
        let mut state = self.state();
        let pod = state.pods.remove(name).expect("there");
        self.publish(&mut state, watch_event::Type::Deleted, pod);
    }

    pub(super) fn compact(&self) {
        let mut state = self.state();
        state.compacted = state.revision;
        state.history.clear();
    }

    pub(super) fn end_watches(&self) {
        let _ = self.shared.live.send(None);
    }

    pub(super) fn refuse_watches(&self, refuse: bool) {
        self.state().refuse_watches = refuse;
    }

    pub(super) fn lists(&self) -> usize {
        self.state().lists
    }

    pub(super) fn watches(&self) -> usize {
        self.state().watches
    }

    /// Waits until so many watches were begun.
    pub(super) async fn until_watches(&self, count: usize) {
        while self.watches() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) fn last_patch(&self) -> String {
        self.state().last_patch.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("not needed here"))
}

#[tonic::async_trait]
impl ObjectService for Shared {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn get(&self, request: Request<GetRequest>) -> Answer<Object> {
        let name = request.into_inner().name;
        let found = self.state().pods.get(&name).cloned();
        let missing = || Status::not_found(format!("pods \"{name}\" not found"));
        found.map(|pod| Response::new(pod.into_object())).ok_or_else(missing)
    }

    async fn list(&self, request: Request<ListRequest>) -> Answer<ObjectList> {
        let request = request.into_inner();
        let mut state = self.state();
        state.lists += 1;
        let from: usize = request.r#continue.parse().unwrap_or(0);
        let limit = usize::try_from(request.limit).expect("not negative");
        let items = state
            .pods
            .values()
            .skip(from)
            .take(limit)
            .cloned()
            .map(Resource::into_object)
            .collect();
        let next = if from + limit < state.pods.len() {
            (from + limit).to_string()
        } else {
            String::new()
        };
        Ok(Response::new(ObjectList {
            resource_version: state.revision.to_string(),
            r#continue: next,
            items,
        }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        let after: u64 = request.into_inner().resource_version.parse().expect("a revision");
        let mut state = self.state();
        if state.refuse_watches {
            return Err(Status::unavailable("not now"));
        }
        if after < state.compacted {
            return Err(Status::out_of_range("compacted"));
        }
        state.watches += 1;
        let past: Vec<WatchEvent> = state
            .history
            .iter()
            .filter(|(revision, _)| *revision > after)
            .map(|(_, event)| event.clone())
            .collect();
        let live = tokio_stream::wrappers::BroadcastStream::new(self.live.subscribe())
            .take_while(|event| std::future::ready(matches!(event, Ok(Some(_)))))
            .filter_map(|event| std::future::ready(event.ok().flatten()));
        Ok(Response::new(Box::pin(futures::stream::iter(past).chain(live).map(Ok))))
    }

    async fn create(&self, _: Request<CreateRequest>) -> Answer<Object> {
        let violations = vec![
            FieldViolation::new("metadata.name", "is required"),
            FieldViolation::new("spec", "is required"),
        ];
        let details = ErrorDetails::with_bad_request(violations);
        Err(Status::with_error_details(
            Code::InvalidArgument,
            "pod is invalid",
            details,
        ))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Answer<Object> {
        unused()
    }

    async fn update_status(&self, _: Request<UpdateRequest>) -> Answer<Object> {
        unused()
    }

    async fn patch(&self, request: Request<PatchRequest>) -> Answer<Object> {
        self.state().last_patch = request.into_inner().patch;
        Ok(Response::new(Pod::default().into_object()))
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Answer<ApplyResponse> {
        self.state().last_patch = request.into_inner().manifest;
        let outcome = apply_response::Outcome::Unchanged.into();
        Ok(Response::new(ApplyResponse {
            object: Some(Pod::default().into_object()),
            outcome,
        }))
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Answer<Object> {
        unused()
    }

    async fn bind(&self, _: Request<BindRequest>) -> Answer<Object> {
        unused()
    }

    async fn scale(&self, _: Request<ScaleRequest>) -> Answer<Object> {
        unused()
    }
}
