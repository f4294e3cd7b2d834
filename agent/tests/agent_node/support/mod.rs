//! One node and its control plane. Dropping it removes every trace, whatever the test did.

mod image;
mod netns;

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use causeway_agent::{
    bpf,
    cgroup::{layout::Layout, tree::Cgroups},
};
use causeway_control::{config::Config, process};
use causeway_proto::{
    Resource,
    client::{Client, DeleteOptions},
    v1::{Node as ApiNode, Pod},
};
use clap::Parser as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::{image::write_layout, netns::Netns};

/// Bound of every wait: far beyond what anything here takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Name of every test's node.
pub const NODE: &str = "node-1";

/// Waits until `probe` answers something.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A control plane in this process, over a socket.
struct Control {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A node with its agent and control plane.
pub struct Node {
    pub directory: tempfile::TempDir,
    pub cluster: String,
    pub netns: Netns,
    pub client: Client,
    control: Option<Control>,
    agent: Option<Child>,
}

impl Node {
    /// A node whose agent and control plane run, and that is Ready.
    pub async fn start() -> Self {
        let mut node = Self::new();
        node.import();
        node.start_control().await;
        node.start_agent();
        node.ready().await;
        node
    }

    /// A node without processes.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new()
            .prefix("causeway-test-")
            .tempdir()
            .expect("a directory");
        let socket = directory.path().join("control.sock");
        Self {
            cluster: format!("agent-{}-{number}", std::process::id()),
            netns: Netns::new(),
            client: Client::connect(&format!("unix://{}", socket.display())).expect("a client"),
            control: None,
            agent: None,
            directory,
        }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The `run` command of this node's agent, in its namespace.
    pub fn command(&self) -> Command {
        self.command_with(None)
    }

    /// The same with another value of an option.
    pub fn command_with(&self, option: Option<[&str; 2]>) -> Command {
        let socket = format!("unix://{}", self.directory.path().join("control.sock").display());
        let state_dir = self.state_dir().display().to_string();
        let mut options = BTreeMap::from([
            ("--cluster", self.cluster.as_str()),
            ("--node-name", NODE),
            ("--uplink", "cw-up0"),
            ("--node-ip", "172.31.9.1"),
            ("--control", &socket),
            ("--state-dir", &state_dir),
            ("--heartbeat-interval", "1s"),
            ("--restart-backoff-base", "200ms"),
            ("--log", "info,causeway_agent=debug"),
            // Small maps: many of these nodes run at a time.
            ("--map-slots", "65536"),
            ("--map-services", "1024"),
            ("--map-backends", "1024"),
            ("--map-conntrack", "1024"),
            ("--map-conntrack-new", "1024"),
        ]);
        options.extend(option.map(|[name, value]| (name, value)));
        let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-agent"));
        command
            .arg("run")
            .args(options.into_iter().flat_map(|(name, value)| [name, value]));
        command.stdin(Stdio::null());
        self.netns.enter(&mut command);
        command
    }

    pub fn start_agent(&mut self) {
        self.start_agent_with(None);
    }

    /// Starts the agent with another value of an option.
    pub fn start_agent_with(&mut self, option: Option<[&str; 2]>) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("a log");
        let child = self
            .command_with(option)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the agent");
        self.agent = Some(child);
    }

    /// Ends the agent as a crash would.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("an agent");
        agent.kill().expect("an agent to kill");
        agent.wait().expect("its end");
    }

    /// Asks the agent to end; answers how long that took.
    pub fn stop_agent(&mut self) -> Duration {
        let mut agent = self.agent.take().expect("an agent");
        let begun = Instant::now();
        let pid = nix::unistd::Pid::from_raw(agent.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("an agent to stop");
        assert!(agent.wait().expect("its end").success());
        begun.elapsed()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("agent.log")
    }

    pub async fn start_control(&mut self) {
        let directory = self.directory.path();
        let socket = directory.join("control.sock");
        let config = Config::parse_from([
            "causeway-control".to_owned(),
            format!("--listen=unix:{}", socket.display()),
            format!("--data-dir={}", directory.join("control").display()),
        ]);
        let stop = CancellationToken::new();
        let running = process::run(config, stop.clone());
        let task = tokio::spawn(async move { running.await.expect("the control plane") });
        self.control = Some(Control { stop, task });
        let client = &self.client;
        wait_for("the control plane", || async {
            client
                .list::<ApiNode>(&causeway_proto::client::ListOptions::default())
                .await
                .ok()
        })
        .await;
    }

    pub async fn stop_control(&mut self) {
        let control = self.control.take().expect("a control plane");
        control.stop.cancel();
        control.task.await.expect("the end of the control plane");
    }

    /// Waits until the node is Ready.
    pub async fn ready(&self) -> ApiNode {
        let look = || async {
            let node: ApiNode = self.client.get("", NODE).await.ok()?;
            let conditions = &node.status.as_ref()?.conditions;
            conditions
                .iter()
                .any(|c| c.r#type == "Ready" && c.status == "True")
                .then_some(node)
        };
        wait_for("a ready node", look).await
    }

    /// Creates a pod on this node from the fields of its spec.
    pub async fn create(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = json!(NODE);
        let pod = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.client.create(pod).await.expect("a pod that is taken")
    }

    pub async fn pod(&self, name: &str) -> Option<Pod> {
        self.client.get("default", name).await.ok()
    }

    pub async fn delete(&self, name: &str, grace: i64) {
        let options = DeleteOptions {
            grace_period_seconds: Some(grace),
            ..DeleteOptions::default()
        };
        self.client
            .delete::<Pod>("default", name, &options)
            .await
            .expect("a pod to delete");
    }

    /// Waits until a pod satisfies `holds`.
    pub async fn wait_pod(&self, name: &str, what: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        wait_for(&format!("pod {name} {what}"), || async {
            self.pod(name).await.filter(|pod| holds(pod))
        })
        .await
    }

    pub async fn wait_ready(&self, name: &str) -> Pod {
        self.wait_pod(name, "to be ready", is_ready).await
    }

    /// Waits until a pod is gone from the API server and nothing of it is left here.
    pub async fn wait_gone(&self, pod: &Pod) {
        wait_for("the pod's end", || async {
            self.pod(&pod.meta().name).await.is_none().then_some(())
        })
        .await;
        wait_for("the end of its traces", || async {
            self.traces(&pod.meta().uid).is_empty().then_some(())
        })
        .await;
    }

    /// What is on this node of the pod with this uid.
    pub fn traces(&self, uid: &str) -> Vec<String> {
        let state = self.state_dir();
        let paths = [
            state.join("records").join(format!("{uid}.json")),
            state.join("pods").join(uid),
        ];
        let mut traces: Vec<_> = paths
            .iter()
            .filter(|path| path.exists())
            .map(|path| path.display().to_string())
            .collect();
        traces.extend(self.cgroups().pods().contains(uid).then(|| format!("cgroup of {uid}")));
        let link = causeway_agent::net::pod_link_name(uid);
        traces.extend(self.netns.links().into_iter().filter(|name| *name == link));
        traces
    }

    pub fn cgroups(&self) -> Cgroups {
        Cgroups::new(
            Layout::detect().expect("cgroups"),
            &format!("causeway/{}/{NODE}", self.cluster),
        )
    }

    /// Process ids in a container of a pod, oldest first.
    pub fn processes(&self, pod: &Pod, container: &str) -> Vec<i32> {
        let group = self
            .cgroups()
            .v2_path()
            .join(format!("pod-{}", pod.meta().uid))
            .join(container);
        let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Puts the busybox image into the node's store, by the agent's own command.
    pub fn import(&self) {
        let layout = self.directory.path().join("layout");
        write_layout(&layout);
        let output = Command::new(env!("CARGO_BIN_EXE_causeway-agent"))
            .args(["image", "import", "--ref", "busybox:test", "--state-dir"])
            .arg(self.state_dir())
            .arg(&layout)
            .output();
        let output = output.expect("the agent");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Reasons of the events about a pod.
    pub async fn reasons(&self, pod: &Pod) -> Vec<String> {
        let events = self
            .client
            .list::<causeway_proto::v1::Event>(&causeway_proto::client::ListOptions::default())
            .await
            .expect("events")
            .items;
        let about = |event: &causeway_proto::v1::Event| event.involved_object.as_ref().map(|about| about.uid.clone());
        let own = events
            .into_iter()
            .filter(|event| about(event).as_ref() == Some(&pod.meta().uid));
        own.map(|event| event.reason).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            drop(agent.kill());
            drop(agent.wait());
        }
        if let Some(control) = self.control.take() {
            control.stop.cancel();
        }
        if thread::panicking() {
            let log = fs::read_to_string(self.log_path()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "the agent's last words:\n{}",
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
        let cgroups = self.cgroups();
        for uid in cgroups.pods() {
            drop(cgroups.kill_pod(&uid));
            drop(cgroups.remove_pod(&uid));
        }
        cgroups.remove_node();
        let bpffs = Path::new("/sys/fs/bpf");
        drop(bpf::remove_pins(
            bpffs,
            &causeway_maps::pins::node_dir(bpffs, &self.cluster, NODE),
        ));
    }
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.r#type == "Ready" && condition.status == "True")
}

/// A pod's spec with one container that runs a shell script.
pub fn shell(script: &str) -> Value {
    json!({ "containers": [container("main", script)] })
}

/// A container that runs a shell script.
pub fn container(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": "busybox:test", "command": ["/bin/sh", "-c", script] })
}
