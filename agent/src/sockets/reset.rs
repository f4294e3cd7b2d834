//! Finds the sockets of gone backends in the node's network namespaces, and destroys them.

use std::{
    collections::HashSet,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use causeway_maps::{Protocol, SocketOrigins};
use nix::sched::{CloneFlags, setns};
use tokio::sync::{mpsc, oneshot};

use super::{
    SocketsError,
    diag::{Family, Socket},
    netlink::Diag,
};
use crate::{
    bpf::BackendId,
    metrics::SyncMetrics,
    runtime::{Runtime, SandboxState},
};

/// Backends that are no more.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Gone {
    backends: HashSet<(Protocol, SocketAddr)>,
}

impl Gone {
    /// These.
    pub fn new(backends: impl IntoIterator<Item = BackendId>) -> Self {
        let mut gone = Self::default();
        gone.extend(backends);
        gone
    }

    /// These as well.
    pub fn extend(&mut self, backends: impl IntoIterator<Item = BackendId>) {
        let key = |id: BackendId| (id.protocol, SocketAddr::new(id.address, id.port));
        self.backends.extend(backends.into_iter().map(key));
    }

    fn has(&self, socket: &Socket) -> bool {
        self.backends.contains(&(socket.protocol, socket.peer))
    }

    fn protocols(&self) -> impl Iterator<Item = Protocol> + '_ {
        let protocols = [Protocol::TCP, Protocol::UDP].into_iter();
        protocols.filter(|protocol| self.backends.iter().any(|(of, _)| of == protocol))
    }
}

/// What was found in some namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Sockets that were destroyed.
    pub destroyed: usize,
    /// Sockets that were gone before they could be destroyed.
    pub gone: usize,
}

/// Destroys the sockets of gone backends in the namespaces at these paths, and in that of the calling thread if `own`. `origins` has
/// the translated ones. Goes on after an error and answers the first.
///
/// Works on a thread of its own, which ends with it: no other task ever runs in a foreign namespace.
pub fn reset_in(
    namespaces: Vec<PathBuf>,
    own: bool,
    gone: Arc<Gone>,
    origins: Arc<SocketOrigins>,
) -> Result<oneshot::Receiver<(Found, Option<SocketsError>)>, SocketsError> {
    let (send, receive) = oneshot::channel();
    let work = move || {
        let mut found = Found::default();
        let mut first = None;
        // Its own namespace before it leaves it for good.
        let own = own.then(|| reset_here(&gone, &origins, &mut found));
        let others = namespaces.iter().map(|path| {
            enter(path)?;
            reset_here(&gone, &origins, &mut found)
        });
        for result in own.into_iter().chain(others.collect::<Vec<_>>()) {
            if let Err(error) = result {
                first.get_or_insert(error);
            }
        }
        // The receiver is gone only when the agent ends.
        let _ = send.send((found, first));
    };
    std::thread::Builder::new()
        .name("cw-sockets".to_owned())
        .spawn(work)
        .map_err(SocketsError::Thread)?;
    Ok(receive)
}

fn enter(path: &Path) -> Result<(), SocketsError> {
    let fail = |source| SocketsError::Namespace {
        path: path.to_owned(),
        source,
    };
    let namespace = File::open(path).map_err(fail)?;
    setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| fail(errno.into()))
}

/// In the calling thread's namespace.
fn reset_here(gone: &Gone, origins: &SocketOrigins, found: &mut Found) -> Result<(), SocketsError> {
    let mut diag = Diag::open()?;
    for protocol in gone.protocols() {
        for family in [Family::V4, Family::V6] {
            for socket in diag.sockets(family, protocol)? {
                if !gone.has(&socket) || origins.get(&socket.cookie())?.is_none() {
                    continue;
                }
                if diag.destroy(&socket)? {
                    found.destroyed += 1;
                } else {
                    found.gone += 1;
                }
            }
        }
    }
    Ok(())
}

/// Takes gone backends and sees to their sockets, one set after the other.
#[derive(Clone, Debug)]
pub struct Resetter(Option<mpsc::UnboundedSender<Vec<BackendId>>>);

impl Resetter {
    /// Finds out what the kernel can do, says so, and starts a task that ends with the last clone of what is returned. `origins` has
    /// the translated ones.
    pub fn start(runtime: Runtime, origins: SocketOrigins, metrics: SyncMetrics) -> Self {
        if let Err(error) = probe() {
            metrics.resets_sockets(false);
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "sockets of gone backends stay until their programs give up"
            );
            return Self(None);
        }
        metrics.resets_sockets(true);
        tracing::info!("sockets of gone backends will be reset");
        let (send, receive) = mpsc::unbounded_channel();
        tokio::spawn(run(receive, runtime, Arc::new(origins), metrics));
        Self(Some(send))
    }

    /// Sees to the sockets of these backends.
    pub fn gone(&self, backends: Vec<BackendId>) {
        if let Some(sender) = self.0.as_ref().filter(|_| !backends.is_empty()) {
            // Fails only when the task has ended with the agent.
            let _ = sender.send(backends);
        }
    }
}

fn probe() -> Result<(), SocketsError> {
    let mut diag = Diag::open()?;
    diag.probe(Protocol::TCP)?;
    diag.probe(Protocol::UDP)
}

async fn run(
    mut receive: mpsc::UnboundedReceiver<Vec<BackendId>>,
    runtime: Runtime,
    origins: Arc<SocketOrigins>,
    metrics: SyncMetrics,
) {
    while let Some(first) = receive.recv().await {
        let mut gone = Gone::new(first);
        while let Ok(more) = receive.try_recv() {
            gone.extend(more);
        }
        let namespaces = match runtime.sandboxes().await {
            Ok(sandboxes) => sandboxes.iter().filter_map(SandboxState::netns_path).collect(),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "pods could not be listed; their sockets to gone backends stay"
                );
                Vec::new()
            }
        };
        let backends = gone.backends.len();
        let answer = match reset_in(namespaces, true, Arc::new(gone), Arc::clone(&origins)) {
            Ok(receive) => receive.await.unwrap_or_default(),
            Err(error) => (Found::default(), Some(error)),
        };
        let (found, error) = answer;
        metrics.sockets_reset(found.destroyed);
        if let Some(error) = error {
            // A pod may end while it is looked at; then its sockets are gone too.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "sockets of gone backends may be left"
            );
        }
        tracing::debug!(backends, ?found, "sockets of gone backends reset");
    }
}
