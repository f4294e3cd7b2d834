//! The agent's side: all sandboxes of one node.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::broadcast;

use super::{
    client::Client,
    error::{RemoveError, RuntimeError},
    files::{self, PodDir, at},
    holder::protocol::{Reply, Request, Start},
    remove, sandbox,
    spec::{ContainerSpec, ExecResult, ExecSpec, SandboxId, SandboxSpec},
    state::{ContainerState, SandboxState},
    watch::Watchers,
};
use crate::cgroup::{layout::Layout, tree::Cgroups};

/// Parameters of a node's runtime.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// State directory of the node; sandboxes live in `pods/` below it.
    pub state_dir: PathBuf,
    /// Path of the node's cgroup below every hierarchy's root ("causeway/dev/node-1").
    pub cgroup_parent: String,
    /// Executable that becomes a pod's holder: the agent's own (`/proc/self/exe`), unless a test says otherwise.
    pub holder_exe: PathBuf,
    /// A log file is rotated at this size.
    pub log_max_bytes: u64,
    /// Log files kept per container, the current one included.
    pub log_max_files: u32,
}

/// A sandbox that exists and whose holder is alive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sandbox {
    /// Pod uid.
    pub id: SandboxId,
    /// Process id of the holder.
    pub holder: u32,
    /// Whether this call made it (its network is still to be set up) or it was there already.
    pub created: bool,
}

impl Sandbox {
    /// Path through which the pod's network namespace is entered; valid while the holder lives.
    pub fn netns_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder))
    }
}

/// The sandboxes of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RuntimeConfig,
    cgroups: Cgroups,
    watchers: Watchers,
    /// Making, removing and starting in one sandbox exclude each other.
    locks: Mutex<HashMap<SandboxId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Runtime {
    /// Opens the runtime: makes its directories and the node's cgroups, clears what removals left half done, and begins to
    /// follow every live sandbox.
    pub async fn new(mut config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let (config, cgroups, live) = blocking(move || {
            std::fs::create_dir_all(&config.state_dir).map_err(at("make", &config.state_dir))?;
            config.state_dir = config.state_dir.canonicalize().map_err(at("find", &config.state_dir))?;
            if config.state_dir.to_string_lossy().contains([':', ',', '\\']) {
                return Err(RuntimeError::StateDir(config.state_dir));
            }
            let pods = config.pods();
            files::create_private_dir(&pods).map_err(at("make", &pods))?;
            remove::empty_trash(&config.trash()).map_err(at("empty", &config.trash()))?;
            let cgroups = Cgroups::new(Layout::detect()?, &config.cgroup_parent);
            cgroups
                .create_node()
                .map_err(|error| RuntimeError::NodeCgroup(Box::new(error)))?;
            for uid in cgroups.pods().iter().filter(|uid| !pods.join(uid).exists()) {
                let failures = remove::remove(&cgroups, uid, &PodDir(pods.join(uid)), &config.trash());
                for failure in failures {
                    tracing::warn!(pod.uid = %uid, %failure, "a removed pod's cgroup is still there");
                }
            }
            let live = files::entries(&pods)
                .into_iter()
                .map(PodDir)
                .filter(|dir| dir.holder().is_some());
            let live: Vec<_> = live.collect();
            Ok((config, cgroups, live))
        })
        .await?;
        let inner = Inner {
            config,
            cgroups,
            watchers: Watchers::new(),
            locks: Mutex::default(),
        };
        for dir in live {
            let id = SandboxId(dir.0.file_name().unwrap_or_default().to_string_lossy().into_owned());
            inner.watchers.follow(&id, &dir);
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes the sandbox of a pod: holder, namespaces, cgroups. One that exists is answered as it is (its files brought up to
    /// date); one whose holder has died gets a new holder, and its containers count as lost.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, RuntimeError> {
        sandbox::validate(&spec)?;
        let id = spec.id();
        let lock = self.inner.lock(&id);
        let _held = lock.lock().await;
        let dir = self.inner.dir(&id);
        let inner = Arc::clone(&self.inner);
        let there = {
            let dir = dir.clone();
            blocking(move || {
                sandbox::write_files(&dir, &spec)?;
                let there = dir.holder();
                if there.is_none() {
                    sandbox::prepare(&inner.config, &inner.cgroups, &dir, &spec)?;
                }
                Ok(there)
            })
            .await?
        };
        let holder = match there {
            Some(holder) => holder,
            None => sandbox::start_holder(&self.inner.config.holder_exe, &id, &dir).await?,
        };
        self.inner.watchers.follow(&id, &dir);
        Ok(Sandbox {
            id,
            holder,
            created: there.is_none(),
        })
    }

    /// Every sandbox on this node, half-made and dead ones included.
    pub async fn sandboxes(&self) -> Result<Vec<SandboxState>, RuntimeError> {
        let pods = self.inner.config.pods();
        let mut states = blocking(move || {
            files::entries(&pods)
                .into_iter()
                .map(|path| look(&PodDir(path)))
                .collect::<Result<Vec<_>, _>>()
        })
        .await?;
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(states)
    }

    /// One sandbox, if there is one.
    pub async fn sandbox(&self, id: &SandboxId) -> Result<Option<SandboxState>, RuntimeError> {
        let dir = self.inner.dir(id);
        blocking(move || if dir.0.exists() { look(&dir).map(Some) } else { Ok(None) }).await
    }

    /// Starts a container and returns once its program is executed. Starting the same name and attempt again answers its
    /// state.
    ///
    /// # Errors
    /// [`RuntimeError::Start`] says what kept the program from being executed; the attempt is then on record as exited.
    pub async fn start_container(&self, id: &SandboxId, spec: ContainerSpec) -> Result<ContainerState, RuntimeError> {
        if !files::safe_name(&spec.name) {
            let problem = format!("\"{}\" cannot be a container's name", spec.name);
            return Err(RuntimeError::Invalid {
                id: id.clone(),
                problem,
            });
        }
        let lock = self.inner.lock(id);
        let _held = lock.lock().await;
        let dir = self.inner.live(id)?;
        let (name, attempt) = (spec.name.clone(), spec.attempt);
        let start = {
            let (inner, id) = (Arc::clone(&self.inner), id.clone());
            blocking(move || {
                let leaf = inner.cgroups.create_leaf(&id.0, &spec.name, &spec.resources);
                let leaf = leaf.map_err(|source| RuntimeError::Cgroup {
                    id,
                    source: Box::new(source),
                })?;
                Ok(Start {
                    spec,
                    procs: leaf.procs,
                    oom: leaf.oom,
                })
            })
            .await?
        };
        let reply = self.inner.ask(id, &name, &Request::Start(Box::new(start))).await?;
        let log_files = self.inner.config.log_max_files;
        let pruned = blocking(move || {
            remove::prune(&dir, &name, attempt, log_files).map_err(at("remove old attempts in", &dir.containers()))
        });
        if let Err(error) = pruned.await {
            tracing::warn!(pod.uid = %id, failure = remove::chain(&error), "old attempts stay on disk");
        }
        match reply {
            Reply::Container(state) => Ok(*state),
            other => Err(unexpected(id, &other)),
        }
    }

    /// Asks the container to end (SIGTERM), kills it after `grace`, and answers its state once it has ended. What goes on
    /// in the holder goes on when this future is dropped.
    pub async fn stop_container(
        &self,
        id: &SandboxId,
        name: &str,
        grace: Duration,
    ) -> Result<ContainerState, RuntimeError> {
        match self
            .inner
            .ask(
                id,
                name,
                &Request::Stop {
                    container: name.to_owned(),
                    grace,
                },
            )
            .await?
        {
            Reply::Container(state) => Ok(*state),
            other => Err(unexpected(id, &other)),
        }
    }

    /// Sends a signal to the container's first process.
    pub async fn signal(&self, id: &SandboxId, name: &str, signal: i32) -> Result<(), RuntimeError> {
        match self
            .inner
            .ask(
                id,
                name,
                &Request::Signal {
                    container: name.to_owned(),
                    signal,
                },
            )
            .await?
        {
            Reply::Done => Ok(()),
            other => Err(unexpected(id, &other)),
        }
    }

    /// Runs a command in a running container with the container's own user, privileges and limits. Dropping this future kills
    /// the command.
    pub async fn exec(&self, id: &SandboxId, name: &str, spec: ExecSpec) -> Result<ExecResult, RuntimeError> {
        match self
            .inner
            .ask(
                id,
                name,
                &Request::Exec {
                    container: name.to_owned(),
                    spec,
                },
            )
            .await?
        {
            Reply::Exec(result) => Ok(result),
            other => Err(unexpected(id, &other)),
        }
    }

    /// Kills everything in the sandbox and removes its processes, cgroups and files. Goes on after an error and reports all
    /// of them; doing it again, or for a sandbox that never was, is fine.
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RemoveError> {
        let refuse = |failure: String| RemoveError {
            id: id.clone(),
            failures: vec![failure],
        };
        if !files::safe_name(&id.0) {
            return Err(refuse("its uid cannot be a file name".to_owned()));
        }
        let lock = self.inner.lock(id);
        let _held = lock.lock().await;
        self.inner.watchers.forget(id);
        let (inner, uid) = (Arc::clone(&self.inner), id.clone());
        let removed = blocking(move || {
            let dir = inner.dir(&uid);
            Ok(remove::remove(&inner.cgroups, &uid.0, &dir, &inner.config.trash()))
        });
        let failures = removed.await.map_err(|error| refuse(remove::chain(&error)))?;
        self.inner.watchers.announce(id);
        if !failures.is_empty() {
            return Err(RemoveError {
                id: id.clone(),
                failures,
            });
        }
        self.inner
            .locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        Ok(())
    }

    /// Told the id of a sandbox whenever something in it changed: a container began or ended, the holder died. A receiver that
    /// lags loses ids and must look at all.
    pub fn changes(&self) -> broadcast::Receiver<SandboxId> {
        self.inner.watchers.subscribe()
    }

    /// The log of a container, in the CRI format; rotated ones have `.1`, `.2`… appended.
    pub fn log_path(&self, id: &SandboxId, name: &str, attempt: u32) -> PathBuf {
        self.inner.dir(id).log(name, attempt)
    }

    /// The node's subtree of the cgroup v2 tree, which exists: BPF cgroup hooks are attached here.
    pub fn cgroup_v2_path(&self) -> PathBuf {
        self.inner.cgroups.v2_path()
    }
}

impl RuntimeConfig {
    fn pods(&self) -> PathBuf {
        self.state_dir.join("pods")
    }

    fn trash(&self) -> PathBuf {
        self.state_dir.join("pods-removed")
    }
}

impl Inner {
    fn dir(&self, id: &SandboxId) -> PodDir {
        PodDir(self.config.pods().join(&id.0))
    }

    /// The directory of a sandbox whose holder lives.
    fn live(&self, id: &SandboxId) -> Result<PodDir, RuntimeError> {
        let dir = self.dir(id);
        if files::safe_name(&id.0) && dir.holder().is_some() {
            Ok(dir)
        } else {
            Err(RuntimeError::NoSandbox(id.clone()))
        }
    }

    fn lock(&self, id: &SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(id.clone()).or_default())
    }

    /// Asks the holder for something about a container.
    async fn ask(&self, id: &SandboxId, name: &str, request: &Request) -> Result<Reply, RuntimeError> {
        let talk = |source| RuntimeError::Talk { id: id.clone(), source };
        let mut client = Client::connect(&self.live(id)?).await.map_err(talk)?;
        let container = name.to_owned();
        match client.ask(request).await.map_err(talk)? {
            Reply::NoContainer => Err(RuntimeError::NoContainer {
                id: id.clone(),
                container,
            }),
            Reply::NotRunning => Err(RuntimeError::NotRunning {
                id: id.clone(),
                container,
            }),
            Reply::StartFailed(problem) => Err(RuntimeError::Start { problem }),
            Reply::Refused(problem) => Err(RuntimeError::Refused {
                id: id.clone(),
                problem,
            }),
            reply => Ok(reply),
        }
    }
}

fn unexpected(id: &SandboxId, reply: &Reply) -> RuntimeError {
    RuntimeError::Refused {
        id: id.clone(),
        problem: format!("unexpected answer {reply:?}"),
    }
}

/// A sandbox as it is on disk.
fn look(dir: &PodDir) -> Result<SandboxState, RuntimeError> {
    let id = SandboxId(dir.0.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let spec = files::read_json(&dir.spec()).map_err(at("read", &dir.spec()))?;
    let holder = dir.holder();
    // Once the holder is dead nobody changes the records any more; while it lives, they are its own.
    let containers = if holder.is_some() {
        dir.records()
    } else {
        sandbox::settle_lost(dir)?
    };
    Ok(SandboxState {
        id,
        spec,
        holder,
        containers,
    })
}

/// Runs blocking work off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(RuntimeError::Cancelled))
}
